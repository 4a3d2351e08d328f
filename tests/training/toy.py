"""Small runs that use everything: what the tests of training share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import yaml

from paddlevit import training
from paddlevit.config import Config, config_from_dict
from paddlevit.data import build_datasets
from paddlevit.training import Recorder, Trainer

ROOT = Path(__file__).resolve().parent.parent.parent

MODEL = {
    "name": "vit_tiny_patch16_224",
    "image_size": 16,
    "options": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "dropout": 0.1, "drop_path": 0.2},
}
VALUES = {
    "model": {**MODEL, "num_classes": 5},
    "data": {"dataset": "fake", "fake_train": 24, "fake_val": 10, "batch_size": 4, "num_workers": 0},
    "augment": {"mixup": 0.4, "cutmix": 1.0},
    "optimizer": {"lr": 5e-3, "clip_norm": 1.0, "layer_decay": 0.8},
    "schedule": {"epochs": 3, "warmup_epochs": 1},
    "train": {"accumulate": 2, "ema_decay": 0.8, "label_smoothing": 0.1},
    "run": {"save_every": 2, "report": False},
}


def toy_values(**sections: dict) -> dict:
    """The toy run's values with some keys changed: toy_values(train={"ema_decay": None})."""
    return {name: {**VALUES.get(name, {}), **sections.get(name, {})} for name in {**VALUES, **sections}}


def toy_config(**sections: dict) -> Config:
    """The toy run's configuration with some keys changed."""
    return config_from_dict(toy_values(**sections))


def write_toy_config(path: Path, **sections: dict) -> Path:
    """Write `toy_values` as YAML."""
    path.write_text(yaml.safe_dump(toy_values(**sections)))
    return path


def load_tool(name: str) -> ModuleType:
    """A script of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def toy_run(folder: Path, teacher: Callable | None = None, **sections: dict) -> tuple[Trainer, Recorder]:
    """A whole run of the toy configuration with some keys changed.

    Returns:
        The trainer and the recorder after the last epoch.
    """
    config = toy_config(**sections)
    training.seed_everything(config.run.seed)
    preprocessing = training.resolve_preprocessing(config)
    train_set, val_set = build_datasets(config, preprocessing, config.run.seed)
    network = training.build_network(config, train_set.class_names, preprocessing)
    sampler, loader = training.build_train_loader(config, train_set)
    run = training.RunFolder(folder)
    trainer = training.build_trainer(config, network, len(sampler), train_set.labels, teacher)
    val_loader = training.build_eval_loader(config, val_set)
    recorder = training.Recorder(run, config, sampler, val_loader, train_set.class_names)
    run.start(config)
    training.fit(trainer, loader, recorder, training.Console(config.run.log_every, config.schedule.total_epochs))
    training.finish(trainer, recorder, config, train_set, val_set)
    return trainer, recorder
