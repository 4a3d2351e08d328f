"""Sending the history elsewhere too: VisualDL and Weights & Biases, both extras."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from paddlevit.config import Config, ConfigError, config_to_dict
from paddlevit.training.run_folder import RunFolder

Row = dict[str, Any]


def build_tracker(config: Config, folder: RunFolder) -> Callable[[Row], None] | None:
    """What takes every new row of the history; None when the configuration names no tracker.

    Args:
        config: The experiment; its run.tracker is visualdl or wandb.
        folder: Of the run; VisualDL writes to its sub-folder visualdl, Weights & Biases to wandb.

    Raises:
        ConfigError: The tracker's package is not installed.
    """
    name = config.run.tracker
    if name is None:
        return None
    try:
        package = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"run.tracker is {name}, which is not installed: pip install {name}.") from error
    if name == "visualdl":
        return _visualdl(package, folder)
    return _wandb(package, config, folder)


def _figures(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("epoch", "update")}


def _visualdl(package: Any, folder: RunFolder) -> Callable[[Row], None]:
    writer = package.LogWriter(logdir=str(folder.path / "visualdl"))

    def send(row: Row) -> None:
        for name, value in _figures(row).items():
            part, _, what = name.partition("_")
            writer.add_scalar(tag=f"{part}/{what}" if what else name, value=value, step=row["epoch"])

    return send


def _wandb(package: Any, config: Config, folder: RunFolder) -> Callable[[Row], None]:
    name = folder.path.name
    run = package.init(
        project="paddlevit",
        name=name,
        id=name,
        resume="allow",
        config=config_to_dict(config),
        dir=str(folder.path),
    )

    def send(row: Row) -> None:
        run.log(_figures(row), step=row["update"])

    return send
