"""Worker processes that fill batches in memory shared with the training process."""

from __future__ import annotations

import contextlib
import math
import mmap
import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, Optional, Protocol

import numpy as np

from paddlevit.data.sampler import SampleKey

SPARE_BATCHES = 2
PARENT_CHECK = 5.0
Task = tuple[int, list[SampleKey]]


class Writer(Protocol):
    """A dataset that writes its samples into memory which somebody else made."""

    row_type: np.dtype
    """Of one sample: floats of a shape, or a record of several parts."""

    def write(self, key: SampleKey, out: np.ndarray) -> None:
        """Make a sample in place; ValueError when there is none."""

    def describe(self, index: int) -> str:
        """What to call a sample in a message."""


class WorkerPool:
    """Worker processes, and the batches that they are filling.

    Batch k goes to worker k modulo the number of workers, so the order of results is the order of requests. The memory
    is an anonymous shared mapping: it needs no room in /dev/shm, which containers keep small.

    Args:
        dataset: What makes the samples.
        batch_size: Largest batch.
        workers: Number of processes; as many batches are made ahead, and two more.
        timeout: Seconds without any result after which the files being read are named; 0 waits for ever.
        initializer: Called first in every worker.
    """

    def __init__(
        self,
        dataset: Writer,
        batch_size: int,
        workers: int,
        timeout: float,
        initializer: Optional[Callable[[], None]] = None,
    ) -> None:
        self.dataset, self.timeout = dataset, timeout or None
        self.slots = workers + SPARE_BATCHES
        self.rows = shared_array((self.slots, batch_size), dataset.row_type)  # [slots, B, ...]
        # Which sample each worker is making; -1 while it waits.
        self.making = shared_array((workers,), np.dtype(np.int64))
        self.making[:] = -1
        self.errors: dict[int, BaseException] = {}
        self.under_way: set[int] = set()
        self.processes: list[Any] = []
        self.connections: list[Connection] = []
        context = multiprocessing.get_context("fork")
        for number in range(workers):
            ours, theirs = context.Pipe()
            arguments = (dataset, self.rows, self.making[number : number + 1], theirs, os.getpid(), initializer)
            process = context.Process(target=_work, args=arguments, daemon=True, name=f"paddlevit-data-{number}")
            with warnings.catch_warnings():
                # Python 3.12 warns of forking beside threads; the child touches neither them nor, for our own
                # datasets, Paddle.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            self.processes.append(process)
            self.connections.append(ours)
        self._finalizer = weakref.finalize(self, _end, self.processes, self.connections)

    def batches(self, requests: Iterator[list[SampleKey]]) -> Iterator[tuple[list[SampleKey], np.ndarray]]:
        """Fill batches in the order of the requests.

        Args:
            requests: The keys of each batch.

        Yields:
            The keys and the rows [B, ...], which are overwritten after the next batch is taken.

        Raises:
            ValueError: A sample cannot be made.
            OSError: A worker died, or nothing came in time.
        """
        while self.under_way:  # batches of an iteration that was left early
            self._receive()
        self.errors.clear()
        pending: deque[tuple[int, list[SampleKey]]] = deque()
        for number, keys in enumerate(requests):
            self._send(number, keys)
            pending.append((number % self.slots, keys))
            if len(pending) == self.slots:
                yield self._take(*pending.popleft())
        while pending:
            yield self._take(*pending.popleft())

    def close(self) -> None:
        """End the processes."""
        self._finalizer()

    @property
    def closed(self) -> bool:
        """Whether the processes have been ended."""
        return not self._finalizer.alive

    def _send(self, number: int, keys: list[SampleKey]) -> None:
        slot = number % self.slots
        self.under_way.add(slot)
        # A broken pipe means a dead worker, which the next wait reports.
        with contextlib.suppress(BrokenPipeError):
            self.connections[number % len(self.connections)].send((slot, keys))

    def _take(self, slot: int, keys: list[SampleKey]) -> tuple[list[SampleKey], np.ndarray]:
        while slot in self.under_way:
            self._receive()
        if slot in self.errors:
            raise self.errors.pop(slot)
        return keys, self.rows[slot, : len(keys)]

    def _receive(self) -> None:
        """Wait for one or more results; OSError when there will be none."""
        sentinels = {process.sentinel: process for process in self.processes}
        ready = multiprocessing.connection.wait([*self.connections, *sentinels], self.timeout)
        if not ready:
            busy = self._busy()
            self.close()
            raise TimeoutError(
                f"No data came for {self.timeout:g} seconds while reading {busy}. Is the "
                "file system up? data.timeout sets how long to wait."
            )
        received = False
        for connection in ready:
            if isinstance(connection, Connection):
                with contextlib.suppress(EOFError, ConnectionResetError):
                    slot, error = connection.recv()
                    received = True
                    self.under_way.discard(slot)
                    if error is not None:
                        self.errors[slot] = error
        dead = [sentinels[place] for place in ready if place in sentinels]
        if dead and not received:
            busy = self._busy()
            self.close()
            raise OSError(
                f"A data worker died ({_cause(dead[0].exitcode)}) while reading {busy}. "
                "Use fewer data.num_workers if memory is short; 0 reads in the main process."
            )

    def _busy(self) -> str:
        """What the workers are making."""
        return ", ".join(self.dataset.describe(index) for index in self.making.tolist() if index >= 0) or "no file"


def shared_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros of that shape, which processes forked later share."""
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    flat = np.frombuffer(memory, dtype)
    return flat.reshape(*shape, *flat.shape[1:])


def _work(
    dataset: Writer,
    rows: np.ndarray,
    making: np.ndarray,
    connection: Connection,
    parent: int,
    initializer: Optional[Callable[[], None]],
) -> None:
    """The life of a worker: fill the batches that are asked for until told to stop or left alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training process, which then ends the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if initializer is not None:
        initializer()
    while True:
        if not connection.poll(PARENT_CHECK):
            if os.getppid() != parent:
                return
            continue
        try:
            task: Optional[Task] = connection.recv()
        except EOFError:
            return
        if task is None:
            return
        slot, keys = task
        error: Optional[BaseException] = None
        try:
            for key, row in zip(keys, rows[slot]):
                making[0] = key.index
                dataset.write(key, row)
        except ValueError as caught:
            error = ValueError(str(caught))
        except Exception:  # A fault of ours or of a user's transform: its traceback goes to the training process.
            error = RuntimeError(f"A data worker failed:\n{traceback.format_exc()}")
        making[0] = -1
        connection.send((slot, error))


def _end(processes: list[Any], connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()
    for process in processes:
        process.kill()
    for process in processes:
        process.join(1.0)


def _cause(code: Optional[int]) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name}, as when memory runs out" if name == "SIGKILL" else name
    return f"exit code {code}"
