"""Measure this library beside others, in turn: python tools/benchmark.py settings|data|load|train|infer"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Our sides and those of the peers that are installed, in turn.")
    commands = parser.add_subparsers(dest="command", required=True)
    settings = commands.add_parser("settings", help="a plain start beside hand-tuned environments")
    data = commands.add_parser("data", help="decoding, augmentation, batches")
    data.add_argument("--wait", action="store_true", help="instead: how long a ViT-S/16 in training waits for data")
    load = commands.add_parser("load", help="weights from a safetensors file: seconds and peak memory")
    load.add_argument("--model", default="vit_large_patch16_224")
    train = commands.add_parser("train", help="training steps")
    train.add_argument("--case", default="vit_tiny", help="vit_tiny, vit_small or vit_32 (default vit_tiny)")
    train.add_argument("--model", help="another model than the case's, at its own image size")
    train.add_argument("--batch", type=int, help="another batch size than the case's")
    infer = commands.add_parser("infer", help="latency, throughput, cold start")
    infer.add_argument("--model", default="vit_base_patch16_224")
    infer.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    infer.add_argument("--precision", default="fp32", help="fp32, bf16 or int8 (default fp32)")
    for command in (settings, data, load, train, infer):
        command.add_argument("--rounds", type=int, default=5, help="how often each side is measured (default 5)")
    for command in (load, train, infer):
        command.add_argument("--torch-python", help="Python that has torch and timm (default: this one)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.command == "settings":
        from paddlevit.benchmarks import settings

        print(settings.report(settings.run(args.rounds)))
    elif args.command == "data" and args.wait:
        from paddlevit import runtime

        runtime.prepare()

        from paddlevit.benchmarks import data_wait

        runtime.pick_device("auto")
        print(data_wait.report(data_wait.run(steps=2 * args.rounds)))
    elif args.command == "data":
        from paddlevit.benchmarks import data

        print(data.report(data.run(rounds=args.rounds)))
    elif args.command == "load":
        from paddlevit.benchmarks import load

        peers = {"torch_python": args.torch_python} if args.torch_python else {}
        print(load.report(args.model, load.run(args.model, args.rounds, **peers)))
    elif args.command == "train":
        from paddlevit.benchmarks import train

        peers = {"torch_python": args.torch_python} if args.torch_python else {}
        case = train.pick_case(args.case, args.model, args.batch)
        print(train.report(case, train.run(case, args.rounds, **peers)))
    else:
        from paddlevit.benchmarks import infer

        peers = {"torch_python": args.torch_python} if args.torch_python else {}
        results = infer.run(args.model, args.batches, args.rounds, args.precision, **peers)
        print(infer.report(args.model, args.precision, results))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
