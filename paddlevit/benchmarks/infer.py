"""How fast a network answers: our export beside our eager network, timm on torch, ONNX Runtime and OpenVINO, in turn.

All sides hold the same weights, and every answer is compared before anything is timed. The sides run in turn, and the
ratios of single rounds are compared, so that a busy machine slows all alike.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paddlevit import runtime
from paddlevit.benchmarks.sides import Side, picture_batch
from paddlevit.errors import check_choice

OURS = "ours, export"
OURS_FP32 = "ours, export in fp32"
EAGER = "ours, eager"
SIDES = (
    OURS,
    OURS_FP32,
    "ours, onnxruntime",
    "ours, openvino",
    EAGER,
    "Paddle eager, its own settings",
    "timm, torch",
    "timm, torch.compile",
    "ONNX Runtime, plain export",
    "OpenVINO, plain export",
)
PRECISIONS = ("fp32", "bf16", "int8")
CALIBRATION = 8  # pictures
STARTS = 3
NOTES = {
    "fp32": "",
    "bf16": " Paddle's eager sides compute in fp32.",
    "int8": " Ours on ONNX Runtime and OpenVINO compute in int8, Paddle's eager sides in fp32, all others in bf16.",
}


@dataclass(frozen=True)
class Figures:
    """What was measured of one side at one size of batch."""

    side: str
    """Which."""
    batch: int
    """Pictures per run."""
    p50: float
    """Median seconds of a run."""
    p99: float
    """Seconds that 99 % of the runs do not exceed."""
    slowness: float
    """Median over the rounds of its time over ours."""
    share_of_limit: float
    """The network's multiply-adds per second over those of a large fp32 matrix product."""
    memory: int
    """Peak resident bytes of its process, after all sizes of batch."""
    cold_start: float
    """Seconds from starting its interpreter to the first answer, the median of `STARTS`."""
    difference: float
    """Largest difference of its logits from ours, over the largest logit."""


def run(
    model: str = "vit_base_patch16_224",
    batches: Sequence[int] = (1, 16),
    rounds: int = 10,
    precision: str = "fp32",
    threads: int | None = None,
    sides: Sequence[str] = SIDES,
    torch_python: str = sys.executable,
    options: dict[str, Any] | None = None,
) -> tuple[list[Figures], dict[str, str]]:
    """Time every side that is installed.

    Args:
        model: A name that timm has, too.
        batches: Pictures per run.
        rounds: Runs of each side that count; one before them warms up.
        precision: `fp32`; `bf16`, without the engines that have none, while eager networks in Paddle stay fp32; `int8`,
            which our export has on ONNX Runtime and OpenVINO, beside all others in bf16.
        threads: CPU threads; None is every core.
        sides: Of SIDES; our export is always there.
        torch_python: Interpreter that has torch and timm.
        options: Keywords of the network that differ from the name's own.

    Returns:
        Figures by batch and side, and for each side that is left out why.

    Raises:
        ValueError: An unknown precision, side or model, or no round or picture.
    """
    check_choice("precision", precision, PRECISIONS)
    for side in sides:
        check_choice("side", side, SIDES)
    if rounds < 1 or not batches or min(batches) < 1:
        raise ValueError(f"rounds is {rounds} and batches is {list(batches)}; each must be at least 1.")
    threads = threads or runtime.cpu_count()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        specs, operations = prepare(model, Path(folder), precision, threads, options or {})
        running: dict[str, Side] = {}
        left_out: dict[str, str] = {}
        for name in dict.fromkeys([OURS, *sides]):
            reason = missing(name, precision, torch_python)
            if not reason:
                try:
                    python = torch_python if name.startswith("timm") else sys.executable
                    running[name] = stack.enter_context(started(specs[name], python))
                except RuntimeError as error:
                    reason = str(error)
            if reason:
                left_out[name] = reason
        # An exported graph's process computes eager products on one thread.
        limit = max(running[name].limit() for name in (OURS, EAGER) if name in running)
        times = {batch: in_turn(running, batch, rounds) for batch in batches}
        return [
            figures(name, side, batch, times[batch], operations * batch / limit, running[OURS].answer)
            for batch in batches
            for name, side in running.items()
        ], left_out


def started(spec: dict[str, Any], python: str) -> Side:
    """A side that runs; its cold start is the median of `STARTS`."""
    seconds = []
    for _ in range(STARTS - 1):
        with Side(spec, python) as side:
            seconds.append(side.cold_start)
    side = Side(spec, python)
    side.cold_start = statistics.median([*seconds, side.cold_start])
    return side


def in_turn(sides: dict[str, Side], batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for count in range(rounds + 1):
        for name, side in sides.items():
            seconds = side.seconds(batch)
            if count:
                times[name].append(seconds)
    return times


def figures(
    name: str, side: Side, batch: int, times: dict[str, list[float]], limit_seconds: float, reference: np.ndarray
) -> Figures:
    """What the times of one side come to; `limit_seconds` is what a batch takes at the limit."""
    own = times[name]
    return Figures(
        side=name,
        batch=batch,
        p50=statistics.median(own),
        p99=float(np.percentile(own, 99)),
        slowness=statistics.median(theirs / ours for theirs, ours in zip(own, times[OURS])),
        share_of_limit=limit_seconds / statistics.median(own),
        memory=side.peak_memory(),
        cold_start=side.cold_start,
        difference=float(np.abs(side.answer - reference).max() / max(np.abs(reference).max(), 1.0)),
    )


def prepare(
    model: str, folder: Path, precision: str, threads: int, options: dict[str, Any]
) -> tuple[dict[str, dict[str, Any]], float]:
    """Write one network's weights in every form, and say how each side loads them.

    Returns:
        What each side is told, and the floating-point operations for one picture.
    """
    runtime.prepare(threads)
    import paddle

    from paddlevit.complexity import count_multiply_adds
    from paddlevit.inference import export_model
    from paddlevit.inference.engines import paddle_graph
    from paddlevit.inference.onnx_export import convert
    from paddlevit.models import create_model, input_spec
    from paddlevit.weights.save import save_weights

    runtime.pick_device("cpu")
    network = create_model(model, **options)
    disturb(network)
    network.eval()
    shape = (network.preprocessing.channels, *network.preprocessing.image_size)
    with_onnx = all(map(importlib.util.find_spec, ("paddle2onnx", "onnxruntime")))
    export_model(network, folder / "export", format="both" if with_onnx else "paddle")
    if with_onnx:
        paddle.jit.save(network, str(folder / "plain" / "model"), input_spec=[input_spec(network)])
        convert(paddle_graph(folder / "plain"), folder / "plain" / "model.pdiparams", folder / "plain.onnx")
        if precision == "int8":
            pictures = picture_batch(CALIBRATION, shape)
            export_model(network, folder / "int8", format="onnx", precision="int8", calibration=pictures)
    paddle.save(network.state_dict(), str(folder / "paddle.pdparams"))
    save_weights(network, folder / "timm.safetensors", to="timm")
    others = "bf16" if precision == "int8" else precision
    common = {"shape": shape, "threads": threads, "precision": others, "model": model, "options": options}
    eager = {**common, "kind": "eager", "weights": str(folder / "paddle.pdparams")}
    timm = {**common, "kind": "timm", "weights": str(folder / "timm.safetensors")}
    export = {**common, "kind": "export", "folder": str(folder / "export"), "engine": "paddle"}
    onnx = {**export, "folder": str(folder / ("int8" if precision == "int8" else "export")), "precision": precision}
    plain = {**common, "file": str(folder / "plain.onnx")}
    return {
        OURS: export,
        OURS_FP32: {**export, "precision": "fp32"},
        "ours, onnxruntime": {**onnx, "engine": "onnxruntime"},
        "ours, openvino": {**onnx, "engine": "openvino"},
        "ours, eager": {**eager, "tuned": True},
        "Paddle eager, its own settings": {**eager, "tuned": False},
        "timm, torch": {**timm, "compiled": False},
        "timm, torch.compile": {**timm, "compiled": True},
        "ONNX Runtime, plain export": {**plain, "kind": "onnxruntime"},
        "OpenVINO, plain export": {**plain, "kind": "openvino"},
    }, 2.0 * count_multiply_adds(network, (1, *shape))


def disturb(network: Any) -> None:
    """Add noise to every parameter, so that a fresh network, whose classifier is zero, has answers to compare."""
    rng = np.random.default_rng(0)
    for parameter in network.parameters():
        noise = 0.02 * rng.standard_normal(parameter.shape, dtype=np.float32)
        parameter.set_value(parameter.numpy() + noise)


def missing(side: str, precision: str, torch_python: str) -> str:
    """Why a side cannot take part; empty if it can."""
    if side == OURS_FP32 and precision == "fp32":
        return f"it is {OURS!r}"
    for word, module in (("openvino", "openvino"), ("onnx", "onnxruntime")):
        if word in side.lower() and not all(map(importlib.util.find_spec, (module, "paddle2onnx", "onnxruntime"))):
            return f"{module}, paddle2onnx and onnxruntime are not all installed"
    int8 = precision == "int8" and side.startswith("ours")
    if precision != "fp32" and "onnx" in side.lower() and not int8:
        return "it has no bfloat16 on a CPU"
    if side.startswith("timm"):
        code = "import importlib.util as u, sys; sys.exit(not (u.find_spec('timm') and u.find_spec('torch')))"
        if shutil.which(torch_python) is None or subprocess.run([torch_python, "-c", code], check=False).returncode:
            return f"{torch_python} has no torch and timm (--torch-python names one that has)"
    return ""


def report(model: str, precision: str, results: tuple[list[Figures], dict[str, str]]) -> str:
    """A table of the figures, and why sides are missing."""
    rows, left_out = results
    head = f"{'':32}{'p50 ms':>8}{'p99 ms':>8}{'images/s':>10}{'time/ours':>11}{'of limit':>10}{'MiB':>7}{'cold s':>8}"
    lines = []
    for batch in dict.fromkeys(row.batch for row in rows):
        lines += [f"{model}, batch {batch}, {precision}", head]
        for row in (row for row in rows if row.batch == batch):
            lines.append(
                f"{row.side:32}{1000 * row.p50:8.1f}{1000 * row.p99:8.1f}{batch / row.p50:10.1f}{row.slowness:11.2f}"
                f"{100 * row.share_of_limit:8.0f} %{row.memory / 2**20:7.0f}{row.cold_start:8.2f}"
            )
    lines.append(f"of limit: over the best fp32 matrix product of this machine.{NOTES[precision]}")
    lines += [f"{side}: left out, {reason}" for side, reason in left_out.items()]
    largest = max(rows, key=lambda row: row.difference)
    return "\n".join(
        [*lines, f"Largest difference from ours: {largest.difference:.1e} of the largest logit ({largest.side})."]
    )
