"""Working ahead in threads, with an end to waiting for a file system that does not answer."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Any, Optional

Task = tuple[Any, Future]


def work_ahead(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    workers: int,
    depth: int,
    timeout: float,
    describe: Callable[[Any], str] = str,
) -> Iterator[tuple[Any, Future]]:
    """Call a function for every item, in threads, up to `depth` items ahead of the reader.

    Args:
        function: Of one item.
        items: Taken as they are needed.
        workers: Number of threads.
        depth: How many results wait, or are being made.
        timeout: Seconds to wait for the next result; 0 waits for ever.
        describe: The file that an item stands for.

    Yields:
        Each item in order with its finished Future, whose `result()` raises what the function raised.

    Raises:
        TimeoutError: No result came in time.
    """
    waiting: deque[Task] = deque()
    tasks: queue.SimpleQueue[Optional[Task]] = queue.SimpleQueue()
    # Not a ThreadPoolExecutor: Python would wait at its end for a thread that a file system never answers.
    for _ in range(workers):
        threading.Thread(target=_work, args=(function, tasks), daemon=True).start()

    def first_finished() -> Task:
        item, future = waiting.popleft()
        if not wait([future], timeout or None).done:
            raise TimeoutError(
                f"No data came for {timeout:g} seconds while reading {describe(item)}. Is the file system up?"
            )
        return item, future

    try:
        for item in items:
            waiting.append((item, Future()))
            tasks.put(waiting[-1])
            if len(waiting) >= depth:
                yield first_finished()
        while waiting:
            yield first_finished()
    finally:
        for _, future in waiting:
            future.cancel()
        for _ in range(workers):
            tasks.put(None)


def _work(function: Callable[[Any], Any], tasks: queue.SimpleQueue[Optional[Task]]) -> None:
    """The life of a thread: do what is asked for until told to stop."""
    while (task := tasks.get()) is not None:
        item, future = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(function(item))
        except BaseException as error:  # handed to whoever waits for the result
            future.set_exception(error)
