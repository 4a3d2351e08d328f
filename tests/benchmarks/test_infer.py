"""The benchmark of inference, at toy size: every side answers alike, is timed in turn, and stands in the table."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

from paddlevit.benchmarks import infer
from paddlevit.benchmarks.infer import NOTES, OURS, OURS_FP32, SIDES, Figures, figures, in_turn, missing, report, run
from paddlevit.benchmarks.sides import ROOT, Side

TOY = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
HAS_ONNX = all(map(importlib.util.find_spec, ("paddle2onnx", "onnxruntime", "onnx")))


class FakeSide:
    """Takes the seconds that it is told to, and notes in which order it was asked."""

    def __init__(self, name: str, seconds: list[float], asked: list[str]) -> None:
        self.name, self._seconds, self.asked = name, iter(seconds), asked
        self.answer, self.cold_start = np.float32([1.0, -4.0]), 1.5

    def seconds(self, batch: int) -> float:
        self.asked.append(f"{self.name} {batch}")
        return next(self._seconds)

    def peak_memory(self) -> int:
        return 7 << 20


def test_sides_run_in_turn_and_the_first_round_does_not_count():
    asked: list[str] = []
    sides = {name: FakeSide(name, seconds, asked) for name, seconds in (("a", [9, 1, 2]), ("b", [8, 3, 4]))}
    assert in_turn(sides, 5, 2) == {"a": [1, 2], "b": [3, 4]}
    assert asked == ["a 5", "b 5"] * 3


def test_the_cold_start_is_a_median(monkeypatch):
    made: list[FakeSide] = []

    class Starting(FakeSide):
        def __init__(self, spec: dict, python: str) -> None:
            super().__init__(python, [], [])
            self.cold_start, self.running = [9.0, 2.0, 1.0][len(made)], True
            made.append(self)

        def __enter__(self) -> FakeSide:
            return self

        def __exit__(self, *_) -> None:
            self.running = False

    monkeypatch.setattr(infer, "Side", Starting)
    assert infer.started({}, "python").cold_start == 2.0
    assert [side.running for side in made] == [False, False, True]


def test_figures_are_medians_of_rounds():
    side = FakeSide("peer", [], [])
    times = {OURS: [1.0, 2.0, 10.0], "peer": [2.0, 6.0, 10.0]}
    row = figures("peer", side, 4, times, 3.0, np.float32([1.0, -2.0]))
    assert (row.side, row.batch, row.p50, row.memory, row.cold_start) == ("peer", 4, 6.0, 7 << 20, 1.5)
    assert row.slowness == 2.0  # of the ratios 2, 3 and 1
    assert row.share_of_limit == 0.5
    assert row.p99 == pytest.approx(9.92)
    assert row.difference == 1.0  # 2 over the largest of ours


@pytest.mark.parametrize(
    ("side", "precision", "reason"),
    [
        (OURS, "fp32", ""),
        (OURS_FP32, "fp32", "it is 'ours, export'"),
        (OURS_FP32, "bf16", ""),
        ("timm, torch", "fp32", "no/python has no torch and timm"),
        *[(f"{engine}, plain export", "fp32", "are not all installed") for engine in ("ONNX Runtime", "OpenVINO")],
        *[(f"ours, {engine}", "int8", "are not all installed") for engine in ("onnxruntime", "openvino")],
    ],
)
def test_a_side_says_why_it_is_missing(side, precision, reason, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = missing(side, precision, "no/python")
    assert said.startswith(reason) or said.endswith(reason)
    assert bool(said) == bool(reason)


@pytest.mark.parametrize(
    ("side", "precision", "left_out"),
    [
        ("ours, onnxruntime", "fp32", False),
        ("ours, onnxruntime", "bf16", True),
        ("ours, onnxruntime", "int8", False),
        ("ONNX Runtime, plain export", "int8", True),
        ("OpenVINO, plain export", "bf16", False),
    ],
)
def test_onnx_runtime_has_no_bf16(side, precision, left_out, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert missing(side, precision, sys.executable) == ("it has no bfloat16 on a CPU" if left_out else "")


def test_the_table_has_every_figure_and_what_was_left_out():
    rows = [
        Figures(OURS, 8, 0.1, 0.2, 1.0, 0.85, 100 << 20, 2.5, 0.0),
        Figures("peer", 8, 0.4, 0.5, 4.0, 0.21, 300 << 20, 3.5, 2e-6),
    ]
    text = report("some_vit", "int8", (rows, {"other": "it is tired"}))
    assert "some_vit, batch 8, int8" in text
    ours, peer = (next(line for line in text.splitlines() if line.startswith(name)) for name in (OURS, "peer"))
    assert ours.split()[2:] == ["100.0", "200.0", "80.0", "1.00", "85", "%", "100", "2.50"]
    assert peer.split()[1:] == ["400.0", "500.0", "20.0", "4.00", "21", "%", "300", "3.50"]
    assert "other: left out, it is tired" in text
    assert "2.0e-06 of the largest logit (peer)" in text
    assert f"of this machine.{NOTES['int8']}" in text


def test_our_sides_give_the_same_answers():
    sides = ("ours, eager", "Paddle eager, its own settings", "timm, torch")
    rows, left_out = run(
        "vit_tiny_patch16_224", (1, 3), 2, threads=1, sides=sides, torch_python="no/python", options=TOY
    )
    assert list(left_out) == ["timm, torch"]
    assert [(row.batch, row.side) for row in rows] == [(b, side) for b in (1, 3) for side in (OURS, *sides[:2])]
    for row in rows:
        assert 0 < row.p50 <= row.p99 < row.cold_start
        assert row.difference < 1e-5
        assert row.memory > 10 << 20
        assert 0 < row.share_of_limit < 1
        assert row.slowness == 1 if row.side == OURS else row.slowness > 0


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ONNX, reason="the extra onnx is not installed")
def test_int8_answers_nearly_alike():
    rows, left_out = run("vit_tiny_patch16_224", [1], 1, "int8", 1, ["ours, onnxruntime"], options=TOY)
    assert not left_out
    assert [row.side for row in rows] == [OURS, "ours, onnxruntime"]
    assert 1e-4 < rows[1].difference < 0.2


def test_peak_memory_is_not_that_of_the_process_that_started_it():
    large = np.ones(200 << 20, np.uint8)
    code = "from paddlevit.benchmarks.sides import peak_memory; print(peak_memory())"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT).stdout)
    assert 10 << 20 < peak < large.nbytes


def test_a_side_that_fails_says_so():
    with pytest.raises(RuntimeError, match="no/folder"):
        Side({"kind": "export", "folder": "no/folder", "threads": 1, "engine": "paddle", "precision": "fp32"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision is 'fp8'; it must be one of fp32, bf16, int8"),
        ({"sides": ["their"]}, f"side is 'their'; it must be one of {SIDES[0]}"),
        ({"rounds": 0}, "rounds is 0 and batches is .*; each must be at least 1"),
        ({"batches": [2, 0]}, r"batches is \[2, 0\]; each must be at least 1"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        run("vit_tiny_patch16_224", **options)
