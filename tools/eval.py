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
    answers = parser.add_argument_group("answers")
    answers.add_argument("--tta", choices=("flip", "ten_crop"), help="average the probabilities of several views")
    answers.add_argument(
        "--subset",
        action="store_true",
        help="the data have only some of the classes, by name, WordNet id or number (ImageNet-A, -R, -V2); "
        "-o data.train=. -o data.val=. takes a whole folder",
    )
    answers.add_argument("--real", metavar="FILE", help="real.json: also the accuracy on ImageNet's reassessed labels")
    answers.add_argument("--per-class", action="store_true", help="pictures, precision, recall and F1 of every class")
    answers.add_argument("--confusion", type=Path, metavar="FILE", help="write the confusion matrix: .csv or .png")
    features = parser.add_argument_group("features, in place of answers")
    features.add_argument("--features", type=Path, metavar="FILE", help="write features and labels as .npz")
    features.add_argument(
        "--knn",
        type=int,
        nargs="?",
        const=20,
        metavar="K",
        help="weighted vote of the K (20) nearest training pictures",
    )
    features.add_argument("--linear-probe", action="store_true", help="train a linear classifier on the features")
    return parser.parse_args(argv)


def find_config(args: argparse.Namespace) -> Path:
    """The configuration given, the source itself, or the one in a run's folder or beside its checkpoint."""
    source = Path(args.config or args.source)
    if args.config or source.suffix in (".yaml", ".yml"):
        return source
    config = (source.parent if source.is_file() else source) / "config.yaml"
    if config.is_file():
        return config
    raise ValueError(f"{source} has no config.yaml that says which data to evaluate on; give one with -c.")


def check(args: argparse.Namespace, task: str) -> tuple[list[str], list[str]]:
    """The options that are given of each kind; ValueError for those that do not go together."""
    given = {f"--{name.replace('_', '-')}": value for name, value in vars(args).items() if value not in (None, False)}
    answers = [name for name in ("--tta", "--subset", "--real", "--per-class", "--confusion") if name in given]
    features = [name for name in ("--features", "--knn", "--linear-probe") if name in given]
    if answers and features:
        raise ValueError(f"{answers[0]} is about answers and {features[0]} about features; run them one after another.")
    if args.subset and args.real:
        raise ValueError("--real has labels for all classes and goes without --subset.")
    if args.knn is not None and args.knn < 1:
        raise ValueError(f"--knn is {args.knn}; at least 1 neighbour must vote.")
    if task != "classes" and (answers or features):
        raise ValueError(f"{(answers + features)[0]} needs one class per picture; data.task is {task}.")
    return answers, features


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import runtime
    from paddlevit.config import load_config

    config = load_config(find_config(args), args.override)
    answers, features = check(args, config.data.task)
    runtime.prepare(config.run.threads)

    from paddlevit.data import build_datasets
    from paddlevit.inference import evaluate, feature_scores
    from paddlevit.inference.source import open_classifier

    runtime.pick_device(config.run.device)
    classifier = open_classifier(args.source, args.ema)
    train_set, val_set = build_datasets(config, classifier.preprocessing, config.run.seed)
    if features:
        report = feature_scores.report(
            config, classifier, train_set, val_set, args.features, args.knn, args.linear_probe
        )
    elif answers:
        options = evaluate.AnswerOptions(args.tta, args.subset, args.real, args.per_class, args.confusion)
        report = evaluate.report(config, classifier, val_set, options)
    else:
        batches = evaluate.build_batches(config, classifier, val_set)
        scores = evaluate.evaluate_classifier(classifier, batches, val_set.class_names, config.data.task)
        report = evaluate.format_scores(len(val_set), scores)
    print(report)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
