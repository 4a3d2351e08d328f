"""The benchmark of the data part measures every stage of every side that is installed."""

from __future__ import annotations

import pytest

from paddlevit.benchmarks.data import STAGES, report, run


def test_every_stage_of_every_side_is_measured():
    results = run(count=4, rounds=1, batch_size=2, workers=1)
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
