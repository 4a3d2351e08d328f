"""The folder of a run: configuration, log, history and checkpoints."""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import paddle

from paddlevit.config import Config, dump_config
from paddlevit.weights.checkpoint import SUFFIX, Checkpoint, read_checkpoint, write_checkpoint
from paddlevit.weights.files import write_atomically

LOGGER = logging.getLogger("paddlevit")


class NotWritten(ValueError):
    """The disk is full or the folder cannot be written; what was there before is whole."""


class RunFolder:
    """Names and writes the files of one run.

    Every method that writes raises NotWritten where the file system refuses.

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
        if self._is_saved():
            raise ValueError(
                f"{self.path} holds a run already: go on with it (--resume {self.path}), or choose another folder"
                " (-o run.output=FOLDER)."
            )
        with self.writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self.write_config(config)
        self.write_history([])

    def write(self, name: str, content: bytes) -> Path:
        """Write one more file of the run; it is either whole or not there.

        Returns:
            Its path.
        """
        path = self.path / name
        with self.writing(path):
            write_atomically(path, content)
        return path

    def write_config(self, config: Config) -> None:
        """Write the resolved configuration."""
        self.write(self.config.name, dump_config(config).encode())

    def log_to_file(self) -> None:
        """Send what is logged to the console and to log.txt."""
        open_log(_LogFile(self))

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Replace history.jsonl and history.csv by these rows."""
        self.write(self.history.name, "".join(json.dumps(row) + "\n" for row in rows).encode())
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write(self.history.with_suffix(".csv").name, table.getvalue().encode())

    def save_best(self, checkpoint: Checkpoint) -> None:
        """Write `best`."""
        path = self.checkpoint("best")
        with self.writing(path):
            write_checkpoint(path, checkpoint)

    def save_last(self, checkpoint: Checkpoint) -> None:
        """Write `last`, keeping the one before as `previous`."""
        last, previous = self.checkpoint("last"), self.checkpoint("previous")
        newer = last.with_name(f".newer{SUFFIX}")
        with self.writing(last):
            try:
                write_checkpoint(newer, checkpoint)
                if last.exists():
                    previous.unlink(missing_ok=True)
                    _link(last, previous)  # so that `last` is there at every moment
                newer.replace(last)
            finally:
                newer.unlink(missing_ok=True)

    def keep_epoch(self, epoch: int, keep: int) -> None:
        """Keep `last` as the checkpoint of this epoch, and only the newest `keep` of such."""
        if not keep:
            return
        kept = self.checkpoint(f"epoch_{epoch:04}")
        with self.writing(kept):
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

    def _is_saved(self) -> bool:
        return self.checkpoint("last").exists() or self.checkpoint("previous").exists()

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Within the block, whatever keeps a file from being written becomes NotWritten with the way to go on."""
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            if self._is_saved():
                mend = "make room" if full else "mend that"
                way = f"The last checkpoint is whole: {mend}, then: python tools/train.py --resume {self.path}"
            elif full:
                way = "There is no checkpoint yet: make room, then start the run again."
            else:
                way = "There is no checkpoint yet: choose another folder (-o run.output=FOLDER)."
            raise NotWritten(f"{path} could not be written: {error.strerror or error}. {way}") from error


class _LogFile(logging.Handler):
    """Adds whole lines to a run's log.txt; unlike logging's own handlers it does not go on when the disk is full."""

    def __init__(self, folder: RunFolder) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.folder, self.path = folder, folder.path / "log.txt"
        self._absolute = self.path.absolute()
        self._open()

    def _open(self) -> None:
        with self.folder.writing(self.path):
            self._file = open(self._absolute, "ab", buffering=0)  # noqa: SIM115 (open as long as the handler)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a whole line, or nothing."""
        line = f"{self.format(record)}\n".encode()
        if self._file.closed:  # other libraries close all handlers when they configure logging
            self._open()
        with self.folder.writing(self.path):
            end = self._file.seek(0, os.SEEK_END)
            try:
                if self._file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with suppress(OSError):
                    self._file.truncate(end)
                raise

    def close(self) -> None:
        self._file.close()
        super().close()


def _link(path: Path, name: Path) -> None:
    """A second name for a file, or a copy where the file system has no second names."""
    try:
        os.link(path, name)
    except OSError:
        write_atomically(name, path.read_bytes())


def open_log(file: logging.Handler | None = None) -> None:
    """Show what paddlevit logs on the console and, with a handler, send it there too.

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
    if file is not None:
        LOGGER.addHandler(file)
