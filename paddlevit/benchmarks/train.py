"""How fast a training step is: ours beside PaddleViT-style code and timm on torch, in turn, in one run.

PaddleViT-style code is the same network trained by a plain loop, with every operation Paddle's own.

Every side is a process of its own, because environment variables and allocator settings hold for a whole process. The
sides take their steps in turn, and the ratios of single rounds are compared, so that a busy machine slows all alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

STEP_FACTOR = 3  # backward costs two products for each of forward's
LIMIT_SIDE = 1024


@dataclass(frozen=True)
class Case:
    """A network and a batch."""

    name: str
    """Of the model, ours and timm's."""
    image_size: int
    """Height and width."""
    batch_size: int
    """Pictures per step."""
    sizes: dict[str, int]
    """Keywords that differ from the name's own; the same in both libraries."""


CASES = {
    "vit_small": Case("vit_small_patch16_224", 224, 8, {}),
    "vit_tiny": Case("vit_tiny_patch16_224", 224, 8, {}),
    "vit_32": Case("vit_tiny_patch16_224", 32, 64, {"patch_size": 4, "embed_dim": 192, "depth": 6}),
}

# Side -> whether our settings are on. All Paddle sides train the same network.
OURS, RECOMPUTE, LOOP = "ours", "ours, recompute", "ours without paddle.Model"
TUNED, PLAIN, TORCH = "PaddleViT-style, our settings", "PaddleViT-style, plain", "torch eager, timm"
SIDES = {OURS: True, RECOMPUTE: True, LOOP: True, TUNED: True, PLAIN: False, TORCH: False}
_SETTINGS = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "FLAGS_use_stride_kernel", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Figures:
    """What was measured of one side."""

    seconds: float
    """Median of a step."""
    slowness: float
    """Median over the rounds of its time over ours."""
    memory: int
    """Bytes that training took at most, above what the process had before its first step."""
    share_of_limit: float
    """Floating-point operations per second, as a share of the best matrix product that any side made."""


# What is compared, the two sides, of which figure the first's is divided by the second's, and what is aimed at.
AIMS = (
    ("speed of ours over PaddleViT-style code run plainly", PLAIN, OURS, "slowness", "at least", 4.0),
    ("speed of ours over the same code with our settings", TUNED, OURS, "slowness", "at least", 1.15),
    ("speed of ours over torch eager with timm", TORCH, OURS, "slowness", "at least", 1.0),
    ("memory of ours over torch's", OURS, TORCH, "memory", "at most", 1.4),
    ("memory with recompute over without", RECOMPUTE, OURS, "memory", "at most", 0.5),
    ("a step with paddle.Model over one without", OURS, LOOP, "slowness", "at most", 1.03),
)


def pick_case(name: str, model: str | None = None, batch: int | None = None) -> Case:
    """A case by name, or another model at the image size it was made for, or another batch size.

    Raises:
        ValueError: An unknown case or model, or fewer than one picture.
    """
    from paddlevit.errors import check_choice
    from paddlevit.models import get_spec

    check_choice("case", name, tuple(CASES))
    case = CASES[name]
    if batch is not None and batch < 1:
        raise ValueError(f"batch is {batch}; it must be at least 1.")
    if model is not None:
        case = Case(model, get_spec(model).preprocessing.image_size[0], case.batch_size, {})
    return replace(case, batch_size=batch or case.batch_size)


def _paddle_step(side: str, case: Case) -> Callable[[], object]:
    """A training step of one of the Paddle sides."""
    if SIDES[side]:
        from paddlevit import runtime

        runtime.prepare()
        runtime.pick_device("cpu")
    import paddle

    from paddlevit.config import OptimizerConfig
    from paddlevit.models import create_model
    from paddlevit.training import Steps, Trainer
    from paddlevit.training.fast_cpu import fast_gradients
    from paddlevit.training.losses import Loss, cross_entropy
    from paddlevit.training.optimizer import build_optimizer

    options: dict[str, Any] = {**case.sizes, "use_checkpoint": side == RECOMPUTE}
    network = create_model(case.name, image_size=case.image_size, **options)
    optimizer = build_optimizer(network, OptimizerConfig())
    images = paddle.randn([case.batch_size, 3, case.image_size, case.image_size])
    labels = paddle.arange(case.batch_size)
    if side in (OURS, RECOMPUTE):
        steps = Steps(lambda update: 1e-3, batches_per_epoch=1, fast_cpu=True)
        trainer = Trainer(network).setup(optimizer, Loss(cross_entropy), steps)

        def train() -> None:
            trainer.progress.batch = 0
            trainer.train_batch([images], [labels])

        return train

    def loop() -> None:
        network.train()
        with fast_gradients(network, side == LOOP):
            loss = cross_entropy(network(images), labels)
            loss.backward()
        optimizer.step()
        optimizer.clear_grad(set_to_zero=side != LOOP)
        float(loss)

    return loop


def _torch_step(case: Case) -> Callable[[], object]:
    """A training step of timm's network of that name on torch."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    with contextlib.suppress(RuntimeError):  # a torchvision without its kernels can only be imported with these names
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    network = timm.create_model(case.name, img_size=case.image_size, **case.sizes)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.05)
    images, labels = torch.randn(case.batch_size, 3, case.image_size, case.image_size), torch.arange(case.batch_size)

    def step() -> None:
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def _products_per_second(side: str) -> float:
    """Floating-point operations per second of the best of a few large matrix products."""
    if side == TORCH:
        import torch

        a, b = torch.randn(LIMIT_SIDE, LIMIT_SIDE), torch.randn(LIMIT_SIDE, LIMIT_SIDE)
        multiply: Callable[[], object] = lambda: a @ b  # noqa: E731
    else:
        import paddle

        x, y = paddle.randn([LIMIT_SIDE, LIMIT_SIDE]), paddle.randn([LIMIT_SIDE, LIMIT_SIDE])
        multiply = lambda: paddle.matmul(x, y)  # noqa: E731
    return 2 * LIMIT_SIDE**3 / min(_timed(multiply) for _ in range(20))


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _memory_now() -> int:
    """Resident bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def serve(side: str, case: Case) -> None:
    """Take a step for every line of standard input, and answer with its seconds; an empty line ends it with figures."""
    step = _torch_step(case) if side == TORCH else _paddle_step(side, case)
    start = _memory_now()
    out = os.fdopen(os.dup(1), "w")

    def print_line(value: Any) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    print_line("ready")
    for line in sys.stdin:
        if not line.strip():
            break
        print_line(_timed(step))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - start
    print_line({"memory": peak, "limit": _products_per_second(side)})


@contextlib.contextmanager
def _process(python: str, side: str, case: Case) -> Iterator[Callable[[str], Any]]:
    """A process that serves one side, as a function from a line to its answer."""
    environment = {key: value for key, value in os.environ.items() if key not in _SETTINGS}
    command = [python, "-W", "ignore", "-m", "paddlevit.benchmarks.train", side, json.dumps(asdict(case))]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with subprocess.Popen(command, env=environment, **pipes) as process:  # type: ignore[call-overload]

        def ask(line: str) -> Any:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
            return answer()

        def answer() -> Any:
            for line in process.stdout:
                if line.startswith(("{", '"', *"0123456789")):
                    return json.loads(line)
            raise RuntimeError(f"The side {side!r} of the benchmark ended.")

        answer()
        try:
            yield ask
        finally:
            process.kill()


def has_timm(python: str) -> bool:
    """Whether torch and timm are installed for an interpreter."""
    code = "import importlib.util as u, sys; sys.exit(not (u.find_spec('timm') and u.find_spec('torch')))"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


def run(
    case: Case,
    rounds: int = 10,
    sides: Sequence[str] = tuple(SIDES),
    torch_python: str = sys.executable,
) -> dict[str, Figures]:
    """Train with every side, in turn.

    Args:
        case: One of CASES, or another.
        rounds: Steps of each side that count; two before them warm up.
        sides: Of SIDES; the others are compared with the first.
        torch_python: Interpreter that has torch and timm; without them that side is left out.

    Returns:
        Side -> figures.
    """
    sides = [side for side in sides if side != TORCH or has_timm(torch_python)]
    times: dict[str, list[float]] = {}
    ends: dict[str, dict[str, float]] = {}
    with contextlib.ExitStack() as stack:
        asks = {}
        for side in sides:
            python = torch_python if side == TORCH else sys.executable
            asks[side] = stack.enter_context(_process(python, side, case))
        for _ in range(rounds + 2):
            for side, ask in asks.items():
                times.setdefault(side, []).append(ask("step"))
        for side, ask in asks.items():
            ends[side] = ask("")
    operations, limit = _operations(case), max(end["limit"] for end in ends.values())
    figures = {}
    for side in sides:
        seconds = statistics.median(times[side][2:])
        slowness = statistics.median(b / a for a, b in zip(times[sides[0]][2:], times[side][2:]))
        figures[side] = Figures(seconds, slowness, int(ends[side]["memory"]), operations / seconds / limit)
    return figures


def _operations(case: Case) -> float:
    """Floating-point operations of a training step."""
    from paddlevit.complexity import count_multiply_adds
    from paddlevit.models import create_model

    options: dict[str, Any] = dict(case.sizes)
    network = create_model(case.name, image_size=case.image_size, **options)
    shape = (1, 3, case.image_size, case.image_size)
    return 2.0 * STEP_FACTOR * count_multiply_adds(network, shape) * case.batch_size


def report(case: Case, figures: dict[str, Figures]) -> str:
    """A table of the figures, and beside every aim what was reached."""
    first = next(iter(figures.values()))
    lines = [f"{case.name} at {case.image_size} pixels, batch {case.batch_size}: a training step, medians"]
    lines.append(f"{'':30}{'images/s':>10}{'ms':>8}{'time/ours':>11}{'MiB':>8}{'MiB/ours':>10}{'of limit':>10}")
    for side, row in figures.items():
        rate, memory = case.batch_size / row.seconds, row.memory / 2**20
        lines.append(
            f"{side:30}{rate:10.1f}{1000 * row.seconds:8.0f}{row.slowness:11.2f}{memory:8.0f}"
            f"{row.memory / first.memory:10.2f}{100 * row.share_of_limit:8.0f} %"
        )
    lines.append("MiB: above what the process had before its first step. Limit: the best matrix product of any side.")
    for what, over, under, figure, bound, aim in AIMS:
        if over in figures and under in figures:
            ratio = getattr(figures[over], figure) / getattr(figures[under], figure)
            lines.append(f"{what:56}{ratio:6.2f}  (aim: {bound} {aim:g})")
    return "\n".join(lines)


if __name__ == "__main__":
    serve(sys.argv[1], Case(**json.loads(sys.argv[2])))
