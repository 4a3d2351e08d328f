"""Attention weights of any model, read with hooks while it runs.

In every model here an attention layer has a sub-layer `softmax`, which writes the weights, and a Swin block has a
sub-layer `windows`, which says where each window stands. Nothing else about a family is needed.

Shapes: B batch, C image channels, H W image height and width, N tokens, D width, h heads, nW windows per picture,
n tokens that one attention matrix covers: N, or those of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import nn

from paddlevit.hooks import watch
from paddlevit.models.windows import Windows


@dataclass(frozen=True)
class TokenLayout:
    """Where the tokens of an attention layer stand on the picture."""

    grid: tuple[int, int]
    """Rows and columns of the tokens that stand for a part of the picture."""
    num_prefix: int
    """Tokens before them: class, distillation, registers."""
    places: np.ndarray
    """[nW, n], for each window and place in it the token, counted row by row without prefix; -1 for none."""

    @property
    def num_tokens(self) -> int:
        """N, prefix included."""
        return self.num_prefix + self.grid[0] * self.grid[1]

    @property
    def windowed(self) -> bool:
        """Whether attention stays inside windows."""
        return len(self.places) > 1 or self.places.shape[1] != self.num_tokens

    def matrix(self, weights: np.ndarray) -> np.ndarray:
        """[B * nW, h, n, n] -> [B, h, N, N]: windows back in place, 0 between windows, padding left out."""
        if not self.windowed:
            return weights
        windows, side = self.places.shape
        heads, tokens = weights.shape[1], self.num_tokens
        weights = weights.reshape(-1, windows, heads, side, side).transpose(0, 2, 1, 3, 4)  # [B, h, nW, n, n]
        placed = np.zeros((len(weights), heads, tokens + 1, tokens + 1), weights.dtype)  # index -1 takes the padding
        placed[:, :, self.places[:, :, None], self.places[:, None, :]] = weights
        return placed[:, :, :-1, :-1]  # [B, h, N, N]

    def tokens(self, x: np.ndarray) -> np.ndarray:
        """[B * nW, n, D] -> [B, N, D]: windows back in place."""
        if not self.windowed:
            return x
        x = x.reshape(-1, self.places.size, x.shape[-1])  # [B, nW * n, D]
        placed = np.zeros((len(x), self.num_tokens + 1, x.shape[-1]), x.dtype)
        placed[:, self.places.reshape(-1)] = x
        return placed[:, :-1]  # [B, N, D]

    def maps(self, values: np.ndarray) -> np.ndarray:
        """[..., N] -> [..., rows, columns], the prefix left out."""
        return values[..., self.num_prefix :].reshape(*values.shape[:-1], *self.grid)


@dataclass(frozen=True)
class AttentionCall:
    """What one attention layer did in one forward pass."""

    name: str
    """Path of the layer in the model."""
    tokens: paddle.Tensor
    """[B * nW, n, D], what went in."""
    weights: paddle.Tensor
    """[B * nW, h, n, n], what its softmax wrote; [B, h, 1, N] when one learned query looks at all tokens."""
    layout: TokenLayout
    """Where the tokens stand."""

    @property
    def is_pooling(self) -> bool:
        """Whether one learned query gathers the tokens, as in SigLIP."""
        return self.weights.shape[2] != self.weights.shape[3]

    def matrix(self) -> np.ndarray:
        """The weights on the picture's grid, [B, h, N, N] or [B, h, 1, N]."""
        weights = to_numpy(self.weights)
        return weights if self.is_pooling else self.layout.matrix(weights)


@dataclass(frozen=True)
class LayerAttention:
    """Attention weights of one layer."""

    name: str
    """Path of the layer in the model."""
    weights: np.ndarray
    """[B, h, N, N], from each token (third axis) to each (fourth axis), prefix first, then the grid row by row."""
    grid: tuple[int, int]
    """Rows and columns of the tokens that stand for a part of the picture."""
    num_prefix: int
    """Tokens before them: class, distillation, registers."""


def to_numpy(x: paddle.Tensor) -> np.ndarray:
    """A tensor of any precision as a float32 array."""
    return x.detach().astype("float32").numpy()


def token_grid(model: nn.Layer, num_tokens: int) -> tuple[int, int]:
    """The grid among those that the model's layers declare which `num_tokens` fill best, prefix tokens besides.

    Raises:
        ValueError: None fits.
    """
    grids = []
    for layer in model.sublayers(include_self=True):
        declared = [getattr(layer, "grid_size", None), *(getattr(layer, "grid_sizes", None) or [])]
        grids += [(int(grid[0]), int(grid[1])) for grid in declared if grid is not None]
    fitting = [grid for grid in grids if grid[0] * grid[1] <= num_tokens]
    if not fitting:
        raise ValueError(
            f"{type(model).__name__} has {num_tokens} tokens, but no layer with an attribute grid_size that says how"
            " they stand on the picture; explain works with the models of paddlevit.list_models()."
        )
    return max(fitting, key=lambda grid: grid[0] * grid[1])


def _window_layout(height: int, width: int, index: paddle.Tensor, side: int) -> TokenLayout:
    places = index.numpy().reshape(-1, side)  # [nW, n]
    return TokenLayout((height, width), 0, np.where(places < height * width, places, -1))


def _global_layout(model: nn.Layer, num_tokens: int) -> TokenLayout:
    grid = token_grid(model, num_tokens)
    num_prefix = num_tokens - grid[0] * grid[1]
    places = np.arange(-num_prefix, num_tokens - num_prefix)
    return TokenLayout(grid, num_prefix, np.maximum(places, -1)[None])


def record(model: nn.Layer, images: paddle.Tensor) -> tuple[paddle.Tensor, list[AttentionCall]]:
    """Run the model in evaluation mode and keep what every attention layer did.

    Args:
        model: One of this library's models; it is left as it was.
        images: [B, C, H, W], preprocessed.

    Returns:
        The model's output, and one `AttentionCall` per attention layer in the order of their work, whose tensors are
        still part of the graph, so that gradients reach them.

    Raises:
        ValueError: The model has no attention with a `softmax` layer.
    """
    weights: dict[str, paddle.Tensor] = {}
    windows: dict[str, TokenLayout] = {}
    calls: list[AttentionCall] = []

    def keep_weights(name: str):
        def hook(_layer, _inputs, output):
            weights[name] = output

        return hook

    def keep_windows(block: str):
        def hook(layer, inputs, output):
            height, width = inputs
            windows[block] = _window_layout(height, width, output[0], layer.window_size**2)

        return hook

    def keep_call(name: str):
        def hook(_layer, inputs, _output):
            tokens, block = inputs[0], name.rpartition(".")[0]
            layout = windows[block] if block in windows else _global_layout(model, tokens.shape[1])
            calls.append(AttentionCall(name, tokens, weights.pop(name), layout))

        return hook

    hooks = {}
    for name, layer in model.named_sublayers(include_self=True):
        if isinstance(layer, Windows):
            hooks[layer] = keep_windows(name.rpartition(".")[0])
        elif isinstance(getattr(layer, "softmax", None), nn.Softmax):
            hooks[layer.softmax], hooks[layer] = keep_weights(name), keep_call(name)
    with watch(model, hooks):
        output = model(images)
    if not calls:
        raise ValueError(f"{type(model).__name__} ran no attention layer; explain needs a transformer of this library.")
    return output, calls


def attention_weights(
    model: nn.Layer, images: paddle.Tensor, layers: Sequence[int] | None = None
) -> list[LayerAttention]:
    """Attention weights of a model's layers.

    Swin's windows are put back in place and their shift is undone: a token of its grid looks at the tokens of its
    window, and at all others with weight 0. Where a map had to be padded to fill its windows, the weight on padding is
    missing from the sums of the rows. The performer of T2T-ViT has no weights and is not among the layers.

    Args:
        model: One of this library's models.
        images: [B, C, H, W], preprocessed.
        layers: Indices in the order of work, negative ones from the end; None is all layers, which for Swin at 224
            pixels are 150 MB for each picture and head of the first stage.

    Returns:
        One `LayerAttention` per index, in the order asked for.

    Raises:
        ValueError: An index outside the model, or a model without attention.
    """
    with paddle.no_grad():
        _, calls = record(model, images)
    return [
        LayerAttention(call.name, call.matrix(), call.layout.grid, call.layout.num_prefix)
        for call in select_layers(calls, layers)
    ]


def select_layers(calls: Sequence[AttentionCall], layers: Sequence[int] | None) -> list[AttentionCall]:
    """The calls of some layers; ValueError for an index that is none."""
    wanted = range(len(calls)) if layers is None else list(layers)
    if any(not -len(calls) <= index < len(calls) for index in wanted):
        raise ValueError(f"layers is {wanted}; this model has {len(calls)} attention layers, 0 to {len(calls) - 1}.")
    return [calls[index] for index in wanted]
