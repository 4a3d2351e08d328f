"""Measure this library beside others, in turn: python tools/benchmark.py settings|data|train|infer"""

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
    train = commands.add_parser("train", help="training steps")
    train.add_argument("--case", default="vit_tiny", help="vit_tiny, vit_small or vit_32")
    infer = commands.add_parser("infer", help="latency, throughput, cold start")
    infer.add_argument("--model", default="vit_base_patch16_224")
    infer.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    infer.add_argument("--precision", default="fp32")
    for command in (settings, data, train, infer):
        command.add_argument("--rounds", type=int, default=5, help="how often each side is measured (default 5)")
    for command in (train, infer):
        command.add_argument("--torch-python", help="Python that has torch and timm (default: this one)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.command == "settings":
        from paddlevit.benchmarks import settings

        print(settings.report(settings.run(args.rounds)))
    elif args.command == "data":
        from paddlevit.benchmarks import data

        print(data.report(data.run(rounds=args.rounds)))
    elif args.command == "train":
        from paddlevit.benchmarks import train

        peers = {"torch_python": args.torch_python} if args.torch_python else {}
        print(train.report(args.case, train.run(args.case, args.rounds, **peers)))
    else:
        from paddlevit.benchmarks import infer

        peers = {"torch_python": args.torch_python} if args.torch_python else {}
        print(infer.report(args.model, infer.run(args.model, args.batches, args.rounds, args.precision, **peers)))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
