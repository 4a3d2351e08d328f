"""What runs an exported graph: one class per engine, each loaded from an export's folder.

An engine takes [B, C, H, W] (or [B, H, W, C] bytes) and gives one array per output, in the order of the graph's. It is
used by one thread at a time. None is imported before it is needed.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from paddlevit import runtime

ENGINES = ("paddle", "onnxruntime", "openvino")
ONNX_FILE = "model.onnx"
GPU_POOL_MEGABYTES = 256
TRIALS = 3
LOGGER = logging.getLogger("paddlevit")


class Engine(Protocol):
    """What every engine has."""

    output_names: list[str]
    """What the graph calls its outputs."""

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """One array per output."""


class PaddleEngine:
    """Paddle Inference.

    Args:
        folder: The export.
        threads: CPU threads; None is OMP_NUM_THREADS if that is set, else every core.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        precision: `fp32`; `bf16` on a CPU, `fp16` on a GPU.

    Raises:
        ValueError: The folder has no Paddle graph, or one of a later Paddle than the one installed; or the precision
            and the device do not go together.
    """

    def __init__(self, folder: Path, threads: int | None = None, device: str = "auto", precision: str = "fp32") -> None:
        runtime.prepare(threads)
        import paddle
        import paddle.inference

        graph = paddle_graph(folder)
        if graph.suffix == ".json" and paddle.__version__.startswith("2."):
            # Paddle 2 does not refuse such a file, it crashes.
            raise ValueError(
                f"{folder} was exported by Paddle 3 and this is Paddle {paddle.__version__};"
                " run it with Paddle 3, or export it again here."
            )
        config = paddle.inference.Config(str(graph), str(graph.with_suffix(".pdiparams")))
        config.disable_glog_info()
        chosen = runtime.pick_device(device)
        if precision != "fp32" and precision != ("bf16" if chosen == "cpu" else "fp16"):
            raise ValueError(f"precision is {precision!r}; Paddle runs fp32, bf16 on a CPU and fp16 on a GPU.")
        if chosen == "cpu":
            config.disable_gpu()
            config.set_cpu_math_library_num_threads(thread_count(threads))
            if precision == "bf16":
                config.enable_mkldnn()
                config.enable_mkldnn_bfloat16()
        else:
            half = paddle.inference.PrecisionType.Half
            mode = half if precision == "fp16" else paddle.inference.PrecisionType.Float32
            config.enable_use_gpu(GPU_POOL_MEGABYTES, int(chosen.partition(":")[2] or 0), mode)
        # Without enable_memory_optim(): Paddle 3 raises on it. Without run([...]): Paddle 2.6 crashes on it.
        self._predictor: Any = paddle.inference.create_predictor(config)
        self.output_names = self._predictor.get_output_names()
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._outputs = [self._predictor.get_output_handle(name) for name in self.output_names]

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """One array per output."""
        self._input.copy_from_cpu(np.ascontiguousarray(batch))
        self._predictor.run()
        return [handle.copy_to_cpu() for handle in self._outputs]


class OnnxRuntimeEngine:
    """ONNX Runtime.

    Args:
        folder: The export.
        threads: CPU threads; None is OMP_NUM_THREADS if that is set, else every core.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.

    Raises:
        ValueError: No ONNX file, or no GPU that ONNX Runtime knows.
    """

    def __init__(self, folder: Path, threads: int | None = None, device: str = "auto") -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = thread_count(threads)
        options.log_severity_level = 3
        has_gpu = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        if device.startswith("gpu") and not has_gpu:
            raise ValueError(f"device is {device!r}, but this ONNX Runtime knows no GPU; use cpu, or engine 'paddle'.")
        providers: list[Any] = ["CPUExecutionProvider"]
        if has_gpu and device != "cpu":
            index = int(device.partition(":")[2] or 0)
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
        self._session = onnxruntime.InferenceSession(str(onnx_graph(folder)), options, providers=providers)
        self._input = self._session.get_inputs()[0].name
        self.output_names = [output.name for output in self._session.get_outputs()]

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """One array per output."""
        return self._session.run(None, {self._input: batch})


class OpenVinoEngine:
    """OpenVINO on the CPU.

    Args:
        folder: The export.
        threads: CPU threads; None is OMP_NUM_THREADS if that is set, else every core.
        precision: `bf16` computes in it where the processor can, `int8` so what stands between the int8 products;
            anything else in float32.

    Raises:
        ValueError: No ONNX file.
    """

    def __init__(self, folder: Path, threads: int | None = None, precision: str = "fp32") -> None:
        import openvino

        # Left to itself, OpenVINO computes in bfloat16 wherever it can.
        config = {
            "INFERENCE_NUM_THREADS": thread_count(threads),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision in ("bf16", "int8") else "f32",
        }
        self._model = openvino.Core().compile_model(str(onnx_graph(folder)), "CPU", config)
        self._request = self._model.create_infer_request()
        self.output_names = [output.get_any_name() for output in self._model.outputs]

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """One array per output."""
        self._request.infer([np.ascontiguousarray(batch)])
        return [self._request.get_output_tensor(i).data.copy() for i in range(len(self.output_names))]


def thread_count(threads: int | None) -> int:
    """CPU threads to use: what was asked for, or what the environment says, or every core."""
    stated = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return threads or (int(stated) if stated.isdigit() and int(stated) else runtime.cpu_count())


def paddle_graph(folder: Path) -> Path:
    """The file of Paddle's graph: `.json` from Paddle 3, `.pdmodel` from Paddle 2.

    Raises:
        ValueError: There is none.
    """
    for suffix in (".json", ".pdmodel"):
        if (folder / f"model{suffix}").is_file():
            return folder / f"model{suffix}"
    raise ValueError(f"{folder} has no graph for Paddle (model.json or model.pdmodel); export it with format paddle.")


def onnx_graph(folder: Path) -> Path:
    """The ONNX file.

    Raises:
        ValueError: There is none.
    """
    if not (folder / ONNX_FILE).is_file():
        raise ValueError(f"{folder} has no {ONNX_FILE}; export it with format onnx or both.")
    return folder / ONNX_FILE


def why_not(engine: str, folder: Path, precision: str, device: str, preprocesses: bool = False) -> str:
    """What keeps an engine from running an export, as the end of a sentence; empty if nothing does.

    Args:
        engine: One of `ENGINES`.
        folder: The export.
        precision: What it shall compute in.
        device: Where.
        preprocesses: Whether pictures are resized in the graph.
    """
    module = {"paddle": "paddle", "onnxruntime": "onnxruntime", "openvino": "openvino"}[engine]
    if importlib.util.find_spec(module) is None:
        extra = {"paddle": "cpu", "onnxruntime": "onnx", "openvino": "openvino"}[engine]
        return f'it is not installed (pip install "paddlevit[{extra}]")'
    has_paddle = any((folder / f"model{suffix}").is_file() for suffix in (".json", ".pdmodel"))
    if not (has_paddle if engine == "paddle" else (folder / ONNX_FILE).is_file()):
        return f"the export has no file for it (tools/export.py --format {'paddle' if engine == 'paddle' else 'onnx'})"
    if engine == "paddle" and precision == "int8":
        return "Paddle has no int8 here; use onnxruntime or openvino"
    if engine == "onnxruntime" and precision == "bf16":
        return "it has no bfloat16 on a CPU; use paddle or openvino"
    if engine == "openvino" and device.startswith("gpu"):
        return "it is used on CPUs only here"
    if engine == "openvino" and preprocesses:
        return "it has no float64, without which pictures resized in the graph are not Pillow's"
    return ""


def choose_engines(engine: str, folder: Path, precision: str, device: str, preprocesses: bool = False) -> list[str]:
    """The engine asked for, or for `auto` all that can run an export here; see `why_not`.

    Raises:
        ValueError: There is none, and why.
    """
    asked = [name for name in ENGINES if engine in ("auto", name)]
    reasons = {name: why_not(name, folder, precision, device, preprocesses) for name in asked}
    able = [name for name, reason in reasons.items() if not reason]
    if not able:
        raise ValueError(
            f"{folder} cannot run in {precision} here. "
            + " ".join(f"{name}: {reason}." for name, reason in reasons.items())
        )
    return able


def check_device(device: str) -> None:
    """Raise ValueError unless this names a device, whether it is there or not."""
    name, _, index = device.partition(":")
    if name not in ("auto", "cpu", "gpu") or (index and not (name == "gpu" and index.isdigit())):
        raise ValueError(f"device is {device!r}; it must be auto, cpu, gpu or gpu:N.")


def load_engine(engine: str, folder: Path, threads: int | None, device: str, precision: str) -> Engine:
    """The engine of that name, which `choose_engines` allowed, ready to run."""
    if engine == "paddle":
        return PaddleEngine(folder, threads, device, precision)
    if engine == "onnxruntime":
        return OnnxRuntimeEngine(folder, threads, device)
    return OpenVinoEngine(folder, threads, precision)


def load_engines(
    engine: str, folder: Path, threads: int | None, device: str, precision: str, preprocesses: bool = False
) -> dict[str, Engine]:
    """The engine asked for, or for `auto` all that can run an export here (see `why_not`), each ready to run.

    With `auto`, one that fails is left out, and a warning is logged.

    Raises:
        ValueError: There is none, and why.
    """
    check_device(device)
    names = choose_engines(engine, folder, precision, device, preprocesses)
    if engine != "auto":
        return {engine: load_engine(engine, folder, threads, device, precision)}
    engines: dict[str, Engine] = {}
    failed: dict[str, Exception] = {}
    for name in names:
        try:
            engines[name] = load_engine(name, folder, threads, device, precision)
        except Exception as error:  # every engine raises errors of its own
            failed[name] = error
    return left_after(engines, failed, f"{folder} cannot run in {precision} here.")


def left_after(engines: dict[str, Engine], failed: dict[str, Exception], none_left: str) -> dict[str, Engine]:
    """The engines that did not fail, with a warning about those that did; ValueError if none is left."""
    reasons = {name: " ".join(str(error).split())[-400:] for name, error in failed.items()}
    if not engines:
        raise ValueError(" ".join([none_left, *(f"{name}: {reason}" for name, reason in reasons.items())]))
    for name, reason in reasons.items():
        LOGGER.warning("The engine %s is left out: %s", name, reason)
    return engines


class FastestEngine:
    """Several engines for one export: the first batch is timed on all, and the fastest stays.

    One that fails at it is left out, and a warning is logged.

    Args:
        engines: By name.
    """

    def __init__(self, engines: dict[str, Engine]) -> None:
        self.engines = engines

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """One array per output.

        Raises:
            ValueError: No engine could run the first batch, and why.
        """
        if len(self.engines) > 1:
            self._choose(batch)
        (engine,) = self.engines.values()
        return engine.run(batch)

    def _choose(self, batch: np.ndarray) -> None:
        times: dict[str, float] = {}
        failed: dict[str, Exception] = {}
        for name, engine in self.engines.items():
            try:
                times[name] = median_time(engine, batch)
            except Exception as error:  # every engine raises errors of its own
                failed[name] = error
        able = left_after({name: self.engines[name] for name in times}, failed, "No engine can run this batch.")
        fastest = min(able, key=lambda name: times[name])
        self.engines = {fastest: able[fastest]}


def median_time(engine: Engine, batch: np.ndarray) -> float:
    """Seconds for a batch, the median of `TRIALS` after one run that does not count."""
    engine.run(batch)
    times = []
    for _ in range(TRIALS):
        start = time.perf_counter()
        engine.run(batch)
        times.append(time.perf_counter() - start)
    return sorted(times)[TRIALS // 2]
