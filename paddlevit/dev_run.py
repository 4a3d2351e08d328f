"""Two steps of everything, so that anyone can see that a configuration runs before the data is there."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

import paddle

from paddlevit import runtime, training
from paddlevit.config import Config
from paddlevit.data import build_datasets
from paddlevit.inference import export_model
from paddlevit.models import get_spec
from paddlevit.training.console import duration
from paddlevit.training.run_folder import LOGGER

STEPS = 2
IMAGENET_TRAIN = 1_281_167
IMAGENET_CLASSES = 1000


class _Timed(training.Console):
    """Keeps the time of each training batch; the first is warm-up."""

    def on_train_batch_begin(self, step: int, logs: dict | None = None) -> None:
        self.began = time.monotonic()

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        self.seconds = time.monotonic() - self.began


def fast_dev_run(config: Config) -> None:
    """Train, evaluate, save and export on generated pictures of the configuration's true shapes.

    Everything goes to a temporary folder that is removed. Weights are not read and a teacher answers at random, so
    that neither file has to be there.

    Args:
        config: Its data is replaced by generated pictures; model, batch size, optimizer and augmentation are its own.
    """
    short = shortened(config)
    preprocessing = training.resolve_preprocessing(short)
    training.seed_everything(short.run.seed)
    train_set, val_set = build_datasets(short, preprocessing, short.run.seed)
    network = training.build_network(short, train_set.class_names, preprocessing)
    sampler, train_loader = training.build_train_loader(short, train_set)
    val_loader = training.build_eval_loader(short, val_set)
    teacher = None
    if short.distill.teacher:
        teacher = lambda images: paddle.randn([images.shape[0], len(train_set.class_names)])  # noqa: E731
    trainer = training.build_trainer(short, network, len(sampler), train_set.labels, teacher)
    console = _Timed(short.run.log_every, 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = training.RunFolder(Path(temporary) / "run")
        folder.start(short)
        training.fit(
            trainer, train_loader, training.Recorder(folder, short, sampler, val_loader, train_set.class_names), console
        )
        LOGGER.info("%d steps of %d pictures trained, evaluated and saved.", STEPS, short.data.batch_size)
        report = export_model(network, Path(temporary) / "export", class_names=train_set.class_names)
        LOGGER.info("Exported; largest difference to the network %.1e.", report.largest_difference)
    _estimate(config, console.seconds)


def shortened(config: Config) -> Config:
    """The configuration with generated pictures for two steps in place of its data and files."""
    classes = config.model.num_classes or get_spec(config.model.name).options.get("num_classes") or IMAGENET_CLASSES
    batch_size, eval_batch_size = config.data.batch_size, config.data.eval_batch_size or config.data.batch_size
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, num_classes=classes, weights=None),
        data=dataclasses.replace(
            config.data, dataset="fake", fake_train=STEPS * batch_size, fake_val=STEPS * eval_batch_size
        ),
        train=dataclasses.replace(config.train, accumulate=min(config.train.accumulate, STEPS)),
        schedule=dataclasses.replace(config.schedule, epochs=1, warmup_epochs=0.0, cooldown_epochs=0),
    )


def _estimate(config: Config, seconds: float) -> None:
    memory = runtime.peak_memory()
    peak = "unknown on this system" if memory is None else f"{memory / 2**30:.1f} GiB"
    steps = IMAGENET_TRAIN // config.data.batch_size
    total = seconds * steps * config.schedule.total_epochs
    LOGGER.info("Peak memory %s. One step takes %.1f s.", peak, seconds)
    LOGGER.info(
        "On this machine %d epochs of ImageNet-1k (%s pictures) would take about %s.",
        config.schedule.total_epochs,
        f"{IMAGENET_TRAIN:,}",
        duration(total),
    )
