"""The folder of a run: configuration, log, history and checkpoints."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import paddle

from paddlevit.config import Config, dump_config
from paddlevit.weights.checkpoint import SUFFIX, Checkpoint, read_checkpoint, write_atomically, write_checkpoint

LOGGER = logging.getLogger("paddlevit")


class RunFolder:
    """Names and writes the files of one run.

    Args:
        path: The folder; it is made when the first file is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def history(self) -> Path:
        """One JSON object a line and epoch; no wall-clock times, so that equal runs give equal files."""
        return self.path / "history.jsonl"

    def checkpoint(self, name: str) -> Path:
        """Path of the checkpoint `last`, `previous`, `best` or `epoch_0001`."""
        return self.path / f"{name}{SUFFIX}"

    def start(self, config: Config) -> None:
        """Make the folder and write the configuration.

        Raises:
            ValueError: The folder holds a run already.
        """
        if self.checkpoint("last").exists() or self.checkpoint("previous").exists():
            raise ValueError(
                f"{self.path} holds a run already: go on with it (--resume {self.path}), or choose another folder"
                " (-o run.output=FOLDER)."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_config(config)
        self.write_history([])

    def write_config(self, config: Config) -> None:
        """Write the resolved configuration."""
        write_atomically(self.config, dump_config(config).encode())

    def log_to_file(self) -> None:
        """Send what is logged to the console and to log.txt."""
        open_log(self.path / "log.txt")

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Replace history.jsonl and history.csv by these rows."""
        write_atomically(self.history, "".join(json.dumps(row) + "\n" for row in rows).encode())
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.history.with_suffix(".csv"), table.getvalue().encode())

    def save_last(self, checkpoint: Checkpoint) -> None:
        """Write `last`, keeping the one before as `previous`."""
        last, previous = self.checkpoint("last"), self.checkpoint("previous")
        newer = last.with_name(f".newer{SUFFIX}")
        write_checkpoint(newer, checkpoint)
        if last.exists():
            previous.unlink(missing_ok=True)
            _link(last, previous)  # so that `last` is there at every moment
        newer.replace(last)

    def keep_epoch(self, epoch: int, keep: int) -> None:
        """Keep `last` as the checkpoint of this epoch, and only the newest `keep` of such."""
        if not keep:
            return
        kept = self.checkpoint(f"epoch_{epoch:04}")
        kept.unlink(missing_ok=True)
        _link(self.checkpoint("last"), kept)
        for old in sorted(self.path.glob(f"epoch_*{SUFFIX}"))[:-keep]:
            old.unlink()

    def load_last(self) -> Checkpoint:
        """The newest whole checkpoint.

        A damaged `last` is renamed to `damaged`, so that it never becomes `previous`.

        Raises:
            ValueError: Neither `last` nor `previous` can be read.
        """
        last, previous = self.checkpoint("last"), self.checkpoint("previous")
        try:
            return read_checkpoint(last)
        except ValueError as error:
            if not previous.exists():
                raise ValueError(f"{self.path} cannot be resumed: {error}") from None
            LOGGER.warning("%s Going back to %s.", error, previous.name)
            checkpoint = read_checkpoint(previous)
            if last.exists():
                last.replace(self.checkpoint("damaged"))
            return checkpoint


def _link(path: Path, name: Path) -> None:
    """A second name for a file, or a copy where the file system has no second names."""
    try:
        os.link(path, name)
    except OSError:
        write_atomically(name, path.read_bytes())


def open_log(path: Path | None = None) -> None:
    """Show what paddlevit logs on the console and, with a path, append it to a file.

    Of several processes, the first one speaks; the others only warn.
    """
    for handler in list(LOGGER.handlers):
        LOGGER.removeHandler(handler)
        handler.close()
    LOGGER.setLevel(logging.WARNING if paddle.distributed.ParallelEnv().rank else logging.INFO)
    LOGGER.propagate = False
    console = logging.StreamHandler(sys.stdout)
    console.setFormatter(logging.Formatter("%(message)s"))
    LOGGER.addHandler(console)
    if path is not None:
        file = logging.FileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        LOGGER.addHandler(file)
