"""Is the export the network? Inputs to try, what should come out, and how far off the answers are.

Shapes: B batch, C image channels, H W image height and width, K classes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import paddle
from paddle import nn

from paddlevit.inference.graph import Graph

TOLERANCE = 1e-5
BATCHES = (1, 3)


@dataclass(frozen=True)
class ExportReport:
    """What an export came to."""

    folder: Path
    """Where it is."""
    largest_difference: float
    """Largest absolute difference of a value between the export, in fp32, and the network."""
    relative_difference: float
    """The same of each output over its largest value or 1, whichever is more; above 1e-5 an export is refused."""
    reduced_difference: Optional[float] = None
    """`relative_difference` in the precision of the export, where that is not fp32."""
    agreement: Optional[float] = None
    """Share of pictures whose most probable class in that precision is the network's."""

    def to_dict(self, inputs: list[np.ndarray]) -> dict[str, Any]:
        """Plain values for `inference.yml`."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if name != "folder"}
        return {**plain, "tolerance": TOLERANCE, "inputs": [list(batch.shape) for batch in inputs]}


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
        if tuple(picture.shape[2:]) == tuple(network.preprocessing.image_size):
            logits = network(paddle.to_tensor(picture))
            outputs[0] = nn.functional.softmax(logits) if graph.softmax else logits
    return [output.numpy() for output in outputs]


def prepared(network: nn.Layer, batch: np.ndarray) -> np.ndarray:
    """Pictures as bytes [B, H, W, C], prepared outside the graph: float32 [B, C, height, width]."""
    from paddlevit.data import eval_transform

    transform = eval_transform(network.preprocessing)
    return np.stack([transform(picture) for picture in batch])


def compare(folder: str | Path, expected: list[list[np.ndarray]], got: list[list[np.ndarray]]) -> ExportReport:
    """How far an export's answers are from what they should be.

    Args:
        folder: For the report.
        expected: For each input, each output.
        got: The same of the export.

    Raises:
        ValueError: Further than `TOLERANCE` of the scale, or not numbers.
    """
    largest, relative = differences(expected, got)
    if not relative <= TOLERANCE:  # also when it is NaN
        raise ValueError(
            f"The export differs from the network by {largest:.2e}, which is {relative:.2e} of the largest value and"
            f" more than {TOLERANCE}. Nothing was written to {folder}."
        )
    return ExportReport(Path(folder), largest, relative)


def differences(expected: list[list[np.ndarray]], got: list[list[np.ndarray]]) -> tuple[float, float]:
    """Largest absolute difference, and largest over each output's scale; NaN when a value is not a number."""
    pairs = [(a, b) for x, y in zip(expected, got) for a, b in zip(x, y)]
    largest = [float(np.abs(a - b).max()) for a, b in pairs]
    scales = [max(1.0, float(np.abs(a).max())) for a, _ in pairs]
    return float(np.max(largest)), float(np.max(np.divide(largest, scales)))


def measure_reduced(
    report: ExportReport, expected: list[list[np.ndarray]], got: list[list[np.ndarray]]
) -> ExportReport:
    """The report with what a lower precision does to the answers."""
    best = [(x[0].argmax(axis=1), y[0].argmax(axis=1)) for x, y in zip(expected, got)]
    same = np.concatenate([a == b for a, b in best])
    relative = differences(expected, got)[1]
    return dataclasses.replace(report, reduced_difference=relative, agreement=float(same.mean()))
