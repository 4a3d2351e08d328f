"""Export a network for deployment: python tools/export.py output/vit_digits -o exported"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Export a network, run the export, and compare it with the network.")
    parser.add_argument("source", help="a run's folder, a checkpoint, a configuration (.yaml) or a model's name")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="what to write")
    parser.add_argument(
        "--format",
        choices=("paddle", "onnx", "both"),
        default="paddle",
        help="graph for Paddle (default), or for ONNX Runtime and OpenVINO",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16", "int8"),
        default="fp32",
        help="what it is computed in (default fp32); int8 needs --format onnx and --calibration",
    )
    parser.add_argument(
        "--calibration",
        nargs="+",
        metavar="PICTURES",
        help="files, folders or patterns: int8 learns from them, and the agreement of bf16, fp16 and int8 with the "
        "network is measured on them",
    )
    parser.add_argument(
        "--calibration-count", type=int, default=128, metavar="N", help="at most so many of these (default 128)"
    )
    parser.add_argument("--dynamic-size", action="store_true", help="take pictures of any multiple of the patches")
    parser.add_argument(
        "--with-preprocess", action="store_true", help="take bytes [B, H, W, C]; resize, crop, normalise in the graph"
    )
    parser.add_argument("--softmax", action="store_true", help="give probabilities in place of logits")
    parser.add_argument("--features", action="store_true", help="give the vector that is classified, too")
    parser.add_argument("--attention", action="store_true", help="give a map of the last attention, too")
    parser.add_argument("--class-names", type=Path, metavar="FILE", help="names of the outputs, one on a line")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of the run")
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu or gpu:N (default auto)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import cli, runtime

    stdout = cli.claim_stdout()
    runtime.prepare(args.threads)

    from paddlevit.inference import export_model, read_info
    from paddlevit.inference.calibration import read_calibration
    from paddlevit.inference.parity import describe
    from paddlevit.inference.source import open_network

    runtime.pick_device(args.device)
    network = open_network(args.source, args.ema, fresh=True)
    if not hasattr(network, "class_names"):
        print(f"{args.source} names no weights: this exports a network that knows nothing yet.", file=sys.stderr)
    calibration = None
    if args.calibration:
        calibration = read_calibration(args.calibration, network.preprocessing, args.calibration_count)
    names = None
    if args.class_names:
        lines = args.class_names.read_text("utf-8-sig").splitlines()
        names = [line.strip() for line in lines if line.strip()]
    report = export_model(
        network,
        args.output,
        class_names=names,
        format=args.format,
        dynamic_size=args.dynamic_size,
        precision=args.precision,
        with_preprocess=args.with_preprocess,
        features=args.features,
        attention=args.attention,
        softmax=args.softmax,
        calibration=calibration,
    )
    print(describe(report, read_info(report.folder)), file=stdout, flush=True)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
