"""Swin's stages in an export against the network's own."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit.inference.simplify import lean_window_attention
from paddlevit.inference.windows import DynamicNeighbours, DynamicWindows, FixedNeighbours, FixedWindows, gather
from paddlevit.models.windows import Windows, gather_neighbours
from tests.golden.fill import fill
from tests.inference.conftest import build, relative, run

SIZES = [(8, 8), (7, 9), (3, 4), (4, 4), (12, 5), (1, 1)]


def numbers(*values: int) -> list[paddle.Tensor]:
    return [paddle.to_tensor(value, dtype="int64") for value in values]


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", SIZES)
def test_dynamic_windows_are_the_networks(size, shift) -> None:
    index, inverse, mask = Windows(4, shift)(*size)
    ours = DynamicWindows(4, shift)(*numbers(*size))
    np.testing.assert_array_equal(ours[0].numpy(), index.numpy())
    np.testing.assert_array_equal(ours[1].numpy(), inverse.numpy())
    expected = np.zeros((len(index) // 16, 16, 16)) if mask is None else mask.numpy()
    np.testing.assert_array_equal(ours[2].numpy()[:, 0], expected)


@pytest.mark.parametrize("size", SIZES)
def test_fixed_windows_are_the_networks(size) -> None:
    windows = Windows(4, 2)
    index, inverse, mask = windows(*size)
    fixed = FixedWindows(windows, *size)
    assert fixed.pads == (size[0] % 4 > 0 or size[1] % 4 > 0)
    np.testing.assert_array_equal(fixed(0, 0)[0].numpy(), index.numpy())
    np.testing.assert_array_equal(fixed(0, 0)[1].numpy(), inverse.numpy())
    assert fixed(0, 0)[2] is None
    assert (fixed.mask is None) == (mask is None)


@pytest.mark.parametrize("size", SIZES)
def test_neighbours_are_the_networks(size) -> None:
    tokens = fill("tokens", (2, size[0] * size[1], 3))
    expected = gather_neighbours(paddle.to_tensor(tokens), *size).numpy()
    fixed = FixedNeighbours(*size)
    assert fixed.pads == (size[0] % 2 > 0 or size[1] % 2 > 0)
    for index, pads in ((fixed(*size), fixed.pads), (DynamicNeighbours()(*numbers(*size)), True)):
        ours = gather(paddle.to_tensor(tokens), index, pads)
        np.testing.assert_array_equal(ours.reshape([2, -1, 12]).numpy(), expected)


@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}])
@pytest.mark.parametrize("family", ["swin", "swin v2"])
def test_lean_window_attention(family, options) -> None:
    attn = build(family, **options).layers[0].blocks[1].attn
    tokens = fill("tokens", (8, 16, 16))
    mask = Windows(4, 2)(8, 8)[2]
    for own in (None, mask):
        expected = run(lambda x, own=own: attn(x, own), tokens)
        baked = lean_window_attention(attn, None if own is None else own.numpy())
        assert relative(run(baked, tokens), expected) < 1e-5
    apart = lean_window_attention(attn)
    assert relative(run(lambda x: apart(x, mask.unsqueeze(1)), tokens), run(lambda x: attn(x, mask), tokens)) < 1e-5
