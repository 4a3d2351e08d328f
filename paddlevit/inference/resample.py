"""Pillow's resize as operations of a graph whose sizes are only known when it runs.

Resizing is separable: a matrix for the rows and one for the columns, each made of a few operations on its small self.
All in float64, so that values round as Pillow's do. Numbers of samples are whole numbers or tensors [] of one.

Two things look odd and are needed. Constants are tensors (`real`), because paddle2onnx computes a sum or product with a
plain number in float32, and Paddle's own predictor may fuse one into a product that does not exist in float64. And
places are turned with reshape, because Paddle 3.3's predictor loses an unsqueeze behind a product.
"""

from __future__ import annotations

import math
from typing import Any

import paddle

# Half the width of each kernel, in samples of the picture when it is enlarged.
SUPPORT = {"nearest": 0.5, "box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}


def _sinc(x: paddle.Tensor) -> paddle.Tensor:
    """sin(pi x) / (pi x), and 1 at 0."""
    x = x * real(math.pi)
    at_zero = (x.abs() < real(1e-12)).astype("float64")
    return at_zero + (real(1.0) - at_zero) * paddle.sin(x) / (x + at_zero)


def kernel_weights(x: paddle.Tensor, kernel: str) -> paddle.Tensor:
    """The value of a kernel at a distance, which may be anything outside `SUPPORT`.

    Args:
        x: float64, distances in samples.
        kernel: One of `SUPPORT`; bicubic is Keys' with a = -0.5.
    """
    x = x.abs()
    if kernel == "bilinear":
        return real(1.0) - x
    if kernel == "bicubic":
        near = (real(1.5) * x - real(2.5)) * x * x + real(1.0)
        far = ((real(2.5) - real(0.5) * x) * x - real(4.0)) * x + real(2.0)
        return paddle.where(x < real(1.0), near, far)
    if kernel == "lanczos":
        return _sinc(x) * _sinc(x / real(3.0))
    if kernel == "hamming":
        return _sinc(x) * (real(0.54) + real(0.46) * paddle.cos(x * real(math.pi)))
    return paddle.ones_like(x)


def resize_matrix(
    old: Any, new: Any, rows: paddle.Tensor, kernel: str = "bicubic", transposed: bool = False
) -> paddle.Tensor:
    """Some rows of the matrix that resizes `old` samples to `new`.

    Args:
        old: Number of samples.
        new: Number after the resize.
        rows: float64 [R], which of the new samples are wanted.
        kernel: One of `SUPPORT`.
        transposed: Give [old, R]. A transpose of it would not do: in front of a product in float64, it is fused into
            one that Paddle 3.3's predictor does not have.

    Returns:
        float64 [R, old].
    """
    down, across = ([1, -1], [-1, 1]) if transposed else ([-1, 1], [1, -1])
    index, end, half = count_up(old).reshape(across), as_float(old), real(0.5)
    scale = end / as_float(new)
    centers = ((rows + half) * scale).reshape(down)  # in samples of the picture
    if kernel == "nearest":
        return (paddle.floor(centers) == index).astype("float64")
    stretch = paddle.maximum(scale, real(1.0))
    support = real(SUPPORT[kernel]) * stretch
    first = paddle.floor(paddle.maximum(centers - support + half, real(0.0)))
    last = paddle.floor(paddle.minimum(centers + support + half, end))
    weights = kernel_weights((index + half - centers) / stretch, kernel)
    weights = weights * (index >= first).astype("float64") * (index < last).astype("float64")
    return weights / weights.sum(axis=0 if transposed else 1, keepdim=True)


def count_up(number: Any) -> paddle.Tensor:
    """float64 [number]: 0, 1, 2, ..."""
    end = number if isinstance(number, int) else number.astype("int64")
    return paddle.arange(0, end, dtype="int64").astype("float64")


def as_float(number: Any) -> paddle.Tensor:
    """float64 []."""
    return real(number) if isinstance(number, int) else number.astype("float64")


def real(number: float) -> paddle.Tensor:
    """A constant, float64 []."""
    return paddle.full([], number, "float64")
