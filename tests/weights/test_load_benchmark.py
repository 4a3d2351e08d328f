"""The benchmark of loading measures every side that is installed."""

from __future__ import annotations

import sys

import pytest

from paddlevit.benchmarks import load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory of a part of a process's life")


def test_ours_is_measured_and_timm_is_missed():
    figures = load.run("vit_xsmall_patch16_clip_224", rounds=1)
    assert figures["ours"]["seconds"] > 0
    assert figures["ours"]["size"] == 4 * 8_277_504
    assert 0 < figures["ours"]["peak"] < 20  # far above the bar: what is fixed weighs more than such a small model
    text = load.report("vit_xsmall_patch16_clip_224", figures)
    assert "vit_xsmall_patch16_clip_224, 32 MiB of weights" in text
    if "timm" not in figures:
        assert "timm is not installed; --torch-python names a Python that has it" in text


def test_bars_are_ratios():
    ours = {"seconds": 3.0, "peak": 0.1, "size": 2**20}
    text = load.report("m", {"ours": ours, "timm": {**ours, "seconds": 2.0}})
    assert "peak memory: 0.10 of the model's size (bar: at most 1.3)" in text
    assert "time: 1.50 of timm's (bar: at most 1.5)" in text


def test_a_side_that_fails_is_not_left_out():
    with pytest.raises(RuntimeError, match="make cannot load vit_none: .*vit_none"):
        load.run("vit_none", rounds=1)
