"""Export a network for deployment: python tools/export.py output/vit_digits -o exported"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Export a network, and compare the export with it.")
    parser.add_argument("source", help="a run's folder, a checkpoint, a configuration (.yaml) or a model's name")
    parser.add_argument("-o", "--output", required=True, metavar="FOLDER", help="what to write")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights of the run")
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu or gpu:N (default auto)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import runtime

    runtime.prepare(args.threads)

    from paddlevit.inference import export_model
    from paddlevit.inference.source import open_network

    runtime.pick_device(args.device)
    network = open_network(args.source, args.ema, fresh=True)
    if not hasattr(network, "class_names"):
        print(f"{args.source} names no weights: this exports a network that knows nothing yet.", file=sys.stderr)
    report = export_model(network, args.output)
    print(
        f"{report.folder}: largest difference from the network {report.largest_difference:.2e}"
        f" ({report.relative_difference:.2e} of the largest logit)."
    )
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
