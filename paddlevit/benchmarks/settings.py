"""Do the tools find the fast CPU settings by themselves? A plain start beside hand-tuned environments, in turn."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

# One training step of ViT-Ti/16 in a fresh process, with or without our own choice of settings.
_STEP = """
import json, sys, time
if {prepare}:
    from paddlevit import runtime
    runtime.prepare()
import paddle, paddlevit
if {prepare}:
    runtime.pick_device("cpu")
paddle.seed(0)
model = paddlevit.create_model("vit_tiny_patch16_224")
optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters())
x, y = paddle.randn([8, 3, 224, 224]), paddle.arange(8)
times = []
for _ in range({steps}):
    start = time.perf_counter()
    loss = paddle.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    times.append(time.perf_counter() - start)
print(json.dumps(sorted(times[2:])[len(times[2:]) // 2]))
"""
_KNOBS = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "FLAGS_use_stride_kernel")
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


def _environments() -> dict[str, tuple[bool, dict[str, str]]]:
    """Name -> whether we choose the settings, and the variables that a user would export instead."""
    cores = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    threads = {"OMP_NUM_THREADS": cores}
    flags = {**threads, "FLAGS_use_stride_kernel": "0"}
    return {
        "ours, started plainly": (True, {}),
        "Paddle, started plainly": (False, {}),
        "all cores": (False, threads),
        "all cores, no stride kernels": (False, flags),
        "  + MKL type 5": (False, {**flags, "MKL_DEBUG_CPU_TYPE": "5"}),
        "  + MKL type 7": (False, {**flags, "MKL_DEBUG_CPU_TYPE": "7"}),
        "  + MKL type 7, malloc": (False, {**flags, "MKL_DEBUG_CPU_TYPE": "7", **_MALLOC}),
    }


def run(rounds: int = 3, steps: int = 8) -> dict[str, float]:
    """Seconds per training step of ViT-Ti/16, batch 8, in each environment.

    Args:
        rounds: How often each environment is measured, in turn; the median counts.
        steps: Training steps per process, of which two are warm-up.

    Returns:
        Median seconds by environment.
    """
    times: dict[str, list[float]] = {name: [] for name in _environments()}
    clean = {key: value for key, value in os.environ.items() if key not in _KNOBS}
    for _ in range(rounds):
        for name, (prepare, variables) in _environments().items():
            code = _STEP.format(prepare=prepare, steps=steps)
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", code],
                env={**clean, **variables},
                capture_output=True,
                text=True,
                check=True,
            )
            times[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {name: statistics.median(values) for name, values in times.items()}


def report(medians: dict[str, float]) -> str:
    """A table with each environment's time over ours, and the ratio to the best hand-tuned one."""
    ours = medians["ours, started plainly"]
    best = min(value for name, value in medians.items() if not name.startswith("ours"))
    lines = [f"{'ViT-Ti/16, batch 8, one training step':40} {'ms':>8} {'over ours':>10}"]
    lines += [f"{name:40} {1000 * value:8.0f} {value / ours:10.2f}" for name, value in medians.items()]
    return "\n".join([*lines, f"ours over the best hand-tuned environment: {ours / best:.2f}"])
