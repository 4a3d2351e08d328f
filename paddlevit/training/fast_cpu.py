"""Faster gradients on a CPU, where Paddle adds up rows one number after another and uses one core for all but products.

Linear, LayerNorm and GELU compute what Paddle computes; only how differs. Sums over rows are matrix products with a row
of ones. What is done number by number is done by NumPy on Paddle's own memory, in pieces that stay in the cache, on
all cores. GELU computes its derivative in the forward, where the error function is at hand, and keeps nothing else.

Outside the block of `fast_gradients` the network is untouched, so exports never see any of this.

Shapes: M rows (B * N), D width, K outputs.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.autograd import PyLayer
from paddle.nn import functional

PIECE = 1 << 15  # numbers worked on at a time: a few arrays of as many fit into a core's cache
DENSITY = np.float32(1.0 / math.sqrt(2.0 * math.pi))


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _in_pieces(work: Callable[[slice, np.ndarray], None], rows: int, width: int) -> None:
    """Call `work` with slices that together make all rows, on as many threads as Paddle computes with.

    Args:
        work: Gets a slice, and scratch memory of its size that the thread uses again and again.
        rows: M.
        width: D.
    """
    step = max(PIECE // width, 1)
    pieces = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]
    threads = min(int(os.environ.get("OMP_NUM_THREADS", "1")), len(pieces))

    def share(number: int) -> None:
        scratch = np.empty((step, width), np.float32)
        for piece in pieces[number::threads]:
            work(piece, scratch[: piece.stop - piece.start])

    if threads == 1:
        share(0)
    else:
        list(_pool(threads).map(share, range(threads)))


def _values(tensor: paddle.Tensor) -> np.ndarray:
    """The memory of a contiguous float32 tensor as [M, D]."""
    numbers = (ctypes.c_float * int(tensor.size)).from_address(tensor.data_ptr())
    return np.ctypeslib.as_array(numbers).reshape(-1, tensor.shape[-1])


def _rows(x: paddle.Tensor) -> paddle.Tensor:
    """[..., D] -> [M, D]."""
    return x.reshape([-1, x.shape[-1]])


def _sum_rows(x: paddle.Tensor) -> paddle.Tensor:
    """[M, D] -> [D]."""
    return paddle.matmul(paddle.ones([1, x.shape[0]], x.dtype), x).reshape([-1])


class _LinearGradient(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.wanted = [not tensor.stop_gradient for tensor in (x, weight, bias)]
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> tuple:
        x, weight = ctx.saved_tensor()
        rows = _rows(gradient)  # [M, K]
        return (
            paddle.matmul(gradient, weight, transpose_y=True) if ctx.wanted[0] else None,
            paddle.matmul(_rows(x), rows, transpose_x=True) if ctx.wanted[1] else None,
            _sum_rows(rows) if ctx.wanted[2] else None,
        )


class _LayerNormGradient(PyLayer):
    @staticmethod
    def forward(
        ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor, epsilon: float
    ) -> paddle.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.wanted, ctx.epsilon = [not tensor.stop_gradient for tensor in (x, weight, bias)], epsilon
        return functional.layer_norm(x, x.shape[-1:], weight, bias, epsilon)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> tuple:
        x, weight = ctx.saved_tensor()
        x, gradient = x.contiguous(), gradient.contiguous()
        to_x, product = paddle.empty_like(gradient), paddle.empty_like(gradient)
        values, gradients, scale = _values(x), _values(gradient), _values(weight)[0]
        outs, products = _values(to_x), _values(product)
        width = values.shape[1]
        ones, mean_scale = np.full(width, 1.0 / width, np.float32), scale / np.float32(width)

        def work(piece: slice, normal: np.ndarray) -> None:
            # (s - mean(s) - n * mean(s * n)) / deviation for the normalised n and the gradient times the weight s
            g, out, by_normal = gradients[piece], outs[piece], products[piece]
            np.subtract(values[piece], _row_sums(values[piece], ones), out=normal)
            variance = np.einsum("md,md->m", normal, normal)[:, None] / np.float32(width)
            inverse = 1.0 / np.sqrt(variance + np.float32(ctx.epsilon))
            normal *= inverse
            np.multiply(g, normal, out=by_normal)
            np.multiply(g, scale, out=out)
            out -= _row_sums(g, mean_scale)
            normal *= _row_sums(by_normal, mean_scale)
            out -= normal
            out *= inverse

        _in_pieces(work, *values.shape)
        return (
            to_x if ctx.wanted[0] else None,
            _sum_rows(_rows(product)) if ctx.wanted[1] else None,
            _sum_rows(_rows(gradient)) if ctx.wanted[2] else None,
        )


def _row_sums(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """[M, D], [D] -> [M, 1], faster than NumPy's sum over short rows."""
    return np.einsum("md,d->m", rows, weights)[:, None]


class _GeluGradient(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor) -> paddle.Tensor:
        x = x.contiguous()
        share = paddle.erf(x * math.sqrt(0.5))  # becomes the derivative
        out = paddle.empty_like(x)
        values, shares, outs = _values(x), _values(share), _values(out)

        def work(piece: slice, density: np.ndarray) -> None:
            value, derivative = values[piece], shares[piece]
            derivative *= np.float32(0.5)
            derivative += np.float32(0.5)  # so far the share of a normal distribution that lies below the value
            np.multiply(value, derivative, out=outs[piece])
            np.multiply(value, value, out=density)
            density *= np.float32(-0.5)
            np.exp(density, out=density)
            density *= DENSITY
            density *= value
            derivative += density

        _in_pieces(work, *values.shape)
        ctx.save_for_backward(share)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        (derivative,) = ctx.saved_tensor()
        return gradient * derivative


class _FastLinear(nn.Linear):
    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        return _LinearGradient.apply(input, self.weight, self.bias)


class _FastLayerNorm(nn.LayerNorm):
    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        if input.dtype != paddle.float32:
            return super().forward(input)
        return _LayerNormGradient.apply(input, self.weight, self.bias, self._epsilon)


class _FastGELU(nn.GELU):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return _GeluGradient.apply(x) if x.dtype == paddle.float32 else super().forward(x)


def _fast_class(layer: nn.Layer) -> type[nn.Layer] | None:
    """The class that computes what the layer computes, if there is one."""
    if type(layer) is nn.Linear and layer.bias is not None:
        return _FastLinear
    if type(layer) is nn.LayerNorm and layer.weight is not None and layer.bias is not None:
        return _FastLayerNorm if len(layer._normalized_shape) == 1 else None
    return _FastGELU if type(layer) is nn.GELU and not layer._approximate else None


@contextmanager
def fast_gradients(network: nn.Layer, on: bool = True) -> Iterator[None]:
    """Within the block, the network's Linear, LayerNorm and GELU layers have the faster backward.

    Args:
        network: Trained on a CPU in float32.
        on: False leaves everything as it is.
    """
    changed = []
    if on:
        for layer in network.sublayers(include_self=True):
            fast = _fast_class(layer)
            if fast is not None:
                changed.append((layer, type(layer)))
                layer.__class__ = fast
    try:
        yield
    finally:
        for layer, own in changed:
            layer.__class__ = own
