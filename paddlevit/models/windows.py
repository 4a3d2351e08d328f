"""Attention inside shifted windows: what Swin (arXiv 2103.14030, section 3.2) and Swin V2 do alike.

Shapes: B batch, H W height and width of a map of tokens, N tokens, D width, h heads, M window side, nW windows per map.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

MASKED = -100.0


def window_partition(x, window_size: int):
    """Cut maps into windows.

    Args:
        x: [B, H, W, D], a tensor or a NumPy array; M divides H and W.
        window_size: Window side M.

    Returns:
        [B * nW, M, M, D], the windows of a map row by row.
    """
    height, width, dim = x.shape[1:]
    x = x.reshape([-1, height // window_size, window_size, width // window_size, window_size, dim])
    return x.transpose([0, 1, 3, 2, 4, 5]).reshape([-1, window_size, window_size, dim])  # [B * nW, M, M, D]


def window_reverse(windows, window_size: int, height: int, width: int):
    """Put windows together, the inverse of `window_partition`.

    Args:
        windows: [B * nW, M, M, D], a tensor or a NumPy array.
        window_size: Window side M.
        height: Height H of the map.
        width: Width W of the map.

    Returns:
        [B, H, W, D].
    """
    dim = windows.shape[-1]
    x = windows.reshape([-1, height // window_size, width // window_size, window_size, window_size, dim])
    return x.transpose([0, 1, 3, 2, 4, 5]).reshape([-1, height, width, dim])  # [B, H, W, D]


class Windows(nn.Layer):
    """Which token stands in which place of which window, and which places may look at each other (section 3.2).

    Padding, shift and partition only move tokens, so all three are one list of token numbers, and so is the way back.
    Both, and the mask, depend on the size of the map alone: they are kept for the last size seen, as buffers that no
    state dict holds.

    Args:
        window_size: Window side M.
        shift_size: Tokens by which the windows move down and right; below M.
    """

    index: paddle.Tensor
    inverse: paddle.Tensor
    mask: paddle.Tensor | None

    def __init__(self, window_size: int, shift_size: int = 0) -> None:
        super().__init__()
        self.window_size, self.shift_size = window_size, shift_size
        self.map_size: tuple[int, int] | None = None
        for name in ("index", "inverse", "mask"):
            self.register_buffer(name, None, persistable=False)

    def forward(self, height: int, width: int) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor | None]:
        """The windows of a map of H x W tokens.

        Returns:
            int64 [nW * M * M], the token in each place; N is padding.
            int64 [N], the place of each token.
            [nW, M * M, M * M], 0 or -100 to add to the scores, or None without a shift.
        """
        # The second condition: Layer.to(dtype) casts integer buffers too, and half precision cannot hold the numbers.
        if self.map_size == (height, width) and self.index.dtype == paddle.int64:
            return self.index, self.inverse, self.mask
        # A window that covers the map has no neighbour to be connected with.
        shift = self.shift_size if min(height, width) > self.window_size else 0
        index, inverse = (paddle.to_tensor(tokens) for tokens in self.token_order(height, width, shift))
        mask = self.shift_mask(height, width, shift) if shift else None
        if paddle.in_dynamic_mode():  # a tensor of a graph under construction must not outlive it
            self.map_size, self.index, self.inverse, self.mask = (height, width), index, inverse, mask
        return index, inverse, mask

    def token_order(self, height: int, width: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
        """`index` and `inverse` of `forward`."""
        side = self.window_size
        tokens = np.arange(height * width).reshape(1, height, width, 1)
        padding = ((0, 0), (0, -height % side), (0, -width % side), (0, 0))
        tokens = np.pad(tokens, padding, constant_values=height * width)
        padded_height, padded_width = tokens.shape[1:3]
        index = window_partition(np.roll(tokens, (-shift, -shift), axis=(1, 2)), side)

        places = np.arange(index.size).reshape(index.shape)
        places = np.roll(window_reverse(places, side, padded_height, padded_width), (shift, shift), axis=(1, 2))
        return index.reshape(-1), places[:, :height, :width].reshape(-1)

    def shift_mask(self, height: int, width: int, shift: int) -> paddle.Tensor:
        """`mask` of `forward`: the shift brings opposite edges together, and these must not look at each other."""
        side = self.window_size
        sizes = [size + -size % side for size in (height, width)]
        # What came round from the opposite edge stands last.
        rows, columns = (np.arange(size) >= size - shift for size in sizes)
        regions = (2 * rows[:, None] + columns).reshape(1, *sizes, 1)
        regions = paddle.to_tensor(window_partition(regions, side).reshape(-1, side * side))  # [nW, M * M]
        apart = regions.unsqueeze(1) != regions.unsqueeze(2)  # [nW, M * M, M * M]
        return apart.astype(paddle.get_default_dtype()) * MASKED

    def extra_repr(self) -> str:
        return f"window_size={self.window_size}, shift_size={self.shift_size}"


def append_zeros(x: paddle.Tensor) -> paddle.Tensor:
    """[B, N, D] -> [B, N + 1, D], the last token zero."""
    # As a picture of one channel: padded with channels last, the CPU predictor of Paddle 2.6.2 and 3.3.1 crashes.
    return functional.pad(x.unsqueeze(1), [0, 0, 0, 1]).squeeze(1)


def attend_in_windows(attn: nn.Layer, windows: Windows, x: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """Attention inside each window of a map.

    Args:
        attn: Maps [B * nW, M * M, D] and a mask to [B * nW, M * M, D].
        windows: Those of the map.
        x: [B, N, D], the map's tokens row by row.
        height: Height H of the map.
        width: Width W of the map.

    Returns:
        [B, N, D].
    """
    index, inverse, mask = windows(height, width)
    places, dim = index.shape[0], x.shape[-1]
    if places > height * width:
        x = append_zeros(x)  # [B, N + 1, D], where the padding is taken from
    x = paddle.index_select(x, index, axis=1)  # [B, nW * M * M, D]
    x = attn(x.reshape([-1, windows.window_size**2, dim]), mask)  # [B * nW, M * M, D]
    return paddle.index_select(x.reshape([-1, places, dim]), inverse, axis=1)  # [B, N, D]


def relative_position_index(window_size: int) -> np.ndarray:
    """Row of the bias table for each pair of places in a window: the table holds one for each offset, row by row.

    Args:
        window_size: Window side M.

    Returns:
        int64 [M * M, M * M], values from 0 to (2M - 1) ** 2 - 1.
    """
    places = np.stack(np.meshgrid(np.arange(window_size), np.arange(window_size), indexing="ij"))
    places = places.reshape(2, -1)  # [2, M * M]
    offset = places[:, :, None] - places[:, None, :] + window_size - 1  # [2, M * M, M * M], 0 to 2M - 2
    return offset[0] * (2 * window_size - 1) + offset[1]


def select_bias(attn: nn.Layer, table: paddle.Tensor) -> paddle.Tensor:
    """[..., h], one row per offset -> [h, M * M, M * M], the bias of each pair, by `attn.relative_position_index`."""
    index = attn.relative_position_index
    if index.dtype != paddle.int64:  # see Windows.forward
        index = paddle.to_tensor(relative_position_index(attn.window_size))
    places = attn.window_size**2
    table = table.reshape([-1, table.shape[-1]])  # [(2M - 1) ** 2, h]
    bias = paddle.index_select(table, index.reshape([-1]), axis=0)  # [M * M * M * M, h]
    return bias.transpose([1, 0]).reshape([-1, places, places])  # [h, M * M, M * M]


def add_bias(scores: paddle.Tensor, bias: paddle.Tensor, mask: paddle.Tensor | None) -> paddle.Tensor:
    """Scores [B * nW, h, N, N] plus bias [h, N, N] plus mask [nW, N, N]; the two small ones are added up first."""
    if mask is None:
        return scores + bias
    bias = bias + mask.astype(bias.dtype).unsqueeze(1)  # [nW, h, N, N]
    windows, *rest = bias.shape
    return (scores.reshape([-1, windows, *rest]) + bias).reshape([-1, *rest])  # [B * nW, h, N, N]


def gather_neighbours(x: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
    """[B, N, D] -> [B, N / 4, 4D]: 2 x 2 tokens side by side, column by column; an odd map is padded first."""
    dim = x.shape[-1]
    rows, columns = (height + 1) // 2, (width + 1) // 2
    if height % 2:
        x = append_zeros(x.reshape([-1, height, width * dim]))  # [B, H + 1, W * D]
    if width % 2:
        x = append_zeros(x.reshape([-1, width, dim]))  # [B * H, W + 1, D]
    x = x.reshape([-1, rows, 2, columns, 2, dim]).transpose([0, 1, 3, 4, 2, 5])  # [B, H / 2, W / 2, 2, 2, D]
    return x.reshape([-1, rows * columns, 4 * dim])  # [B, N / 4, 4D]
