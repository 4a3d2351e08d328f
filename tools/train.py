"""Train a model: python tools/train.py -c configs/vit_digits.yaml"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a Vision Transformer as a configuration says.")
    parser.add_argument("-c", "--config", help="YAML file, for example configs/vit_digits.yaml")
    parser.add_argument(
        "-o", "--override", action="append", default=[], metavar="SECTION.KEY=VALUE", help="change one key"
    )
    parser.add_argument("--resume", metavar="RUN", help="go on with the run of this folder")
    parser.add_argument(
        "--fast-dev-run",
        action="store_true",
        help="two steps of everything on generated pictures, to see that the configuration runs",
    )
    args = parser.parse_args(argv)
    if bool(args.config) == bool(args.resume):
        parser.error("give either -c CONFIG, or --resume RUN")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    from paddlevit import runtime
    from paddlevit.config import load_config

    source = Path(args.config) if args.config else Path(args.resume) / "config.yaml"
    if args.resume and any(override.partition("=")[0].strip() == "run.output" for override in args.override):
        raise ValueError(f"--resume goes on in {args.resume}; leave out -o run.output, or resume a copy of the folder.")
    config = load_config(source, args.override)
    runtime.prepare(config.run.threads)

    from paddlevit import training
    from paddlevit.data import build_datasets
    from paddlevit.data.check import check_at_start

    runtime.pick_device(config.run.device)
    training.open_log()
    if args.fast_dev_run:
        from paddlevit.dev_run import fast_dev_run

        fast_dev_run(config)
        return 0

    training.seed_everything(config.run.seed)
    preprocessing = training.resolve_preprocessing(config)
    config = training.resolved(config, preprocessing)
    train_set, val_set = build_datasets(config, preprocessing, config.run.seed, str(source))
    check_at_start(train_set, val_set, config.data.timeout)
    network = training.build_network(config, train_set.class_names, preprocessing, load=not args.resume)
    sampler, train_loader = training.build_train_loader(config, train_set)
    val_loader = training.build_eval_loader(config, val_set)
    teacher = None
    if config.distill.teacher:
        from paddlevit.inference.source import open_classifier

        teacher = training.Teacher(open_classifier(config.distill.teacher), preprocessing, train_set.class_names)

    folder = training.RunFolder(args.resume or config.run.output or Path("output") / source.stem)
    trainer = training.build_trainer(config, network, len(sampler), train_set.labels, teacher)
    recorder = training.Recorder(folder, config, sampler, val_loader, train_set.class_names)
    first_process = trainer.rank == 0
    if args.resume:
        recorder.resume(trainer)
    if first_process:
        if args.resume:
            folder.write_config(config)
        else:
            folder.start(config)
        folder.log_to_file()
        recorder.on_row = training.build_tracker(config, folder)
    console = training.Console(config.run.log_every, config.schedule.total_epochs)
    try:
        training.fit(trainer, train_loader, recorder, console)
    except training.Interrupted as interruption:
        print(interruption)
        return 130
    if first_process:
        print(training.finish(trainer, recorder, config, train_set, val_set))
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
    from paddlevit.cli import run

    run(main)
