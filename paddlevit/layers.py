"""Layers that the model families use unchanged.

Shapes: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np
import paddle
from paddle import ParamAttr, nn
from paddle.distributed.fleet.utils import recompute


class Identity(nn.Layer):
    """Returns its input."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x


class QuickGELU(nn.Layer):
    """x * sigmoid(1.702 x), the approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * nn.functional.sigmoid(1.702 * x)


class Mlp(nn.Layer):
    """Two linear layers with an activation between them (ViT paper, section 3.1).

    Args:
        embed_dim: Width D of the tokens.
        mlp_ratio: The hidden layer has int(D * mlp_ratio) units.
        dropout: Probability of dropping a unit after each of the two layers.
        activation: Class of the activation.
        weight_attr: Initialisation of both weights; None is Paddle's own.
        bias_attr: Initialisation of both biases; None is Paddle's own.
    """

    def __init__(
        self,
        embed_dim: int,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        activation: type[nn.Layer] = nn.GELU,
        weight_attr: ParamAttr | None = None,
        bias_attr: ParamAttr | None = None,
    ) -> None:
        super().__init__()
        hidden_dim = int(embed_dim * mlp_ratio)
        self.fc1 = nn.Linear(embed_dim, hidden_dim, weight_attr=weight_attr, bias_attr=bias_attr)
        self.fc2 = nn.Linear(hidden_dim, embed_dim, weight_attr=weight_attr, bias_attr=bias_attr)
        self.act = activation()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = self.dropout(self.act(self.fc1(x)))  # [B, N, D * mlp_ratio]
        return self.dropout(self.fc2(x))  # [B, N, D]


def drop_path(x: paddle.Tensor, probability: float) -> paddle.Tensor:
    """Zero whole samples of a residual branch and scale the others so that the expectation stays.

    Deep Networks with Stochastic Depth (Huang et al. 2016).

    Args:
        x: [B, ...], the branch before it is added to the shortcut.
        probability: Chance of dropping a sample, in [0, 1).

    Returns:
        [B, ...].
    """
    keep = 1.0 - probability
    shape = [x.shape[0]] + [1] * (x.ndim - 1)
    survives = (paddle.rand(shape) < keep).astype(x.dtype)  # [B, 1, ...]
    return x * survives / keep


class DropPath(nn.Layer):
    """Stochastic depth as a layer: `drop_path` in training, nothing in evaluation.

    Args:
        probability: Chance of dropping a sample, in [0, 1).

    Raises:
        ValueError: The probability is outside [0, 1).
    """

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"drop_path is {probability}; it must be at least 0 and below 1.")
        self.probability = probability

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, ...] -> [B, ...]."""
        if not self.training or self.probability == 0.0:
            return x
        return drop_path(x, self.probability)

    def extra_repr(self) -> str:
        return f"probability={self.probability:.3f}"


def linear_drop_path(drop_path: float | Sequence[float], depth: int) -> list[float]:
    """Drop-path probability of each layer.

    Args:
        drop_path: Probability of the deepest layer, reached linearly from 0, or one probability per layer.
        depth: Number of layers.

    Returns:
        `depth` probabilities.

    Raises:
        ValueError: A sequence of another length than `depth`.
    """
    if not isinstance(drop_path, (Sequence, np.ndarray)):
        return [float(drop_path) * i / max(depth - 1, 1) for i in range(depth)]
    if len(drop_path) != depth:
        raise ValueError(f"drop_path has {len(drop_path)} values for {depth} layers; give one number or one per layer.")
    return list(drop_path)


def sinusoid_table(num_positions: int, dim: int) -> np.ndarray:
    """Fixed sine and cosine position encoding (Attention Is All You Need, section 3.5).

    Args:
        num_positions: Number of positions N.
        dim: Width D; even columns hold sines, odd ones cosines, of pos / 10000 ** (2 * (j // 2) / D).

    Returns:
        float32 [1, N, D].
    """
    columns = np.arange(dim)
    angles = np.arange(num_positions)[:, None] / np.power(10000.0, 2 * (columns // 2) / dim)  # [N, D]
    table = np.where(columns % 2 == 0, np.sin(angles), np.cos(angles))
    return table[None].astype(np.float32)


def to_pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """(height, width) from one number for both or from two.

    Raises:
        ValueError: Not one or two positive whole numbers.
    """
    pair = tuple(value) if isinstance(value, (Sequence, np.ndarray)) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, Integral) and v > 0 for v in pair):
        raise ValueError(f"{name} is {value!r}; it must be a positive whole number or two of them, height and width.")
    return int(pair[0]), int(pair[1])


def run_layer(layer: nn.Layer, x: paddle.Tensor, use_checkpoint: bool) -> paddle.Tensor:
    """Run one encoder layer; in training with `use_checkpoint`, keep only its input and recompute it in backward."""
    if use_checkpoint and layer.training:
        return recompute(layer, x)
    return layer(x)


def set_classifier(model: nn.Layer, num_classes: int, name: str = "classifier", init_std: float = 0.0) -> None:
    """Give `model` a new linear classifier of `num_classes` outputs; 0 removes it, so that features come out.

    Args:
        model: Has `num_features`, the width of the vector that the classifier gets.
        num_classes: Number of outputs.
        name: Attribute of the classifier.
        init_std: Standard deviation of the new weights; 0 makes them zero, as the ViT paper does.

    Raises:
        ValueError: A negative number of classes.
    """
    if num_classes < 0:
        raise ValueError(f"num_classes is {num_classes}; it must be 0 (features) or more.")
    initializer = nn.initializer.Normal(std=init_std) if init_std else nn.initializer.Constant(0.0)
    head: nn.Layer = Identity()
    if num_classes:
        head = nn.Linear(model.num_features, num_classes, weight_attr=ParamAttr(initializer=initializer))
    setattr(model, name, head)
    note_classes(model, num_classes)


def note_classes(model: nn.Layer, num_classes: int) -> None:
    """Write the number of classes on the model, also where one made by name remembers its options."""
    model.num_classes = num_classes
    if hasattr(model, "model_options"):
        model.model_options = {**model.model_options, "num_classes": num_classes}
