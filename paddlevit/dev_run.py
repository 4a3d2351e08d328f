"""Two steps of everything, so that anyone can see that a configuration runs before the data is there."""

from __future__ import annotations

import dataclasses
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paddle

from paddlevit import runtime, training
from paddlevit.config import Config
from paddlevit.data import build_datasets
from paddlevit.data.build import FAKE_CLASSES
from paddlevit.data.splits import data_root, read_class_names
from paddlevit.inference import export_model
from paddlevit.models import get_spec
from paddlevit.training.console import duration
from paddlevit.training.run_folder import LOGGER

STEPS = 2
CLASSES = {
    "imagenet": 1000,
    "cifar10": 10,
    "cifar100": 100,
    "mnist": 10,
    "fashion_mnist": 10,
    "flowers102": 102,
    "digits": 10,
    "fake": FAKE_CLASSES,
}
"""Classes of the data whose number is known without them."""
TRAINING_DATA = {
    "imagenet": ("ImageNet-1k", 1_281_167),
    "cifar10": ("CIFAR-10", 50_000),
    "cifar100": ("CIFAR-100", 50_000),
    "mnist": ("MNIST", 60_000),
    "fashion_mnist": ("Fashion-MNIST", 60_000),
    "digits": ("the digits", 1433),
}
"""Name and pictures of the training data whose number is known without it."""
UNKNOWN = ("data like these", 1000)


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
    with _within_free_memory(config):
        seconds = _run(shortened(config))
    _estimate(config, seconds)


def _run(short: Config) -> float:
    """Train, evaluate, save and export; return the seconds of the second step."""
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
    return console.seconds


@contextmanager
def _within_free_memory(config: Config) -> Iterator[None]:
    """Within the block, memory beyond what the machine has left is refused, and the error says what to lower.

    Without the limit, Linux would kill this process, or another one, without a word.

    Raises:
        ValueError: The configuration needs more.
    """
    free, own = _free_memory(), _bytes("/proc/self/status", "VmData")
    if free is None or own is None:
        yield
        return
    import resource

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = free + own
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if limits[1] < 0 else min(wanted, limits[1]), limits[1]))
    try:
        yield
    except MemoryError:
        batch, accumulate = config.data.batch_size, config.train.accumulate
        ways = [f"a smaller batch (-o data.batch_size={batch // 2} -o train.accumulate={2 * accumulate})"]
        ways += ["recomputing (-o model.options.use_checkpoint=true)", "a smaller model"]
        raise ValueError(
            f"The {free / 2**30:.1f} GiB of free memory do not suffice for {config.model.name} with data.batch_size"
            f" {batch}. Take {' or '.join(ways[batch == 1 :])}."
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)


def _free_memory() -> int | None:
    """Bytes that this process may still take; None where the system does not tell."""
    return _bytes("/proc/meminfo", "MemAvailable") if sys.platform == "linux" else None


def _bytes(file: str, key: str) -> int | None:
    """The value of one line `key:   123 kB`."""
    path = Path(file)
    found = re.search(rf"^{key}:\s+(\d+) kB", path.read_text(), re.MULTILINE) if path.exists() else None
    return int(found[1]) * 1024 if found else None


def expected_classes(config: Config) -> int:
    """Outputs that the configuration's model will have, as far as they are known without the data."""
    data, stated = config.data, config.train.class_weights
    known = config.model.num_classes or CLASSES.get(data.dataset)
    if known:
        return known
    if isinstance(stated, tuple):
        return len(stated)
    if data.classes is not None and any((root / data.classes).is_file() for root in (data_root(data), Path())):
        names = read_class_names(data)
        return len(names[0]) if names else 0
    if data.task == "regression":
        return 1
    return get_spec(config.model.name).options.get("num_classes") or CLASSES["imagenet"]


def shortened(config: Config) -> Config:
    """The configuration with generated pictures for two steps in place of its data and files."""
    batch_size, eval_batch_size = config.data.batch_size, config.data.eval_batch_size or config.data.batch_size
    data = dataclasses.replace(config.data, dataset="fake", train=None, val=None, classes=None)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, num_classes=expected_classes(config), weights=None),
        data=dataclasses.replace(data, fake_train=STEPS * batch_size, fake_val=STEPS * eval_batch_size),
        train=dataclasses.replace(config.train, accumulate=min(config.train.accumulate, STEPS)),
        schedule=dataclasses.replace(config.schedule, epochs=1, warmup_epochs=0.0, cooldown_epochs=0),
    )


def _estimate(config: Config, seconds: float) -> None:
    memory = runtime.peak_memory()
    peak = "unknown on this system" if memory is None else f"{memory / 2**30:.1f} GiB"
    LOGGER.info("Peak memory %s. One step takes %.1f s.", peak, seconds)
    data, batch_size, epochs = config.data, config.data.batch_size, config.schedule.total_epochs
    name, pictures = TRAINING_DATA.get(data.dataset, UNKNOWN)
    if data.dataset == "fake":
        name, pictures = "generated data", data.fake_train
    total = seconds * pictures / batch_size * epochs
    LOGGER.info(
        "On this machine, training for %d epochs on %s pictures of %s would take about %s.",
        epochs,
        f"{pictures:,}",
        name,
        duration(total),
    )
