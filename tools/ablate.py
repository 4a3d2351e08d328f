"""Measure what the articles claim about a ViT's parts: python tools/ablate.py --seeds 5"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train every choice that the articles discuss with several seeds, and write one table."
        " Started again, it goes on where it stopped."
    )
    parser.add_argument("-c", "--config", default="configs/vit_digits.yaml", help="what is varied (%(default)s)")
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one key in all runs"
    )
    parser.add_argument("--seeds", type=int, default=5, help="trainings per choice (default 5)")
    parser.add_argument("--epochs", type=int, help="length of each training (default: the configuration's)")
    parser.add_argument(
        "--output", type=Path, default=Path("output/ablation"), help="folder of results.jsonl and table.md"
    )
    args = parser.parse_args(argv)
    if args.seeds < 1 or (args.epochs is not None and args.epochs < 1):
        parser.error("--seeds and --epochs must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import runtime
    from paddlevit.config import load_config

    run = load_config(args.config, args.override).run
    runtime.prepare(run.threads)

    from paddlevit import ablation, training

    runtime.pick_device(run.device)
    results = []
    try:
        for number, total, result in ablation.ablate(
            args.config, args.seeds, args.output / "results.jsonl", args.epochs, args.override
        ):
            results.append(result)
            end = result.failure or f"{100 * result.final:.2f} %"
            print(
                f"{number}/{total}  seed {result.seed}  {' '.join(result.overrides) or 'unchanged'}: {end}", flush=True
            )
    except training.Interrupted:
        print(f"Stopped. {len(results)} trainings are in {args.output}; the same command goes on.")
        return 130
    table = ablation.format_table(results)
    (args.output / "table.md").write_text(f"{table}\n", encoding="utf-8")
    print(f"\n{table}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
