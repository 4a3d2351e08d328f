"""How long a training waits for pictures: real steps of a ViT-S/16 through `paddle.Model.fit`, fed by our loader."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import paddle

from paddlevit.benchmarks.data import write_pictures
from paddlevit.config import Config, DataConfig, ModelConfig
from paddlevit.data import build_datasets
from paddlevit.training import build_network, build_train_loader, build_trainer, resolve_preprocessing

MODEL = "vit_small_patch16_224"
CLASSES = ("even", "odd")


class Stopwatch(paddle.callbacks.Callback):
    """Notes when each step began and ended; what lies between two steps is waiting for data.

    The first step is left out: workers start, and kernels are chosen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waited = self.computed = 0.0
        self.steps = 0
        self._began = self._ended = 0.0

    def on_train_batch_begin(self, step: int, logs: dict | None = None) -> None:
        self._began = time.perf_counter()
        if step > 0:
            self.waited += self._began - self._ended

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        self._ended = time.perf_counter()
        if step > 0:
            self.steps += 1
            self.computed += self._ended - self._began


@dataclass(frozen=True)
class Wait:
    """What was measured."""

    seconds: float
    """A step with its waiting, on average."""
    share: float
    """Part of the time that passed between steps."""
    steps: int
    """How many were measured."""
    batch_size: int
    """Pictures per step."""
    workers: int
    """Processes of the loader."""


def run(steps: int = 10, batch_size: int = 8, workers: int = 2, model: str = MODEL) -> Wait:
    """Train on generated JPEGs with ImageNet's transform.

    Args:
        steps: How many are measured, after a first one.
        batch_size: Pictures per step.
        workers: Processes of the loader; 0 reads in the main process, which then waits for all of it.
        model: Name of the network.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in CLASSES:
            (Path(folder) / name).mkdir()
        for number, path in enumerate(write_pictures(Path(folder), batch_size * (steps + 1))):
            Path(path).rename(Path(folder) / CLASSES[number % 2] / f"{number}.jpg")
        data = DataConfig("folder", folder, train=".", val=".", batch_size=batch_size, num_workers=workers)
        config = Config(model=ModelConfig(model), data=data)
        preprocessing = resolve_preprocessing(config)
        dataset, _ = build_datasets(config, preprocessing)
        network = build_network(config, dataset.class_names, preprocessing)
        sampler, loader = build_train_loader(config, dataset)
        trainer = build_trainer(config, network, len(sampler), dataset.labels)
        watch = Stopwatch()
        trainer.fit(loader, epochs=1, verbose=0, callbacks=[watch])
        loader.close()
    total = watch.waited + watch.computed
    return Wait(total / watch.steps, watch.waited / total, watch.steps, batch_size, workers)


def report(wait: Wait, model: str = MODEL) -> str:
    """What was measured, in a line."""
    steps = f"{wait.steps} steps of {wait.seconds:.2f} s, of which {100 * wait.share:.2f} % waiting for data"
    return f"{model}, {wait.batch_size} pictures a step, {wait.workers} workers: {steps}"
