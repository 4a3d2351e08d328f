"""What people see while a run goes on."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import paddle
from tqdm import tqdm

from paddlevit.training.run_folder import LOGGER


class Console(paddle.callbacks.Callback):
    """A progress bar on a terminal, plain lines elsewhere.

    Args:
        log_every: Updates between two plain lines.
        epochs: Of the whole run.
    """

    def __init__(self, log_every: int, epochs: int) -> None:
        super().__init__()
        self.log_every, self.epochs = log_every, epochs
        self.bar: tqdm | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.start, self.pictures = time.monotonic(), 0
        self.first = self._batches_done()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if sys.stdout.isatty() and self.model.rank == 0:
            progress = self.model.progress
            self.bar = tqdm(
                total=self.model.steps.batches_per_epoch,
                initial=progress.batch,
                desc=f"epoch {progress.epoch + 1}/{self.epochs}",
                file=sys.stdout,
                leave=False,
                dynamic_ncols=True,
            )

    def on_train_batch_end(self, step: int, logs: dict | None = None) -> None:
        self.pictures += (logs or {})["batch_size"]
        if self.bar is not None:
            self.bar.set_postfix_str(self._figures(), refresh=False)
            self.bar.update()
        elif self.model.at_update and self.model.progress.update % self.log_every == 0:
            progress, batches = self.model.progress, self.model.steps.batches_per_epoch
            place = f"epoch {progress.epoch + 1}/{self.epochs} batch {progress.batch}/{batches}"
            LOGGER.info("%s  %s", place, self._figures())

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _batches_done(self) -> int:
        progress = self.model.progress
        return progress.epoch * self.model.steps.batches_per_epoch + progress.batch

    def _figures(self) -> str:
        progress, seconds = self.model.progress, time.monotonic() - self.start
        done = self._batches_done() - self.first
        left = (self.epochs * self.model.steps.batches_per_epoch - self._batches_done()) * seconds / max(done, 1)
        parts = [f"loss {progress.loss_sum / progress.pictures:.4f}"]
        if self.model.scores.counts_hits:
            parts.append(f"top1 {100 * progress.hits / progress.pictures:.1f} %")
        parts += [f"lr {self.model.learning_rate:.2e}", f"{self.pictures / seconds:.0f} images/s"]
        return "  ".join([*parts, f"left {duration(left)}"])


def describe_row(row: dict[str, Any], epochs: int, main: str) -> str:
    """One epoch of the history as a line for people.

    Args:
        row: Of the history.
        epochs: Of the whole run.
        main: The score that decides.
    """
    parts = [f"epoch {row['epoch']}/{epochs}", f"train loss {row['train_loss']:.4f}"]
    for part in ("val", "ema"):
        if f"{part}_loss" in row:
            parts.append(f"{part} loss {row[f'{part}_loss']:.4f}, {main} {percent(main, row[f'{part}_{main}'])}")
    if row.get("skipped_updates"):
        parts.append(f"{row['skipped_updates']} updates skipped, their gradients overflowed")
    return "  ".join(parts)


def percent(name: str, value: float) -> str:
    """A score as people read it: shares in per cent, anything else as it is."""
    return f"{value:.4f}" if name == "r2" else f"{100 * value:.2f} %"


def best_of(rows: Sequence[dict[str, Any]], main: str) -> str:
    """Which weights of a run scored best, for its last line."""
    scored = [
        (row[f"{part}_{main}"], part, row["epoch"])
        for row in rows
        for part in ("val", "ema")
        if f"{part}_{main}" in row
    ]
    score, part, epoch = max(scored, key=lambda entry: entry[0])
    weights = " with averaged weights (--ema)" if part == "ema" else ""
    return f"Best {main} {percent(main, score)} in epoch {epoch}{weights}."


def duration(seconds: float) -> str:
    """Seconds as 4:05, 1:02:03 or 3 days 1:02:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours}:{minutes:02}:{seconds:02}" if hours or days else f"{minutes}:{seconds:02}"
    return f"{days} days {clock}" if days else clock
