"""Swin's stages as an export has them, for maps of one size or of any.

Padding, shift and partition are one list of token numbers, a constant for maps of one size; so is what the scores of
shifted windows get. For maps of any size, both are worked out in the graph; heights and widths are tensors [] then.

Shapes: B batch, H W height and width of a map, N tokens, D width, h heads, d = D / h, M window side, nW windows per
map.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

from paddlevit.models import swin
from paddlevit.models.windows import MASKED, gather_neighbours


class LeanWindowAttention(nn.Layer):
    """Attention in windows with all that is added to the scores in one constant, or mask and bias apart.

    Args:
        qkv: Joint projection, scaled where there is a scale.
        proj: Output projection.
        bias: [h, N, N] or, with the mask of shifted windows, [nW, h, N, N].
        cosine_scale: [h, 1, 1], factor on the cosine between queries and keys of Swin V2; None takes their product.
    """

    def __init__(
        self, qkv: nn.Linear, proj: nn.Linear, bias: np.ndarray, cosine_scale: np.ndarray | None = None
    ) -> None:
        super().__init__()
        self.num_heads, self.num_tokens = bias.shape[-3:-1]
        self.head_dim = proj.weight.shape[0] // self.num_heads
        self.qkv, self.proj, self.softmax = qkv, proj, nn.Softmax(axis=-1)
        self.register_buffer("bias", paddle.to_tensor(bias.astype(np.float32)), persistable=True)
        self.cosine = cosine_scale is not None
        if cosine_scale is not None:
            self.register_buffer("cosine_scale", paddle.to_tensor(cosine_scale.astype(np.float32)), persistable=True)

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
        """[B * nW, N, D] and a mask [nW, 1, N, N] that is not in the bias -> [B * nW, N, D]."""
        tokens, heads = self.num_tokens, self.num_heads
        qkv = self.qkv(x).reshape([-1, tokens, 3, heads, self.head_dim])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)  # each [B * nW, h, N, d]
        if self.cosine:
            q, k = functional.normalize(q, axis=-1) * self.cosine_scale, functional.normalize(k, axis=-1)
        attn = paddle.matmul(q, k, transpose_y=True)  # [B * nW, h, N, N]
        if mask is not None:
            attn = self._add_mask(attn + self.bias, mask)
        elif self.bias.ndim == 4:
            attn = (attn.reshape([-1, *self.bias.shape]) + self.bias).reshape([-1, heads, tokens, tokens])
        else:
            attn = attn + self.bias
        attn = self.softmax(attn)  # [B * nW, h, N, N]
        x = paddle.matmul(attn, v).transpose([0, 2, 1, 3]).reshape([-1, tokens, heads * self.head_dim])
        return self.proj(x)

    def _add_mask(self, attn: paddle.Tensor, mask: paddle.Tensor) -> paddle.Tensor:
        """[B * nW, h, N, N] plus [nW, 1, N, N], where the number of windows is only known when it runs."""
        windows = paddle.shape(mask)[0]
        attn = attn.reshape([-1, windows, self.num_heads, self.num_tokens, self.num_tokens]) + mask
        return attn.reshape([-1, self.num_heads, self.num_tokens, self.num_tokens])


class FixedWindows(nn.Layer):
    """The windows of maps of one size. What shifted ones add to the scores is in the bias of the attention.

    Args:
        windows: The network's own.
        height: Height H of the map.
        width: Width W of the map.
    """

    def __init__(self, windows: nn.Layer, height: int, width: int) -> None:
        super().__init__()
        index, inverse, mask = windows(height, width)
        self.mask = None if mask is None else mask.numpy()
        self.pads = index.shape[0] > inverse.shape[0]
        self.register_buffer("index", index, persistable=True)
        self.register_buffer("inverse", inverse, persistable=True)

    def forward(self, height: int, width: int) -> tuple[paddle.Tensor, paddle.Tensor, None]:
        """As `DynamicWindows.forward`, without mask."""
        return self.index, self.inverse, None


class DynamicWindows(nn.Layer):
    """`paddlevit.models.windows.Windows` worked out in the graph.

    Args:
        window_size: Window side M.
        shift_size: Tokens by which the windows move down and right.
    """

    def __init__(self, window_size: int, shift_size: int) -> None:
        super().__init__()
        self.window_size, self.shift_size = window_size, shift_size
        self.pads = True

    def forward(
        self, height: paddle.Tensor, width: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """The windows of a map of H x W tokens.

        Returns:
            int64 [nW * M * M], the token in each place; N is padding.
            int64 [N], the place of each token.
            [nW, 1, M * M, M * M], 0 or -100 to add to the scores.
        """
        side = self.window_size
        full_height, full_width = self.padded(height), self.padded(width)
        shift = (paddle.minimum(height, width) > side).astype("int64") * self.shift_size

        # Worked out place by place. On whole numbers, oneDNN in Paddle 3.3 has no transpose that is fused with another
        # step, and gets a sum that is then multiplied by a constant wrong; so only single terms are.
        place = count(full_height * full_width)  # [P], P = nW * M * M
        window, inside = place // (side * side), place % (side * side)
        row = window // (full_width // side) * side + inside // side
        column = window % (full_width // side) * side + inside % side
        region = self.region(row, full_height, shift, 3) + self.region(column, full_width, shift, 1)
        row, column = (row + shift) % full_height, (column + shift) % full_width
        exists = (row < height).astype("int64") * (column < width).astype("int64")
        index = exists * (row * width + column) + (1 - exists) * (height * width)

        token = count(height * width)  # [N]
        row = (token // width + full_height - shift) % full_height
        column = (token % width + full_width - shift) % full_width
        places = side * side
        window = row // side * (full_width // side * places) + column // side * places  # times M * M
        inverse = window + row % side * side + column % side

        apart = region.reshape([-1, 1, 1, places]) != region.reshape([-1, 1, places, 1])
        return index, inverse, apart.astype("float32") * MASKED

    def padded(self, length: paddle.Tensor) -> paddle.Tensor:
        """The next multiple of the window side."""
        return (length + self.window_size - 1) // self.window_size * self.window_size

    def region(self, line: paddle.Tensor, length: paddle.Tensor, shift: paddle.Tensor, step: int) -> paddle.Tensor:
        """0 before the last window, `step` for what stays of it, twice that for what came round from the other edge."""
        in_last_window = (line >= length - self.window_size).astype("int64") * step
        return in_last_window + (line >= length - shift).astype("int64") * step


class FixedNeighbours(nn.Layer):
    """The tokens of a map of one size in the order in which four at a time become one, column by column.

    Args:
        height: Height H of the map.
        width: Width W of the map.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        numbers = paddle.arange(1, height * width + 1, dtype="float32").reshape([1, -1, 1])
        index = gather_neighbours(numbers, height, width).numpy().reshape(-1).astype(np.int64) - 1
        index[index < 0] = height * width
        self.pads = len(index) > height * width
        self.register_buffer("index", paddle.to_tensor(index), persistable=True)

    def forward(self, height: int, width: int) -> paddle.Tensor:
        """int64 [N + padding]; N is padding."""
        return self.index


class DynamicNeighbours(nn.Layer):
    """`FixedNeighbours` worked out in the graph."""

    pads = True

    def forward(self, height: paddle.Tensor, width: paddle.Tensor) -> paddle.Tensor:
        """int64 [N + padding]; N is padding."""
        rows, columns = (height + 1) // 2, (width + 1) // 2
        place = count(4 * rows * columns)
        merged, which = place // 4, place % 4
        row, column = merged // columns * 2 + which % 2, merged % columns * 2 + which // 2
        exists = (row < height).astype("int64") * (column < width).astype("int64")
        return exists * (row * width + column) + (1 - exists) * (height * width)


class LeanStage(nn.Layer):
    """A stage of Swin whose blocks share their windows.

    Args:
        stage: The network's own; its blocks' attentions are `LeanWindowAttention`.
        windows: Of the blocks with even, and if there are any with odd numbers.
        neighbours: For its merging; None if it has none.
    """

    def __init__(self, stage: nn.Layer, windows: list[nn.Layer], neighbours: nn.Layer | None) -> None:
        super().__init__()
        self.blocks, self.merging = stage.blocks, stage.downsample
        self.windows, self.neighbours = nn.LayerList(windows), neighbours
        self.norm_first = isinstance(stage.blocks[0], swin.SwinTransformerBlock)

    def forward(self, x: paddle.Tensor, height: Any, width: Any) -> tuple[paddle.Tensor, Any, Any]:
        """[B, N, D] -> [B, N / 4, 2D], and height and width of the new map; without a merging all stay."""
        orders = [windows(height, width) for windows in self.windows]
        for i, block in enumerate(self.blocks):
            index, inverse, mask = orders[i % 2]
            pads = self.windows[i % 2].pads
            if self.norm_first:
                x = x + attend(block.attn, block.norm1(x), index, inverse, mask, pads)
                x = x + block.mlp(block.norm2(x))
            else:
                x = x + block.norm1(attend(block.attn, x, index, inverse, mask, pads))
                x = x + block.norm2(block.mlp(x))
        if self.neighbours is not None:
            x = self.merge(gather(x, self.neighbours(height, width), self.neighbours.pads))
            height, width = (height + 1) // 2, (width + 1) // 2
        return x, height, width

    def merge(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D], four neighbours in a row -> [B, N / 4, 2D], normalised before or after."""
        x = x.reshape([0, -1, 4 * x.shape[-1]])  # [B, N / 4, 4D]
        if self.norm_first:
            return self.merging.reduction(self.merging.norm(x))
        return self.merging.norm(self.merging.reduction(x))


class DynamicPatchEmbed(nn.Layer):
    """Swin's patch embedding for pictures of any multiple of the patch.

    Args:
        patch_embed: The network's own.
    """

    def __init__(self, patch_embed: nn.Layer) -> None:
        super().__init__()
        self.proj, self.norm = patch_embed.proj, patch_embed.norm

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """[B, C, H, W] -> [B, N, D], and height and width of the map of tokens."""
        x = self.proj(x)  # [B, D, H / P, W / P]
        size = paddle.shape(x).astype("int64")
        return self.norm(x.flatten(2).transpose([0, 2, 1])), size[2], size[3]


def attend(
    attn: LeanWindowAttention,
    x: paddle.Tensor,
    index: paddle.Tensor,
    inverse: paddle.Tensor,
    mask: paddle.Tensor | None,
    pads: bool,
) -> paddle.Tensor:
    """Attention inside each window, [B, N, D] -> [B, N, D]."""
    dim = x.shape[-1]
    x = gather(x, index, pads)  # [B, nW * M * M, D]
    places = index.shape[0] if mask is None else paddle.shape(x)[1]
    x = attn(x.reshape([-1, attn.num_tokens, dim]), mask)  # [B * nW, M * M, D]
    return paddle.index_select(x.reshape([-1, places, dim]), inverse, axis=1)  # [B, N, D]


def gather(x: paddle.Tensor, index: paddle.Tensor, pads: bool) -> paddle.Tensor:
    """[B, N, D] -> [B, len(index), D]; token number N is one of zeros, which is needed if `pads`.

    The zeros are made by concat: with channels last, pad crashes oneDNN; and paddle2onnx puts noise for zeros_like.
    """
    if pads:
        x = paddle.concat([x, x[:, :1] * 0.0], axis=1)  # [B, N + 1, D]
    return paddle.index_select(x, index, axis=1)


def count(number: paddle.Tensor) -> paddle.Tensor:
    """int64 [number]: 0, 1, 2, ..."""
    return paddle.arange(0, number, dtype="int64")
