"""The benchmark of the data part measures every stage of every side that is installed."""

from __future__ import annotations

import time

import pytest

from paddlevit.benchmarks import data_wait
from paddlevit.benchmarks.data import STAGES, report, run


def test_every_stage_of_every_side_is_measured():
    results = run(count=4, rounds=1, batch_size=2, workers=0)  # Paddle's own workers hang now and then
    medians, ratios = results
    assert {"ours", "paddle.vision.transforms"} <= set(medians) == set(ratios)
    for stages in (*medians.values(), *ratios.values()):
        assert tuple(stages) == STAGES
        assert min(stages.values()) > 0
    text = report(results)
    assert "ours / paddle.vision.transforms" in text
    assert all(stage in text for stage in STAGES)


def test_pictures_must_fill_the_batches():
    with pytest.raises(ValueError, match="count is 5; it must be a multiple of batch_size 2"):
        run(count=5, batch_size=2)


def test_waiting_for_data_is_measured_in_a_real_training(monkeypatch):
    """A loader that sleeps is waited for, and what it sleeps is what is reported."""
    from paddlevit.data import dataset

    plain = data_wait.run(steps=3, batch_size=2, workers=0, model="vit_tiny_patch16_224")
    assert (plain.steps, plain.batch_size) == (3, 2)
    assert 0 < plain.share < 1
    real = dataset.ImageDataset.write

    def slow(self, *arguments):
        time.sleep(0.5)
        real(self, *arguments)

    monkeypatch.setattr(dataset.ImageDataset, "write", slow)
    slowed = data_wait.run(steps=2, batch_size=2, workers=0, model="vit_tiny_patch16_224")
    assert slowed.share * slowed.seconds > 1.0
    assert slowed.share > plain.share
    assert f"2 steps of {slowed.seconds:.2f} s, of which {100 * slowed.share:.2f} %" in data_wait.report(slowed)
