"""Sums that can be done once: scales, shifts and norms moved into the weights of the linear layer beside them.

Every function leaves the answers as they were. Sums are made in float64. Shapes: D width, K outputs.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn

from paddlevit.layers import Identity


class ScaleShift(nn.Layer):
    """x * scale + shift, feature by feature: what a batch norm is in evaluation.

    Args:
        scale: [D].
        shift: [D].
    """

    def __init__(self, scale: np.ndarray, shift: np.ndarray) -> None:
        super().__init__()
        self.scale = _parameter(self, scale)
        self.shift = _parameter(self, shift)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        return x * self.scale + self.shift


def linear_of(weight: np.ndarray, bias: np.ndarray | None) -> nn.Linear:
    """A linear layer of this weight [in, out] and bias [out]."""
    linear = nn.Linear(*weight.shape, bias_attr=None if bias is not None else False)
    linear.weight.set_value(weight.astype(np.float32))
    if bias is not None:
        linear.bias.set_value(bias.astype(np.float32))
    return linear


def weights_of(linear: nn.Linear) -> tuple[np.ndarray, np.ndarray]:
    """Weight [in, out] and bias [out], zeros where there is none, in float64."""
    weight = linear.weight.numpy().astype(np.float64)
    bias = np.zeros(weight.shape[1]) if linear.bias is None else linear.bias.numpy().astype(np.float64)
    return weight, bias


def batch_norm_as_scale_shift(norm: nn.BatchNorm1D) -> ScaleShift:
    """A batch norm with fixed statistics. oneDNN's own takes the tokens of [B, N, D] for the features and fails."""
    return ScaleShift(*_batch_norm(norm))


def fold_norm(norm: nn.Layer, linear: nn.Linear) -> tuple[nn.Layer, nn.Linear]:
    """Move a norm's scale and shift into the linear layer that alone gets its output.

    Args:
        norm: A LayerNorm, a BatchNorm1D, or anything else, which is left as it is.
        linear: Gets exactly norm(x).

    Returns:
        What stays of the norm, and the linear layer, so that the second after the first is as before.
    """
    if isinstance(norm, nn.BatchNorm1D):
        scale, shift = _batch_norm(norm)
        rest: nn.Layer = Identity()
    elif isinstance(norm, nn.LayerNorm) and norm.weight is not None:
        scale, shift = (parameter.numpy().astype(np.float64) for parameter in (norm.weight, norm.bias))
        rest = nn.LayerNorm(norm._normalized_shape, norm._epsilon, weight_attr=False, bias_attr=False)
    else:
        return norm, linear
    weight, bias = weights_of(linear)
    return rest, linear_of(scale[:, None] * weight, bias + shift @ weight)


def fold_output_scale(linear: nn.Linear, scale: np.ndarray) -> nn.Linear:
    """linear(x) * scale as one linear layer: LayerScale at the end of a branch."""
    weight, bias = weights_of(linear)
    return linear_of(weight * scale, bias * scale)


def fold_query_scale(qkv: nn.Linear, scale: float) -> nn.Linear:
    """The joint projection with the factor on the scores already in its first third, the queries."""
    weight, bias = weights_of(qkv)
    factor = np.repeat([scale, 1.0, 1.0], weight.shape[1] // 3)
    return linear_of(weight * factor, None if qkv.bias is None else bias * factor)


def join_classifiers(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """The mean of two classifiers, each of its own token, as one classifier of both tokens side by side [B, 2D]."""
    (weight, bias), (other_weight, other_bias) = weights_of(first), weights_of(second)
    return linear_of(np.concatenate([weight, other_weight]) / 2, (bias + other_bias) / 2)


def split_queries(qkv: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """The joint projection as two: to queries, and to keys and values."""
    weight, bias = weights_of(qkv)
    dim = weight.shape[1] // 3
    parts = ((weight[:, :dim], bias[:dim]), (weight[:, dim:], bias[dim:]))
    queries, keys_values = (linear_of(w, None if qkv.bias is None else b) for w, b in parts)
    return queries, keys_values


def _batch_norm(norm: nn.BatchNorm1D) -> tuple[np.ndarray, np.ndarray]:
    weight, bias, mean, variance = (
        tensor.numpy().astype(np.float64) for tensor in (norm.weight, norm.bias, norm._mean, norm._variance)
    )
    scale = weight / np.sqrt(variance + norm._epsilon)
    return scale, bias - mean * scale


def _parameter(layer: nn.Layer, value: np.ndarray) -> paddle.Tensor:
    initializer = nn.initializer.Assign(value.astype(np.float32))
    return layer.create_parameter(list(value.shape), default_initializer=initializer)
