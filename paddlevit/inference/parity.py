"""Is the export the network? Inputs to try, what should come out, and how far off the answers are.

Shapes: B batch, C image channels, H W image height and width, K classes.
"""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle
from paddle import nn

from paddlevit.inference.folder import ExportInfo
from paddlevit.inference.graph import Graph

TOLERANCE = 1e-5
BATCHES = (1, 3)


@dataclass(frozen=True)
class ExportReport:
    """What an export came to."""

    folder: Path
    """Where it is."""
    inputs: tuple[tuple[int, ...], ...]
    """The shapes that it was tried with in fp32."""
    differences: tuple[float, ...]
    """For each of them, the largest absolute difference of a value between the export and the network."""
    relative_difference: float
    """The largest of them, of each output over its largest value or 1, whichever is more; above 1e-5 an export is
    refused."""
    engines: tuple[str, ...]
    """What ran it in the precision of the export."""
    reduced_difference: Optional[float] = None
    """`relative_difference` in the precision of the export, where that is not fp32, on the engine that is worst."""
    agreement: Optional[float] = None
    """Share of the calibration pictures whose most probable class in that precision is the network's, on the engine
    that is worst; None for a regression, and where no pictures were given, since noise would tell nothing."""
    pictures: Optional[int] = None
    """How many pictures there were."""

    @property
    def largest_difference(self) -> float:
        """Largest of `differences`."""
        return max(self.differences)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `inference.yml`."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if name != "folder"}
        return {"tolerance": TOLERANCE, "largest_difference": self.largest_difference, **plain}


def sample_inputs(network: nn.Layer, multiple: tuple[int, int] | None, with_preprocess: bool) -> list[np.ndarray]:
    """What to try an export with.

    Args:
        network: For the shape of its input.
        multiple: What height and width must be multiples of; None where they are fixed.
        with_preprocess: Whether the graph takes pictures as bytes.

    Returns:
        Normal noise [B, C, H, W], or smooth pictures as bytes [B, H, W, C]; first of the network's own size.
    """
    rng = np.random.default_rng(0)
    channels, (height, width) = network.preprocessing.channels, network.preprocessing.image_size
    if with_preprocess:
        return [smooth_bytes(rng, (1, height + 13, 2 * width + 6, channels)), smooth_bytes(rng, (3, 31, 40, channels))]
    inputs = [rng.standard_normal((size, channels, height, width), dtype=np.float32) for size in BATCHES]
    if multiple is not None:
        taller = (channels, height + multiple[0], width)
        smaller = (channels, max(height // 2 // multiple[0], 1) * multiple[0], width + 2 * multiple[1])
        inputs += [rng.standard_normal((2, *shape), dtype=np.float32) for shape in (taller, smaller)]
    return inputs


def smooth_bytes(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> np.ndarray:
    """uint8 [B, H, W, C]: waves with some noise on them, so that resizing is not all rounding."""
    batch, height, width, channels = shape
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    phase = rng.uniform(0, 6, (batch, 1, 1, channels))
    waves = 100 * np.sin(rows / 9 + phase) * np.cos(columns / 13 + 2 * phase) + 128
    return (waves + rng.integers(-20, 20, shape)).clip(0, 255).astype(np.uint8)


def expected_outputs(network: nn.Layer, graph: Graph, batch: np.ndarray) -> list[np.ndarray]:
    """What the export of `graph` should answer: the network's own logits, and the graph's further outputs.

    For a size of pictures that the network was not built for, all are the graph's.
    """
    with paddle.no_grad():
        outputs = graph(paddle.to_tensor(batch))
        picture = batch
        if graph.picture_input is not None:
            picture = prepared(network, batch)
            ours = graph.picture_input(paddle.to_tensor(batch)).numpy()
            level = graph.picture_input.factor.numpy()
            if (np.abs(ours - picture) < 1.01 * level).all():  # which order Pillow resizes in depends on its version
                picture = ours
        if tuple(picture.shape[2:]) == tuple(network.preprocessing.image_size):
            logits = network(paddle.to_tensor(picture))
            outputs[0] = nn.functional.softmax(logits) if graph.softmax else logits
    return [output.numpy() for output in outputs]


def prepared(network: nn.Layer, batch: np.ndarray) -> np.ndarray:
    """Pictures as bytes [B, H, W, C], prepared outside the graph: float32 [B, C, height, width]."""
    from paddlevit.data import eval_transform

    transform = eval_transform(network.preprocessing)
    return np.stack([transform(picture) for picture in batch])


def compare(
    folder: str | Path,
    inputs: list[np.ndarray],
    expected: list[list[np.ndarray]],
    got: dict[str, list[list[np.ndarray]]],
) -> ExportReport:
    """How far an export's answers are from what they should be.

    Args:
        folder: For the report.
        inputs: What the export was given.
        expected: For each input, each output.
        got: The same, of each engine that ran it.

    Raises:
        ValueError: Further than `TOLERANCE` of the scale, or not numbers.
    """
    pairs = [[differences(x, y) for x, y in zip(expected, answers)] for answers in got.values()]  # [engines, inputs, 2]
    largest, relative = np.max(pairs, axis=0).T
    if not relative.max() <= TOLERANCE:  # also when it is NaN
        raise ValueError(
            f"The export differs from the network by {largest.max():.2e}, which is {relative.max():.2e} of the largest"
            f" value and more than {TOLERANCE}. Nothing was written to {folder}."
        )
    shapes = tuple(batch.shape for batch in inputs)
    return ExportReport(Path(folder), shapes, tuple(largest.tolist()), float(relative.max()), tuple(got))


def differences(expected: list[np.ndarray], got: list[np.ndarray]) -> tuple[float, float]:
    """Largest absolute difference, and largest over each output's scale; NaN when a value is not a number."""
    largest = [float(np.abs(a - b).max()) for a, b in zip(expected, got)]
    scales = [max(1.0, float(np.abs(a).max())) for a in expected]
    return float(np.max(largest)), float(np.max(np.divide(largest, scales)))


def measure_reduced(
    report: ExportReport, expected: list[list[np.ndarray]], got: dict[str, list[list[np.ndarray]]], classes: bool
) -> ExportReport:
    """The report with what a lower precision does to the answers, on the engine where it does most.

    Args:
        report: Of the export in fp32.
        expected: For each input, each output of the network.
        got: The same, of each engine that ran the export.
        classes: Whether the inputs were pictures, and not noise, whose most probable classes can be compared.
    """
    relative = max(differences(x, y)[1] for answers in got.values() for x, y in zip(expected, answers))
    report = dataclasses.replace(report, engines=tuple(got), reduced_difference=relative)
    if not classes:
        return report
    best = best_classes(expected)
    agreement = min(float(np.mean(best_classes(answers) == best)) for answers in got.values())
    return dataclasses.replace(report, agreement=agreement, pictures=len(best))


def best_classes(outputs: list[list[np.ndarray]]) -> np.ndarray:
    """[pictures], the most probable class by the first output of every input."""
    return np.concatenate([arrays[0].argmax(axis=1) for arrays in outputs])


def describe(report: ExportReport, info: ExportInfo) -> str:
    """An export in a few lines: where it is, how large, how exact, and what to do with it."""
    megabytes = sum(info.files.values()) / 1e6
    tried = ", ".join(f"{error:.1e} at {list(shape)}" for error, shape in zip(report.differences, report.inputs))
    lines = [
        f"{report.folder}: {info.model_name}, {', '.join(info.files)}, {info.precision}, {megabytes:.1f} MB.",
        f"Largest difference from the network in fp32: {tried}; {report.relative_difference:.1e} of the largest value.",
    ]
    if report.reduced_difference is not None:
        engines = ", ".join(report.engines)
        lines.append(f"In {info.precision} ({engines}): {report.reduced_difference:.1e} of the largest value.")
        if report.agreement is None and info.task != "regression":
            lines.append("How often the class stays the same was not measured; --calibration PICTURES does.")
        elif report.agreement is not None:
            lines.append(f"The class is the network's on {report.agreement:.2%} of {report.pictures} pictures.")
    folder = shlex.quote(str(report.folder))
    command = f"python tools/predict.py {folder} PICTURES"
    if not info.predicts:
        command = f"python -c 'import paddlevit; print(paddlevit.Predictor({str(report.folder)!r}).info)'"
    return "\n".join([*lines, f"Next: {command}"])
