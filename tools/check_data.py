"""Look at the data of a configuration before training: python tools/check_data.py -c configs/vit_digits.yaml"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Count, read and compare all pictures, and draw what the network will see. Exit code 1: problems."
    )
    parser.add_argument("-c", "--config", required=True, help="YAML file, for example configs/vit_digits.yaml")
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one key"
    )
    parser.add_argument("--quick", action="store_true", help="read only 32 pictures of each part")
    parser.add_argument("--sheet", type=Path, help="PNG to draw (default output/CONFIG/contact_sheet.png)")
    parser.add_argument("--pictures", type=int, default=32, help="pictures on the sheet (default 32)")
    parser.add_argument("--workers", type=int, help="threads that read (default: all cores)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import runtime
    from paddlevit.config import load_config

    config = load_config(args.config, args.override)
    runtime.prepare()

    from tqdm import tqdm

    from paddlevit.data import ImageDataset, build_datasets, build_mixing
    from paddlevit.data.check import check_sources, format_report, quick_check
    from paddlevit.data.sheet import contact_sheet
    from paddlevit.training import resolve_preprocessing

    runtime.pick_device("cpu")
    preprocessing = resolve_preprocessing(config)
    train, val = build_datasets(config, preprocessing, config.run.seed, args.config)
    if args.quick:
        problems = quick_check(train.source, val.source, config.data.timeout)
        print("\n".join(f"problem: {line}" for line in problems) or "no problems found")
    else:
        workers = args.workers or runtime.cpu_count()
        report = check_sources(
            train.source, val.source, workers, lambda chunks: tqdm(chunks, disable=None), config.data.timeout
        )
        problems = report.problems
        print(format_report(report))
    sheet = args.sheet or Path("output") / Path(args.config).stem / "contact_sheet.png"
    mixing = build_mixing(config.augment, train.num_classes, config.train.label_smoothing)
    readable = ImageDataset(train.source, train.transform, config.run.seed, bad_image="skip")
    contact_sheet(readable, sheet, mixing, args.pictures)
    print(f"contact sheet: {sheet}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
