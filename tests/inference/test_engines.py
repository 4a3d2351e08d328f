from __future__ import annotations

import importlib.util
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from paddlevit import runtime
from paddlevit.inference import Predictor, export_model, read_info
from paddlevit.inference import engines as engines_module
from paddlevit.inference.engines import FastestEngine, PaddleEngine, choose_engines, thread_count, why_not
from tests.golden.fill import image
from tests.inference.conftest import build, relative, run


class SlowEngine:
    """Takes so many seconds, and answers with its own number."""

    def __init__(self, seconds: float, number: float) -> None:
        self.output_names = ["logits"]
        self.seconds, self.number, self.calls = seconds, number, 0

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        self.calls += 1
        time.sleep(self.seconds)
        return [np.full((len(batch), 5), self.number)]


def test_the_fastest_engine_stays() -> None:
    slow, fast = SlowEngine(0.02, 1.0), SlowEngine(0.001, 2.0)
    engine = FastestEngine({"slow": slow, "fast": fast})
    assert engine.run(np.zeros(3))[0][0, 0] == 2.0
    assert list(engine.engines) == ["fast"]
    calls = slow.calls
    engine.run(np.zeros(3))
    assert slow.calls == calls == engines_module.TRIALS + 1


def test_one_engine_is_not_timed() -> None:
    only = SlowEngine(0.0, 1.0)
    FastestEngine({"only": only}).run(np.zeros(1))
    assert only.calls == 1


class BrokenEngine(SlowEngine):
    """Raises what an engine's C++ raises."""

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        raise RuntimeError("no kernel\n  for this processor")


def test_an_engine_that_fails_at_the_first_batch_is_left_out(caplog) -> None:
    engine = FastestEngine({"broken": BrokenEngine(0.0, 1.0), "slow": SlowEngine(0.001, 2.0)})
    assert engine.run(np.zeros(3))[0][0, 0] == 2.0
    assert list(engine.engines) == ["slow"]
    assert caplog.messages == ["The engine broken is left out: no kernel for this processor"]
    with pytest.raises(ValueError, match=r"No engine can run this batch\. a: no kernel .* b: no kernel"):
        FastestEngine({"a": BrokenEngine(0.0, 1.0), "b": BrokenEngine(0.0, 1.0)}).run(np.zeros(3))
    with pytest.raises(RuntimeError, match="no kernel"):  # asked for by name
        FastestEngine({"a": BrokenEngine(0.0, 1.0)}).run(np.zeros(3))


def test_an_engine_that_cannot_be_loaded_is_left_out(exported, monkeypatch, caplog) -> None:
    def load(name: str, *_) -> SlowEngine:
        if name == "openvino":
            raise RuntimeError("libtbb.so.12 is missing")
        return SlowEngine(0.0, 3.0)

    monkeypatch.setattr(engines_module, "why_not", lambda *_: "")
    monkeypatch.setattr(engines_module, "load_engine", load)
    assert Predictor(exported).engine == "paddle,onnxruntime"
    assert caplog.messages == ["The engine openvino is left out: libtbb.so.12 is missing"]
    with pytest.raises(RuntimeError, match="libtbb"):
        Predictor(exported, engine="openvino")
    monkeypatch.setattr(engines_module, "load_engine", lambda *_: load("openvino"))
    with pytest.raises(ValueError, match=r"cannot run in fp32 here\. paddle: libtbb.* openvino: libtbb"):
        Predictor(exported)


@pytest.mark.parametrize("device", ["tpu", "gpu:one", "cpu:1", "auto:0", ""])
def test_devices_are_checked_for_every_engine(exported, device) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}'; it must be auto, cpu, gpu or gpu:N"):
        Predictor(exported, device=device)


def test_auto_takes_what_has_a_file(exported) -> None:
    assert Predictor(exported).engine == "paddle"
    assert Predictor(exported, engine="paddle").engine == "paddle"
    with pytest.raises(ValueError, match="engine is 'tensorrt'"):
        Predictor(exported, engine="tensorrt")


def test_why_not(exported, tmp_path, monkeypatch) -> None:
    assert why_not("paddle", exported, "fp32", "cpu") == ""
    assert "no int8" in why_not("paddle", exported, "int8", "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert "--format onnx" in why_not("onnxruntime", exported, "fp32", "cpu")
    (tmp_path / "model.onnx").touch()
    assert why_not("onnxruntime", tmp_path, "fp32", "cpu") == why_not("openvino", tmp_path, "fp32", "cpu") == ""
    assert "no bfloat16" in why_not("onnxruntime", tmp_path, "bf16", "cpu")
    assert "on CPUs only" in why_not("openvino", tmp_path, "fp32", "gpu:0")
    assert "no float64" in why_not("openvino", tmp_path, "fp32", "cpu", preprocesses=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'openvino: it is not installed \(pip install "paddlevit\[openvino\]"\)'):
        choose_engines("openvino", exported, "fp32", "cpu")


def test_precision_is_the_exports_unless_given(exported, tmp_path) -> None:
    with pytest.raises(ValueError, match="precision is 'int8', but .* was exported in fp32"):
        Predictor(exported, precision="int8")
    with pytest.raises(ValueError, match="precision is 'fp16'; Paddle runs fp32, bf16 on a CPU and fp16 on a GPU"):
        Predictor(exported, precision="fp16")
    with pytest.raises(ValueError, match="precision is 'fp8'"):
        Predictor(exported, precision="fp8")


def test_bf16_is_measured_and_used(tmp_path) -> None:
    network = build("vit")
    report = export_model(network, tmp_path / "out", precision="bf16")
    info = read_info(tmp_path / "out")
    assert info.precision == "bf16"
    assert report.relative_difference <= 1e-5 < report.reduced_difference < 0.1
    assert (report.agreement, report.pictures, report.engines) == (None, None, ("paddle",))
    assert info.parity["reduced_difference"] == report.reduced_difference
    pictures = image((4, 3, 32, 32))
    exact = run(network, pictures)
    assert 1e-5 < relative(Predictor(tmp_path / "out").logits(pictures), exact) < 0.1
    assert relative(Predictor(tmp_path / "out", precision="fp32").logits(pictures), exact) < 1e-5


def ask_from_eight_threads(predictor: Predictor, batches: list, expected: list, requests: int) -> int:
    """Each thread asks so many times, in its own order; the number of wrong answers."""
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in np.random.default_rng(seed).permutation(np.arange(requests) % len(batches)):
            if not np.array_equal(predictor.logits(batches[i]), expected[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(wrong)


def batches_of_three_sizes(predictor: Predictor) -> tuple[list, list]:
    """20 batches and what one thread is told."""
    pictures = image((24, 3, 32, 32))
    batches = [pictures[i : i + 1 + i % 3] for i in range(20)]
    return batches, [predictor.logits(batch) for batch in batches]


def test_eight_threads_get_the_answers_of_one(exported) -> None:
    predictor = Predictor(exported, threads=1)
    assert ask_from_eight_threads(predictor, *batches_of_three_sizes(predictor), requests=500 // 8) == 0


def resident_megabytes() -> float:
    """Memory of this process that is in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says how much memory is in use")
def test_ten_thousand_requests_leave_nothing_behind(exported) -> None:
    predictor = Predictor(exported, threads=1)
    batches, expected = batches_of_three_sizes(predictor)
    assert ask_from_eight_threads(predictor, batches, expected, requests=250) == 0
    before = resident_megabytes()
    assert ask_from_eight_threads(predictor, batches, expected, requests=1250) == 0
    assert resident_megabytes() - before < 8


def test_threads_follow_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert thread_count(None) == 3
    assert thread_count(5) == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert thread_count(None) == runtime.cpu_count()


def test_warm_up_runs_a_batch_of_that_size(exported, monkeypatch) -> None:
    sizes = []
    own = PaddleEngine.run
    monkeypatch.setattr(PaddleEngine, "run", lambda self, batch: sizes.append(batch.shape) or own(self, batch))
    Predictor(exported).warm_up(3)
    assert sizes == [(3, 3, 32, 32)]
