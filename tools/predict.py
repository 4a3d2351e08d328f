"""Predict for pictures: python tools/predict.py output/vit_digits photo.png more/*.png"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Predict with a run, a checkpoint, a config or an export.")
    parser.add_argument("source", help="folder of a run, checkpoint, config with model.weights, or exported folder")
    parser.add_argument("images", nargs="+", help="pictures, folders or patterns such as 'photos/**/*.jpg'")
    parser.add_argument("--topk", type=int, default=5, help="classes per picture (default 5), not of a regression")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="json writes lines")
    parser.add_argument("--output", type=Path, help="write to this file instead of the console")
    parser.add_argument("--resume", action="store_true", help="with --output: skip the pictures it already answers")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds that a file may take (300; 0: any time)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--device", default="auto", help="auto, cpu, gpu or gpu:N")
    parser.add_argument("--ema", action="store_true", help="use the averaged weights of a checkpoint")
    args = parser.parse_args(argv)
    if args.resume and (args.output is None or args.format == "table"):
        parser.error("--resume needs --output FILE and --format csv or json")
    if args.topk < 1 or args.batch_size < 1 or args.timeout < 0:
        parser.error("--topk and --batch-size must be at least 1, --timeout at least 0")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import cli, runtime

    runtime.prepare(args.threads)

    from paddlevit.data.finding import find_images
    from paddlevit.inference.source import open_classifier
    from paddlevit.inference.stream import Writer, answered_paths, predict_stream

    runtime.pick_device(args.device)
    classifier = open_classifier(args.source, args.ema)
    if len(classifier.class_names) <= (classifier.task == "classes"):
        raise ValueError(f"{args.source} gives features or one number, not classes; use paddlevit.Predictor.outputs.")
    done = answered_paths(args.output, args.format, classifier.task) if args.resume else set()
    paths = (path for path in find_images(args.images) if str(path) not in done)
    failed = total = 0
    with contextlib.ExitStack() as stack:
        file = cli.claim_stdout()
        if args.output:
            mode = "a" if args.resume else "w"
            file = stack.enter_context(args.output.open(mode, encoding="utf-8", errors="surrogateescape"))
        writer = Writer(file, args.format, classifier.task, header=not done)
        try:
            workers = runtime.cpu_count()
            for answer in predict_stream(classifier, paths, args.topk, args.batch_size, workers, args.timeout):
                writer.write(answer)
                total += 1
                failed += bool(answer.error)
        except KeyboardInterrupt:
            if args.output and args.format != "table":
                file.flush()
                answered = len(answered_paths(args.output, args.format, classifier.task))
                print(f"\n{answered} pictures are answered in {args.output}; --resume goes on.", file=sys.stderr)
            return 130
    if failed:
        print(f"{failed} of {total} pictures could not be classified.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
