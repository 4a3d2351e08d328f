"""Evaluate on the validation data: python tools/eval.py output/vit_digits"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a run, a checkpoint, a config with weights or an export.")
    parser.add_argument("source", help="folder of a run, checkpoint, config with model.weights, or exported folder")
    parser.add_argument("-c", "--config", help="YAML whose data is evaluated on (default: the run's own)")
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one key"
    )
    parser.add_argument("--ema", action="store_true", help="use the averaged weights of a checkpoint")
    return parser.parse_args(argv)


def find_config(args: argparse.Namespace) -> Path:
    """The configuration given, or the one that lies beside the source."""
    source = Path(args.source)
    candidates = [Path(args.config)] if args.config else [source, source / "config.yaml", source.parent / "config.yaml"]
    for candidate in candidates:
        if candidate.suffix in (".yaml", ".yml"):
            return candidate
    raise ValueError(f"{source} has no config.yaml that says which data to evaluate on; give one with -c.")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import runtime
    from paddlevit.config import load_config

    config = load_config(find_config(args), args.override)
    runtime.prepare(config.run.threads)

    from paddlevit.data import build_datasets
    from paddlevit.inference.evaluate import evaluate_classifier
    from paddlevit.inference.source import open_classifier
    from paddlevit.training import build_eval_loader

    runtime.pick_device(config.run.device)
    classifier = open_classifier(args.source, args.ema)
    _, val_set = build_datasets(config, classifier.preprocessing, config.run.seed)
    scores = evaluate_classifier(classifier, build_eval_loader(config, val_set), val_set.class_names)
    print(f"{len(val_set)} pictures  loss {scores['loss']:.4f}", end="  ")
    print(f"top1 {100 * scores['top1']:.2f} %  top5 {100 * scores['top5']:.2f} %")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
