"""Loading weights from safetensors: ours beside timm, in turn, each in a fresh process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from paddlevit.benchmarks.sides import ROOT, import_timm

MEMORY_BAR = 1.3
"""Peak memory above the model, over the model's own size."""
TIME_BAR = 1.5
"""Our seconds over timm's."""
Figures = dict[str, dict[str, float]]


def run(model: str = "vit_large_patch16_224", rounds: int = 3, torch_python: str = sys.executable) -> Figures:
    """Create and load a model from one file under timm's names, by each side that is installed.

    Args:
        model: A name that timm has too.
        rounds: How often each side is measured, in turn; medians count.
        torch_python: A Python that has torch and timm.

    Returns:
        By side: `seconds` from the name to the loaded model, `peak`, the largest memory while loading above that of the
        model that was created, over the model's size, and `size`, in bytes. timm is missing when it is not installed.

    Raises:
        OSError: Not Linux, which alone tells the peak of a part of a process's life.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise OSError("Peak memory of loading alone is measured on Linux only.")
    pythons = {"ours": sys.executable, "timm": torch_python}
    measured: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.safetensors")
        if _answer(sys.executable, "make", model, file) is None:
            raise OSError(f"{model} could not be written to {file}.")
        for _ in range(rounds):
            for side, python in list(pythons.items()):
                answer = _answer(python, side, model, file)
                if answer is None:
                    del pythons[side]
                else:
                    measured.setdefault(side, []).append(answer)
    return {
        side: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for side, rows in measured.items()
    }


def report(model: str, figures: Figures) -> str:
    """A table, and how the figures stand to the bars."""
    ours, timm = figures["ours"], figures.get("timm")
    lines = [
        f"{model}, {ours['size'] / 2**20:.0f} MiB of weights",
        f"{'':6} {'seconds':>8} {'peak above the model, over its size':>36}",
    ]
    lines += [f"{side:6} {row['seconds']:8.2f} {row['peak']:36.2f}" for side, row in figures.items()]
    lines.append(f"peak memory: {ours['peak']:.2f} of the model's size (bar: at most {MEMORY_BAR})")
    if timm is None:
        lines.append("timm is not installed; --torch-python names a Python that has it")
    else:
        lines.append(f"time: {ours['seconds'] / timm['seconds']:.2f} of timm's (bar: at most {TIME_BAR})")
    return "\n".join(lines)


def _answer(python: str, side: str, model: str, file: str) -> dict[str, float] | None:
    """What a fresh process measured; None when the side's library is not there."""
    command = [python, "-W", "ignore", "-m", "paddlevit.benchmarks.load", side, model, file]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "ModuleNotFoundError" in done.stderr:
        return None
    raise RuntimeError(f"{side} cannot load {model}: {' '.join(done.stderr.split())[-300:]}")


def make(model: str, file: str) -> dict[str, Any]:
    """Write fresh weights under timm's names."""
    from paddlevit.models import create_model
    from paddlevit.weights import save_weights

    save_weights(create_model(model), file, to="timm")
    return {}


def ours(model: str, file: str) -> dict[str, float]:
    """Our `create_model` and `load_weights`."""
    from paddlevit import runtime

    runtime.prepare()
    import paddle  # noqa: F401 (its import is no part of loading)

    from paddlevit.models import create_model
    from paddlevit.weights import load_weights

    start = time.perf_counter()
    network = create_model(model)
    before = _forget_peak()
    load_weights(network, file)
    seconds = time.perf_counter() - start
    size = 4 * sum(int(parameter.size) for parameter in network.parameters())
    return {"seconds": seconds, "peak": (_memory("VmHWM") - before) / size, "size": size}


def timm(model: str, file: str) -> dict[str, float]:
    """timm's `create_model` with `checkpoint_path`; for the memory, its two steps one by one."""
    library = import_timm()
    network = library.create_model(model)
    before = _forget_peak()
    library.models.load_checkpoint(network, file)
    size = 4 * sum(parameter.numel() for parameter in network.parameters())
    peak = (_memory("VmHWM") - before) / size
    del network
    start = time.perf_counter()
    library.create_model(model, checkpoint_path=file)
    return {"seconds": time.perf_counter() - start, "peak": peak, "size": size}


def _forget_peak() -> int:
    """Let the peak start at the present memory, and return that."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(key: str) -> int:
    """Bytes that /proc/self/status says."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}.")


if __name__ == "__main__":
    _SIDE, _MODEL, _FILE = sys.argv[1:]
    sys.stdout.write(json.dumps({"make": make, "ours": ours, "timm": timm}[_SIDE](_MODEL, _FILE)) + "\n")
