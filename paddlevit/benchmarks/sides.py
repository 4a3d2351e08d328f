"""One side of a comparison of inference: a network loaded by one library, in a process of its own.

A process of its own, because libraries quarrel over threads, and because peak memory and cold start are then its own.
It is started as `python -m paddlevit.benchmarks.sides SPEC`, possibly by an interpreter that has torch and no Paddle,
and answers every line on its input with one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SIDE = 2048
_SETTINGS = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "FLAGS_use_stride_kernel", "MKL_NUM_THREADS")
Run = Callable[[np.ndarray], np.ndarray]


class Side:
    """The parent's end of such a process; a context manager.

    Args:
        spec: What to load: `kind`, one of `LOADERS`, and what that loader reads.
        python: The interpreter.

    Attributes:
        cold_start: Seconds from starting the interpreter to its first answer for one picture.

    Raises:
        RuntimeError: The library cannot load or run the network, with the end of what it said.
    """

    def __init__(self, spec: dict[str, Any], python: str = sys.executable) -> None:
        environment = {key: value for key, value in os.environ.items() if key not in _SETTINGS}
        environment["PYTHONPATH"] = str(ROOT)
        command = [python, "-W", "ignore", "-m", "paddlevit.benchmarks.sides", json.dumps(spec)]
        start = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.answer = np.array(self._read(), np.float32)
        self.cold_start = time.perf_counter() - start

    def seconds(self, batch: int) -> float:
        """Time of one batch, measured inside the process."""
        return self._ask(f"run {batch}")

    def limit(self) -> float:
        """Floating-point operations per second of the best of a few large matrix products."""
        return self._ask("limit")

    def peak_memory(self) -> int:
        """Largest resident memory so far, in bytes."""
        return int(self._ask("memory"))

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("answer "):  # libraries print, too
                return json.loads(line[len("answer ") :])
        _, said = self._process.communicate()
        raise RuntimeError(" ".join(said.split())[-300:] or "the process ended without a word")


def picture_batch(size: int, shape: tuple[int, ...]) -> np.ndarray:
    """The pictures that every side gets, float32 [size, *shape]."""
    return np.random.default_rng(0).standard_normal((size, *shape), dtype=np.float32)


def load_eager(spec: dict[str, Any]) -> Run:
    """Our network in Python; `tuned` is False for Paddle's settings as they come."""
    from paddlevit import runtime

    if spec["tuned"]:
        runtime.prepare(spec["threads"])
    import paddle

    from paddlevit.models import create_model

    if spec["tuned"]:
        runtime.pick_device("cpu")
    network = create_model(spec["model"], **spec["options"])
    network.set_state_dict(paddle.load(spec["weights"]))
    network.eval()

    def run(batch: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            return network(paddle.to_tensor(batch)).numpy()

    return run


def load_export(spec: dict[str, Any]) -> Run:
    """Our export behind the Predictor."""
    from paddlevit.inference import Predictor

    return Predictor(spec["folder"], spec["threads"], "cpu", spec["engine"], spec["precision"]).logits


def load_onnxruntime(spec: dict[str, Any]) -> Run:
    """A plain ONNX file in ONNX Runtime, used as its users do."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = spec["threads"]
    session = onnxruntime.InferenceSession(spec["file"], options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def load_openvino(spec: dict[str, Any]) -> Run:
    """A plain ONNX file in OpenVINO, compiled for each size of batch."""
    import openvino

    core, compiled = openvino.Core(), {}
    config = {
        "INFERENCE_NUM_THREADS": spec["threads"],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if spec["precision"] == "bf16" else "f32",
    }

    def run(batch: np.ndarray) -> np.ndarray:
        if len(batch) not in compiled:
            model = core.read_model(spec["file"])
            model.reshape(list(batch.shape))
            compiled[len(batch)] = core.compile_model(model, "CPU", config)
        return compiled[len(batch)]([batch])[0]

    return run


def import_timm() -> Any:
    """timm, also where torchvision came without compiled kernels: the two that timm asks for are declared."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for kernel in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{kernel}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    return importlib.import_module("timm")


def load_timm(spec: dict[str, Any]) -> Run:
    """timm's network on torch, with our weights where there is a file of them."""
    import torch
    from safetensors.torch import load_file

    timm = import_timm()
    torch.set_num_threads(spec["threads"])
    options = {"img_size" if key == "image_size" else key: value for key, value in spec["options"].items()}
    network = timm.create_model(spec["model"], pretrained=False, **options)
    network.load_state_dict(load_file(spec["weights"]), strict=False)
    network.eval()
    bf16 = spec["precision"] == "bf16"
    if spec["compiled"]:
        import torch._inductor.config

        torch._inductor.config.freezing = True
        network = torch.compile(network)

    def run(batch: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return network(torch.from_numpy(batch)).float().numpy()

    return run


LOADERS: dict[str, Callable[[dict[str, Any]], Run]] = {
    "eager": load_eager,
    "export": load_export,
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "timm": load_timm,
}


def measured(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def products_per_second() -> float:
    """Floating-point operations per second of the best of a few large matrix products in Paddle."""
    import paddle

    a, b = paddle.rand([LIMIT_SIDE, LIMIT_SIDE]), paddle.rand([LIMIT_SIDE, LIMIT_SIDE])
    return 2 * LIMIT_SIDE**3 / min(measured(lambda: paddle.matmul(a, b)) for _ in range(8))


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes.

    Linux hands getrusage's figure down to a process from the one that started it, so there it is not asked.
    """
    status = Path("/proc/self/status")
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    (line,) = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Load what the first argument says, answer for one picture, then for every line until the input ends."""
    spec = json.loads(sys.argv[1])
    out = os.fdopen(os.dup(1), "w")

    def answer(value: Any) -> None:
        out.write(f"answer {json.dumps(value)}\n")
        out.flush()

    run = LOADERS[spec["kind"]](spec)
    answer(run(picture_batch(1, spec["shape"]))[0].tolist())
    for line in sys.stdin:
        what, _, number = line.strip().partition(" ")
        if what == "run":
            batch = picture_batch(int(number), spec["shape"])
            answer(measured(lambda batch=batch: run(batch)))  # type: ignore[misc]
        elif what == "limit":
            answer(products_per_second())
        else:
            answer(peak_memory())


if __name__ == "__main__":
    main()
