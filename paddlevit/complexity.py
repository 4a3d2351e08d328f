"""What a model costs: parameters, multiply-adds and activations, per layer and over the image size.

A model is walked with shapes only: its forward is traced into a static program, which computes no value and touches no
parameter. A model of a billion parameters built under `paddle.LazyGuard` is therefore counted without its memory.

Shapes: B batch, h w rows and columns of tokens, N = h w tokens, C width of a token, M side of a window.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import paddle
from paddle import nn

from paddlevit.hooks import watch

SWIN_WINDOW = 7


@dataclass
class LayerCost:
    """One row of `layer_table`: a layer without its sub-layers, summed over its calls."""

    name: str
    """Path of the layer in the model; the model itself is an empty string."""
    type: str
    """Class of the layer."""
    parameters: int
    """Parameters that the layer itself owns."""
    input_shape: tuple[int, ...] = ()
    """Shape of the last input; empty when the layer does not run."""
    output_shape: tuple[int, ...] = ()
    """Shape of the last output; empty when the layer does not run."""
    multiply_adds: int = 0
    """Multiplications of which each is followed by an addition; biases, norms and activations are not counted."""
    activations: int = 0
    """Values that products write: outputs of linear layers, convolutions, attention scores and weighted values."""


def count_parameters(model: nn.Layer, trainable_only: bool = False) -> int:
    """Number of parameters, including those that belong to the model itself; shared ones count once.

    Args:
        model: Any layer; may be built under `paddle.LazyGuard`.
        trainable_only: Leave out frozen parameters.

    Returns:
        The number of values.
    """
    return sum(math.prod(p.shape) for p in model.parameters() if not (trainable_only and p.stop_gradient))


def count_multiply_adds(model: nn.Layer, input_shape: Sequence[int]) -> int:
    """Multiply-adds of one forward pass in evaluation mode.

    Args:
        model: Any layer with one input; a layer may report products that no sub-layer shows by a method
            `multiply_adds(x)` of its input.
        input_shape: Shape of the input, for example [1, 3, 224, 224].

    Returns:
        The number; the model is left as it was.
    """
    return sum(row.multiply_adds for row in _walk(model, input_shape).values())


def layer_table(model: nn.Layer, input_shape: Sequence[int]) -> list[LayerCost]:
    """Cost of every layer that has parameters, multiply-adds or activations, in the model's order.

    Args:
        model: Any layer with one input.
        input_shape: Shape of the input, for example [1, 3, 224, 224].

    Returns:
        One row per layer; their parameters sum to `count_parameters`, their multiply-adds to `count_multiply_adds`.
    """
    rows = _walk(model, input_shape).values()
    return [row for row in rows if row.parameters or row.multiply_adds or row.activations]


def format_table(rows: Sequence[LayerCost]) -> str:
    """The rows of `layer_table` as aligned text with a last line of sums."""
    head = ("layer", "type", "output", "parameters", "multiply-adds", "activations")
    lines = [
        (
            row.name or "(model)",
            row.type,
            "x".join(map(str, row.output_shape)) or "-",
            *(f"{count:,}" for count in (row.parameters, row.multiply_adds, row.activations)),
        )
        for row in rows
    ]
    sums = (sum(getattr(row, key) for row in rows) for key in ("parameters", "multiply_adds", "activations"))
    lines.append(("total", "", "", *(f"{total:,}" for total in sums)))
    widths = [max(map(len, column)) for column in zip(head, *lines)]

    def align(cells: Sequence[str]) -> str:
        padded = [cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths))]
        return "  ".join(padded).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([align(head), rule, *map(align, lines[:-1]), rule, align(lines[-1])])


def format_sizes(points: Sequence[SizePoint], windows: str) -> str:
    """The points of `attention_over_sizes` as an aligned table in billions of multiply-adds.

    Args:
        points: The rows.
        windows: The side of the windows, as the formula's heading names it.
    """
    head = ("image size", "attention, counted", "4hwC^2 + 2(hw)^2C", f"4hwC^2 + 2*{windows}^2*hwC", "whole model")
    lines = [
        (str(point.image_size), *(f"{count / 1e9:.3f} G" for count in dataclasses.astuple(point)[1:]))
        for point in points
    ]
    widths = [max(map(len, column)) for column in zip(head, *lines)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths)) for line in (head, *lines))


def _walk(model: nn.Layer, input_shape: Sequence[int]) -> dict[str, LayerCost]:
    layers = list(model.named_sublayers(include_self=True))
    rows: dict[str, LayerCost] = {}
    seen: set[int] = set()
    for name, layer in layers:
        own = {id(p): math.prod(p.shape) for p in layer.parameters(include_sublayers=False)}
        rows[name] = LayerCost(name, type(layer).__name__, sum(n for key, n in own.items() if key not in seen))
        seen |= own.keys()

    def record(row: LayerCost) -> Callable:
        def hook(layer: nn.Layer, inputs: tuple, output: paddle.Tensor) -> None:
            output = output[0] if isinstance(output, (list, tuple)) else output
            row.input_shape, row.output_shape = tuple(inputs[0].shape), tuple(output.shape)
            multiply_adds = _multiply_adds(layer, inputs[0], row.output_shape)
            row.multiply_adds += multiply_adds
            if multiply_adds or isinstance(layer, nn.Softmax):
                row.activations += math.prod(row.output_shape)

        return hook

    wrapper = nn.Sequential(model)  # so that the model's own hook runs and the traced program is not kept by it
    spec = [paddle.static.InputSpec(list(input_shape), "float32")]
    counted = {
        layer: record(rows[name])
        for name, layer in layers
        if rows[name].parameters or isinstance(layer, nn.Softmax) or hasattr(layer, "multiply_adds")
    }
    forwards = [(layer, vars(layer).get("forward")) for _, layer in layers]
    try:
        with watch(model, counted):
            _ = paddle.jit.to_static(wrapper.forward, input_spec=spec, full_graph=True).concrete_program
    finally:
        for layer, forward in forwards:  # Paddle 2.6 leaves a rewritten forward on layers that it has traced
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward
    return rows


def _multiply_adds(layer: nn.Layer, x: paddle.Tensor, output_shape: tuple[int, ...]) -> int:
    if isinstance(layer, nn.Linear):
        return math.prod(output_shape) * layer.weight.shape[0]
    if isinstance(layer, nn.Conv2D):
        return math.prod(output_shape) * math.prod(layer.weight.shape[1:])
    return layer.multiply_adds(x) if hasattr(layer, "multiply_adds") else 0


def global_attention_formula(tokens: int, dim: int) -> int:
    """Multiply-adds of attention over all tokens: 4 hw C^2 + 2 (hw)^2 C (Swin paper, equation 1)."""
    return 4 * tokens * dim**2 + 2 * tokens**2 * dim


def window_attention_formula(tokens: int, dim: int, window_size: int) -> int:
    """Multiply-adds of attention within M x M windows: 4 hw C^2 + 2 M^2 hw C (Swin paper, equation 2)."""
    return 4 * tokens * dim**2 + 2 * window_size**2 * tokens * dim


@dataclass(frozen=True)
class SizePoint:
    """What all self-attention layers of a model cost at one image size."""

    image_size: int
    """Height and width of the picture."""
    counted: int
    """Multiply-adds counted in the attention layers, projections included."""
    global_formula: int
    """`global_attention_formula`, summed over the same layers."""
    window_formula: int
    """`window_attention_formula`, summed over the same layers."""
    total: int
    """Multiply-adds of the whole model."""


def attention_over_sizes(
    build: Callable[[int], nn.Layer], image_sizes: Sequence[int], in_channels: int = 3
) -> list[SizePoint]:
    """Count a model's self-attention at several image sizes, beside both formulas.

    The windowed formula takes the layer's own window, or Swin's where it has none.

    Attention without a softmax (T2T-ViT's performer) and a single learned query (SigLIP) are left out.

    Args:
        build: Makes the model for an image size; it is called under `paddle.LazyGuard`.
        image_sizes: Height and width of the square pictures.
        in_channels: Channels of the pictures.

    Returns:
        One point per size.
    """
    points = []
    for size in image_sizes:
        with paddle.LazyGuard():
            model = build(size)
        layers, rows = dict(model.named_sublayers()), _walk(model, [1, in_channels, size, size])
        counted = global_formula = window_formula = 0
        for name in rows:
            scores = rows.get(f"{name}.softmax")
            if scores is None or scores.output_shape[-2] != scores.output_shape[-1]:
                continue
            counted += sum(row.multiply_adds for key, row in rows.items() if f"{key}.".startswith(f"{name}."))
            *shape, dim = rows[name].output_shape
            tokens, side = math.prod(shape), getattr(layers[name], "window_size", SWIN_WINDOW)
            global_formula += global_attention_formula(tokens, dim)
            window_formula += window_attention_formula(tokens, dim, side)
        total = sum(row.multiply_adds for row in rows.values())
        points.append(SizePoint(size, counted, global_formula, window_formula, total))
    return points
