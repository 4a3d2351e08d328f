"""Dynamic batching: pictures that arrive within a few milliseconds are computed together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np

MAX_WAITING_BYTES = 1 << 30


class BusyError(Exception):
    """There is no room for another picture at the moment."""


@dataclass
class _Item:
    array: np.ndarray
    arrived: float
    future: Future = field(default_factory=Future)


class Batcher:
    """Collects arrays from any thread and hands them, several at a time, to a function in a thread of its own.

    While the function runs, the next batch gathers; an array that finds the thread idle waits at most `max_wait` for
    others.

    Args:
        run: Arrays -> one answer for each, in order. Called by one thread only.
        max_batch: Arrays per call.
        max_wait: Seconds from an array's arrival after which it waits for no others.
        max_bytes: Size of all waiting arrays together.
        observe: Is told the size of every batch.
    """

    def __init__(
        self,
        run: Callable[[Sequence[np.ndarray]], Sequence[Any]],
        max_batch: int,
        max_wait: float,
        max_bytes: int = MAX_WAITING_BYTES,
        observe: Callable[[int], object] = lambda size: None,
    ) -> None:
        self._run, self._max_batch, self._max_wait, self._max_bytes = run, max_batch, max_wait, max_bytes
        self._observe = observe
        self._queue: queue.Queue[Optional[_Item]] = queue.Queue()
        self._lock = threading.Lock()
        self._closed = False
        self._waiting = self._waiting_bytes = 0
        self._seconds_each = 0.0
        self._thread = threading.Thread(target=self._work, name="paddlevit-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Arrays that are not being computed yet."""
        return self._waiting

    @property
    def seconds_left(self) -> float:
        """About how long the waiting arrays will take, going by the last batch."""
        return self._waiting * self._seconds_each

    def submit(self, array: np.ndarray) -> Future:
        """Put an array into the queue.

        Returns:
            Where its answer appears, or the error that computing it raised; cancelled in time, it is not computed.

        Raises:
            BusyError: The waiting arrays fill the memory set aside for them, or the batcher is closed.
        """
        item = _Item(array, time.monotonic())
        with self._lock:
            full = self._waiting and self._waiting_bytes + array.nbytes > self._max_bytes
            if self._closed or full:
                raise BusyError
            self._waiting += 1
            self._waiting_bytes += array.nbytes
            self._queue.put(item)
        return item.future

    def close(self) -> None:
        """Answer what is waiting, then end the thread."""
        with self._lock:
            if not self._closed:
                self._queue.put(None)
            self._closed = True
        self._thread.join()

    def _work(self) -> None:
        more = True
        while more:
            batch, more = self._collect()
            if not batch:
                continue
            for item in batch:
                self._forget(item)
            self._observe(len(batch))
            started = time.monotonic()
            answers, error = self._try([item.array for item in batch])
            self._seconds_each = (time.monotonic() - started) / len(batch)
            for item, answer in zip(batch, answers):
                if error is None:
                    item.future.set_result(answer)
                else:
                    item.future.set_exception(error)

    def _collect(self) -> tuple[list[_Item], bool]:
        """The next batch, and whether there may be more after it."""
        batch: list[_Item] = []
        while len(batch) < self._max_batch:
            try:
                item = self._next(batch)
            except queue.Empty:
                break
            if item is None:
                return batch, False
            if item.future.set_running_or_notify_cancel():
                batch.append(item)
            else:
                self._forget(item)
        return batch, True

    def _forget(self, item: _Item) -> None:
        """Count an array no longer as waiting."""
        with self._lock:
            self._waiting -= 1
            self._waiting_bytes -= item.array.nbytes

    def _try(self, arrays: Sequence[np.ndarray]) -> tuple[Sequence[Any], Exception | None]:
        """Answers and no error, or an error."""
        try:
            return self._run(arrays), None
        # Whatever an engine raises is the answer to these pictures; the thread has to live on for the next ones.
        except Exception as error:
            return [None] * len(arrays), error

    def _next(self, batch: Sequence[_Item]) -> _Item | None:
        if not batch:
            return self._queue.get()
        left = batch[0].arrived + self._max_wait - time.monotonic()
        return self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
