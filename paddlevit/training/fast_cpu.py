"""Faster training on a CPU, where Paddle uses one core for all but matrix products.

Linear, LayerNorm, GELU and attention compute what Paddle computes; only how differs. Sums over rows are matrix products
with a row of ones. What is done number by number is done by NumPy on Paddle's own memory, in pieces that stay in the
cache, on all cores; only memory that was allocated here, and that nobody else has seen yet, is written to. GELU
computes its derivative in the forward and keeps nothing else.

Outside the block of `fast_gradients` the network is untouched, so exports never see any of this.

Shapes: B batch, N tokens, D width, h heads, d = D / h, M rows (B * N), K outputs.
"""

from __future__ import annotations

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

from paddlevit.models.vit import Attention

# Numbers worked on at a time: few enough that some arrays of as many stay in a core's cache, and enough that threads
# compute for longer than they wait for each other between two of NumPy's functions.
PIECE = 1 << 17
LOG_DENSITY = np.float32(-0.5 * math.log(2.0 * math.pi))  # of a normal distribution, at its mean
SAFE_SCORE = 30.0  # exp of this, summed over any number of tokens, and one over it are far from float32's limits


def _num_threads() -> int:
    """As many as Paddle computes with; one if the variable says nothing that can be read."""
    value = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(int(value), os.cpu_count() or 1) if value.isdecimal() and int(value) > 0 else 1


@functools.lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Helpers of a process; a process that was forked off has none of its parent's threads."""
    return ThreadPoolExecutor(threads)


def _in_pieces(work: Callable[..., None], rows: int, width: int, num_scratch: int = 0) -> None:
    """Call `work` with slices that together make all rows, on several threads if there is enough to do.

    The pieces do not depend on the number of threads, and so the results do not either.

    Args:
        work: Gets a slice, and arrays of its size that the thread uses again and again.
        rows: M.
        width: Numbers in a row.
        num_scratch: How many such arrays.
    """
    count = min(-(-rows * width // PIECE), rows)
    step = -(-rows // (count + (count > 1) * count % 2))  # an even number of pieces, shared fairly by two threads
    pieces = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]
    threads = min(_num_threads(), len(pieces))

    def share(number: int) -> None:
        scratch = np.empty((num_scratch, step, width), np.float32)
        with np.errstate(all="ignore"):  # numbers that are not finite go on to the loss, where the trainer sees them
            for piece in pieces[number::threads]:
                work(piece, *scratch[:, : piece.stop - piece.start])

    others = [_pool(threads - 1, os.getpid()).submit(share, number) for number in range(1, threads)]
    share(0)
    for other in others:
        other.result()


class _Memory:
    """A tensor's memory as NumPy wants to be told of it; arrays made of it keep the tensor alive."""

    def __init__(self, tensor: paddle.Tensor, shape: tuple[int, ...]) -> None:
        self.tensor = tensor
        self.__array_interface__ = dict(data=(tensor.data_ptr(), False), shape=shape, typestr="<f4", version=3)


def _values(tensor: paddle.Tensor, *shape: int) -> np.ndarray:
    """The memory of a float32 tensor on the CPU, as [M, D] unless a shape is given; a copy if it has gaps."""
    tensor = tensor.contiguous()
    return np.asarray(_Memory(tensor, shape or (tensor.size // tensor.shape[-1], tensor.shape[-1])))


def _rows(x: paddle.Tensor) -> paddle.Tensor:
    """[..., D] -> [M, D]."""
    return x.reshape([-1, x.shape[-1]])


@functools.lru_cache(maxsize=16)
def _ones(count: int) -> paddle.Tensor:
    """[1, M]; making them takes as long as the product that they are made for."""
    return paddle.to_tensor(np.ones((1, count), np.float32), place=paddle.CPUPlace())


def _sum_rows(x: paddle.Tensor) -> paddle.Tensor:
    """[M, D] -> [D]."""
    return paddle.matmul(_ones(x.shape[0]), x).reshape([-1])


def _row_sums(rows: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """[M, D], [M, D] -> [M, 1], the sums of their products."""
    return np.einsum("md,md->m", rows, factors)[:, None]


def _products(rows: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """[M, D], [D] -> [M, 1], each row times the factors."""
    return np.einsum("md,d->m", rows, factors)[:, None]


class _LinearGradient(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.wanted = [not tensor.stop_gradient for tensor in (x, weight, bias)]
        return paddle.addmm(bias.reshape([1, -1]), _rows(x), weight).reshape([*x.shape[:-1], -1])

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
        to_x, width = paddle.empty_like(gradient), np.float32(x.shape[-1])
        values, gradients, outs, scale = _values(x), _values(gradient), _values(to_x), _values(weight)[0]
        share, epsilon = np.full_like(scale, 1.0 / width), np.float32(ctx.epsilon)
        sums: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        def work(piece: slice, normal: np.ndarray) -> None:
            # For the normalised n and g, the gradient times the weight: (g - mean(g) - n * mean(n * g)) / deviation
            given, out = gradients[piece], outs[piece]
            np.subtract(values[piece], _products(values[piece], share), out=normal)
            inverse = 1.0 / np.sqrt(_row_sums(normal, normal) / width + epsilon)
            normal *= inverse
            np.multiply(given, normal, out=out)
            sums[piece.start] = out.sum(axis=0), given.sum(axis=0)
            normal *= _products(out, scale / width)
            np.multiply(given, scale, out=out)
            out -= normal
            out -= _products(given, scale / width)
            out *= inverse

        _in_pieces(work, len(values), values.shape[1], num_scratch=1)
        to_weight, to_bias = np.sum([sums[first] for first in sorted(sums)], axis=0)
        return (
            to_x if ctx.wanted[0] else None,
            paddle.to_tensor(to_weight, place=weight.place) if ctx.wanted[1] else None,
            paddle.to_tensor(to_bias, place=weight.place) if ctx.wanted[2] else None,
        )


class _GeluGradient(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor) -> paddle.Tensor:
        out = x * math.sqrt(0.5)
        share = paddle.erf(out)  # becomes the derivative
        values, shares, outs = _values(x), _values(share), _values(out)

        def work(piece: slice, density: np.ndarray) -> None:
            value, derivative = values[piece], shares[piece]
            np.square(outs[piece], out=density)
            np.subtract(LOG_DENSITY, density, out=density)
            np.exp(density, out=density)
            density *= value
            derivative *= np.float32(0.5)
            derivative += np.float32(0.5)  # so far the share of a normal distribution that lies below the value
            np.multiply(value, derivative, out=outs[piece])
            derivative += density

        _in_pieces(work, len(values), values.shape[1], num_scratch=1)
        ctx.save_for_backward(share)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        (derivative,) = ctx.saved_tensor()
        to_x = paddle.empty_like(gradient)
        outs, gradients, factors = _values(to_x), _values(gradient), _values(derivative)

        def multiply(piece: slice) -> None:
            np.multiply(gradients[piece], factors[piece], out=outs[piece])

        _in_pieces(multiply, *outs.shape)
        return to_x


class _AttentionGradient(PyLayer):
    """From queries, keys and values side by side to what the heads say, also side by side.

    The softmax's numerators are kept, and one over their sums: dividing queries' rows of d numbers is less work than
    dividing N * N scores.
    """

    @staticmethod
    def forward(ctx: Any, qkv: paddle.Tensor, num_heads: int, scale: float) -> paddle.Tensor:
        batch, tokens, dim = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3 // num_heads
        q, k, v = (paddle.empty([batch, num_heads, tokens, dim]) for _ in range(3))  # [B, h, N, d]
        parts, joint = [_values(part, *part.shape) for part in (q, k, v)], (batch, tokens, 3, num_heads, dim)
        together, factors = _values(qkv, *joint), (np.float32(scale), np.float32(1.0), np.float32(1.0))

        def split(piece: slice) -> None:
            for number, part in enumerate(parts):
                np.multiply(together[piece, :, number].transpose(0, 2, 1, 3), factors[number], out=part[piece])

        _in_pieces(split, batch, tokens * qkv.shape[2])
        weights = paddle.matmul(q, k, transpose_y=True)  # [B, h, N, N]
        shares = paddle.empty([batch, num_heads, tokens, 1])
        scores, inverses = _values(weights), _values(shares)

        def softmax(piece: slice) -> None:
            part = scores[piece]
            largest = part.max(axis=1, keepdims=True)
            if not (largest.max() < SAFE_SCORE and largest.min() > -SAFE_SCORE):
                part -= largest
            np.exp(part, out=part)
            np.divide(1.0, part.sum(axis=1, keepdims=True), out=inverses[piece])

        _in_pieces(softmax, *scores.shape)
        ctx.save_for_backward(q, k, v, weights, shares)
        ctx.scale = scale
        out = paddle.empty([batch, tokens, num_heads * dim])  # [B, N, D]
        heads = _values(paddle.matmul(weights, v), batch, num_heads, tokens, dim)
        _swap_and_scale(heads, _values(shares, *shares.shape), _values(out, batch, tokens, num_heads, dim))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        q, k, v, weights, shares = ctx.saved_tensor()
        batch, num_heads, tokens, dim = q.shape
        heads = paddle.empty([batch, num_heads, tokens, dim])  # [B, h, N, d], the gradient over the sums
        factors = _values(shares, batch, num_heads, tokens, 1).transpose(0, 2, 1, 3)
        _swap_and_scale(_values(gradient, batch, tokens, num_heads, dim), factors, _values(heads, *heads.shape))
        to_v = paddle.matmul(weights, heads, transpose_x=True)
        to_scores = paddle.matmul(heads, v, transpose_y=True)  # [B, h, N, N]
        numerators, inverses, slopes = _values(weights), _values(shares), _values(to_scores)

        def softmax(piece: slice) -> None:
            slope, numerator = slopes[piece], numerators[piece]
            slope -= _row_sums(slope, numerator) * inverses[piece]
            slope *= numerator

        _in_pieces(softmax, *slopes.shape)
        to_q = paddle.matmul(to_scores, k)
        to_k = paddle.matmul(to_scores, q, transpose_x=True)
        to_qkv = paddle.empty([batch, tokens, 3 * num_heads * dim])
        parts = [_values(part, *part.shape) for part in (to_q, to_k, to_v)]
        together = _values(to_qkv, batch, tokens, 3, num_heads, dim)

        def join(piece: slice) -> None:
            for number, part in enumerate(parts):
                factor = np.float32(ctx.scale if number == 0 else 1.0)
                np.multiply(part[piece].transpose(0, 2, 1, 3), factor, out=together[piece, :, number])

        _in_pieces(join, batch, 3 * tokens * num_heads * dim)
        return to_qkv


def _swap_and_scale(source: np.ndarray, factors: np.ndarray, target: np.ndarray) -> None:
    """[B, x, y, d], [B, x, y, 1] -> [B, y, x, d], their product."""

    def work(piece: slice) -> None:
        np.multiply(source[piece].transpose(0, 2, 1, 3), factors[piece].transpose(0, 2, 1, 3), out=target[piece])

    _in_pieces(work, len(source), source[0].size)


def _suits(x: paddle.Tensor, *parameters: paddle.Tensor) -> bool:
    """Whether there is a gradient to compute, and numbers of the kind that this file can compute with."""
    trained = not all(tensor.stop_gradient for tensor in (x, *parameters))
    floats = all(tensor.dtype == paddle.float32 and tensor.place.is_cpu_place() for tensor in (x, *parameters))
    return trained and floats and x.ndim > 1 and x.size > 0


class _FastLinear(nn.Linear):
    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        if not _suits(input, self.weight, self.bias):
            return super().forward(input)
        return _LinearGradient.apply(input, self.weight, self.bias)


class _FastLayerNorm(nn.LayerNorm):
    def forward(self, input: paddle.Tensor) -> paddle.Tensor:
        if not _suits(input, self.weight, self.bias):
            return super().forward(input)
        return _LayerNormGradient.apply(input, self.weight, self.bias, self._epsilon)


class _FastGELU(nn.GELU):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return _GeluGradient.apply(x) if _suits(x) else super().forward(x)


class _FastAttention(Attention):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        drops = self.attention_dropout.p > 0 and self.training
        skipped = (self.softmax, self.attention_dropout)
        watched = any(layer._forward_pre_hooks or layer._forward_post_hooks for layer in skipped)
        if drops or watched or not _suits(x, self.qkv.weight):
            return super().forward(x)
        return self.dropout(self.proj(_AttentionGradient.apply(self.qkv(x), self.num_heads, self.scales)))


def _fast_class(layer: nn.Layer) -> type[nn.Layer] | None:
    """The class that computes what the layer computes, if there is one."""
    if type(layer) is nn.Linear and layer.bias is not None:
        return _FastLinear
    if type(layer) is nn.LayerNorm and layer.weight is not None and layer.bias is not None:
        return _FastLayerNorm if len(layer._normalized_shape) == 1 else None
    if type(layer) is nn.GELU:
        return None if layer._approximate else _FastGELU
    return _FastAttention if type(layer) is Attention else None


@contextmanager
def fast_gradients(network: nn.Layer, on: bool = True) -> Iterator[None]:
    """Within the block, the network's Linear, LayerNorm, GELU and attention layers compute their gradients faster.

    A graph made in the block can be differentiated once only: Paddle's own rule for every PyLayer.

    Args:
        network: Trained on a CPU in float32; whatever is elsewhere or of another type is computed as without the block.
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
