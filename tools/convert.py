"""Weights of any origin under other names: python tools/convert.py swin_tiny.pth swin_tiny.pdparams --to paddlevit"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write weights under the names of paddlevit, timm or Hugging Face.")
    parser.add_argument("source", metavar="SRC", help=".safetensors, .pth, .bin, .npz, .pdparams, or a run's folder")
    parser.add_argument("destination", metavar="DST", help=".safetensors, or .pdparams with --to paddlevit")
    parser.add_argument("--to", required=True, choices=("paddlevit", "timm", "hf"), help="whose names to write")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--ema", action="store_true", default=None, help="take the averaged weights of the file")
    which.add_argument("--raw", dest="ema", action="store_false", help="take the raw weights of the file")
    parser.add_argument("--allow-unused", metavar="PATTERN", action="append", default=[], help="names to leave out")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import runtime

    runtime.prepare()

    from paddlevit.weights import convert

    print(convert(args.source, args.destination, args.to, args.ema, args.allow_unused))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
