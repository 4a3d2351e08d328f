from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from paddlevit.serve.batcher import Batcher, BusyError
from tests.serve.client import until


class Doubling:
    """Answers an array with twice its number; can be held up, and notes what it was given."""

    def __init__(self) -> None:
        self.sizes, self.entered, self.go_on = [], threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, arrays):
        self.entered.set()
        self.go_on.wait(10)
        self.sizes.append(len(arrays))
        return [2 * int(array[0]) for array in arrays]


@pytest.fixture
def run():
    return Doubling()


@pytest.fixture
def make(run):
    made = []

    def _make(max_batch=4, max_wait=0.0, **options):
        made.append(Batcher(run, max_batch, max_wait, **options))
        return made[-1]

    yield _make
    run.go_on.set()
    for batcher in made:
        batcher.close()


def number(value: int) -> np.ndarray:
    return np.array([value])


def hold(batcher: Batcher, run: Doubling):
    """Keep the thread busy with one array, so that all others queue up."""
    run.go_on.clear()
    first = batcher.submit(number(0))
    assert run.entered.wait(10)
    return first


def test_everyone_gets_their_own_answer(make, run):
    batcher = make(max_batch=3)
    first = hold(batcher, run)
    futures = [batcher.submit(number(value)) for value in range(1, 8)]
    assert batcher.waiting == 7
    run.go_on.set()
    assert [future.result(10) for future in [first, *futures]] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert run.sizes == [1, 3, 3, 1]
    assert batcher.waiting == 0


def test_an_idle_thread_waits_for_company_as_long_as_it_is_told(make, run):
    patient = make(max_wait=0.3)
    futures = [patient.submit(number(1))]
    time.sleep(0.05)
    futures.append(patient.submit(number(2)))
    assert [future.result(10) for future in futures] == [2, 4]
    hasty = make(max_wait=0.0)
    for value in (1, 2):
        assert hasty.submit(number(value)).result(10) == 2 * value
    assert run.sizes == [2, 1, 1]


def test_a_full_batch_does_not_wait(make, run):
    batcher = make(max_batch=2, max_wait=60.0)
    futures = [batcher.submit(number(value)) for value in (1, 2)]
    assert [future.result(10) for future in futures] == [2, 4]


def test_those_who_have_waited_while_others_were_computed_wait_no_longer(make, run):
    batcher = make(max_wait=0.5)
    hold(batcher, run)
    late = batcher.submit(number(1))
    time.sleep(0.55)
    started = time.monotonic()
    run.go_on.set()
    assert late.result(10) == 2
    assert time.monotonic() - started < 0.4


def test_batch_sizes_are_told(make, run):
    told = []
    batcher = make(observe=told.append)
    first = hold(batcher, run)
    others = [batcher.submit(number(1)), batcher.submit(number(2))]
    run.go_on.set()
    for future in (first, *others):
        future.result(10)
    until(lambda: told == [1, 2])


def test_what_is_cancelled_is_not_computed(make, run):
    batcher = make(max_batch=2)
    hold(batcher, run)
    cancelled, kept, other = (batcher.submit(number(value)) for value in (1, 2, 3))
    assert cancelled.cancel()
    run.go_on.set()
    assert (kept.result(10), other.result(10)) == (4, 6)
    assert run.sizes == [1, 2]
    assert batcher.waiting == 0


def test_an_error_belongs_to_its_batch_alone():
    def run(arrays):
        if arrays[0][0] < 0:
            raise RuntimeError("the engine broke")
        return [int(array[0]) for array in arrays]

    batcher = Batcher(run, 1, 0.0)
    with pytest.raises(RuntimeError, match="the engine broke"):
        batcher.submit(number(-1)).result(10)
    assert batcher.submit(number(5)).result(10) == 5
    batcher.close()


def test_memory_is_bounded(make, run):
    size = number(0).nbytes
    batcher = make(max_batch=1, max_bytes=2 * size)
    hold(batcher, run)
    waiting = [batcher.submit(number(1)), batcher.submit(number(2))]
    with pytest.raises(BusyError):
        batcher.submit(number(3))
    run.go_on.set()
    assert [future.result(10) for future in waiting] == [2, 4]
    batcher.submit(np.zeros(100)).result(10)  # alone, anything fits


def test_closing_answers_what_waits_and_takes_nothing_more(make, run):
    batcher = make(max_batch=2)
    hold(batcher, run)
    waiting = [batcher.submit(number(value)) for value in (1, 2, 3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    run.go_on.set()
    closing.join(10)
    assert [future.result(0) for future in waiting] == [2, 4, 6]
    with pytest.raises(BusyError):
        batcher.submit(number(4))
    batcher.close()  # a second time does nothing


def test_how_long_the_queue_will_take(make, run):
    batcher = make(max_batch=1)
    assert batcher.seconds_left == 0
    first = hold(batcher, run)
    time.sleep(0.1)
    run.go_on.set()
    first.result(10)
    run.entered.clear()
    hold(batcher, run)
    for value in range(10):
        batcher.submit(number(value))
    assert 0.9 < batcher.seconds_left < 5
