"""Swin Transformer V2: Scaling Up Capacity and Resolution (Liu et al. 2022, arXiv 2111.09883).

Three changes to Swin make it stable when it is large and transferable to larger windows: each branch is normalised
after it, not before; attention compares directions only; and the bias of a relative position comes from a small network
over its logarithm, so that a window of another size has one too.

Any picture size is accepted, padded as in `paddlevit.models.swin`.

Shapes: B batch, C image channels, H W height and width of the picture or of a map of tokens, P patch side, N tokens,
D width, h heads, d = D / h, M window side, nW windows per map, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import paddle
from paddle import ParamAttr, nn
from paddle.nn import functional, initializer

from paddlevit.layers import DropPath, Mlp
from paddlevit.models.hierarchical import HierarchicalTransformer, per_stage
from paddlevit.models.spec import ModelSpec
from paddlevit.models.swin import EPSILON, SIZES, WEIGHT, PatchEmbed, build_layers, preprocessing
from paddlevit.models.windows import (
    Windows,
    add_bias,
    attend_in_windows,
    gather_neighbours,
    relative_position_index,
    select_bias,
)

# Initialisation as in the paper's code, where it differs from Swin's.
#   normalisation after a branch   0 and 0: a fresh block returns its input
#   logit_scale                    log 10, a temperature of 0.1
_ZERO = ParamAttr(initializer=initializer.Constant(0.0))
_LOGIT_SCALE = ParamAttr(initializer=initializer.Constant(math.log(10.0)))
MAX_LOGIT_SCALE = math.log(100.0)  # section 3.2: no temperature below 0.01


def relative_coordinates(window_size: int, pretrained_window_size: int = 0) -> np.ndarray:
    """Log-spaced offsets between two places of a window, as the bias network reads them (equation 4).

    Args:
        window_size: Window side M.
        pretrained_window_size: Side of the windows that the network was trained with, whose largest offset becomes 1;
            0 is `window_size`.

    Returns:
        float32 [2M - 1, 2M - 1, 2], offsets down and right.
    """
    line = np.arange(1 - window_size, window_size) / max((pretrained_window_size or window_size) - 1, 1)
    line = np.sign(line) * np.log2(np.abs(8 * line) + 1) / np.log2(8)
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).astype(np.float32)


class WindowAttentionV2(nn.Layer):
    """Multi-head scaled cosine attention inside a window (equations 2 and 3).

    Args:
        embed_dim: Width D.
        window_size: Window side M.
        num_heads: Heads h; must divide D.
        qkv_bias: Whether queries and values have a bias; keys have none.
        dropout: Probability after the output projection.
        attention_dropout: Probability after the softmax.
        pretrained_window_size: See `relative_coordinates`.

    Raises:
        ValueError: D is not a multiple of h.
    """

    def __init__(
        self,
        embed_dim: int,
        window_size: int,
        num_heads: int,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        pretrained_window_size: int = 0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}.")
        self.window_size, self.num_heads = window_size, num_heads
        self.pretrained_window_size = pretrained_window_size
        self.head_dim = embed_dim // num_heads
        self.logit_scale = self.create_parameter([num_heads, 1, 1], attr=_LOGIT_SCALE)
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, 512, weight_attr=WEIGHT),
            nn.ReLU(),
            nn.Linear(512, num_heads, weight_attr=WEIGHT, bias_attr=False),
        )
        table = paddle.to_tensor(relative_coordinates(window_size, pretrained_window_size))
        self.register_buffer("relative_coords_table", table, persistable=False)
        index = paddle.to_tensor(relative_position_index(window_size))
        self.register_buffer("relative_position_index", index, persistable=False)
        self.qkv = nn.Linear(embed_dim, embed_dim * 3, weight_attr=WEIGHT, bias_attr=False)
        self.q_bias = self.create_parameter([embed_dim], is_bias=True) if qkv_bias else None
        self.v_bias = self.create_parameter([embed_dim], is_bias=True) if qkv_bias else None
        self.attn_drop = nn.Dropout(attention_dropout)
        self.proj = nn.Linear(embed_dim, embed_dim, weight_attr=WEIGHT)
        self.proj_drop = nn.Dropout(dropout)
        self.softmax = nn.Softmax(axis=-1)

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
        """[B * nW, N, D] and a mask [nW, N, N] -> [B * nW, N, D]; here N is M * M."""
        tokens, dim = x.shape[1:]
        qkv = self.qkv(x)  # [B * nW, N, 3D]
        if self.q_bias is not None:
            k_bias = paddle.zeros([dim], dtype=self.q_bias.dtype)
            qkv = qkv + paddle.concat([self.q_bias, k_bias, self.v_bias])
        qkv = qkv.reshape([-1, tokens, 3, self.num_heads, self.head_dim])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)  # each [B * nW, h, N, d]
        q, k = functional.normalize(q, axis=-1), functional.normalize(k, axis=-1)
        scale = paddle.exp(paddle.clip(self.logit_scale, max=MAX_LOGIT_SCALE))  # [h, 1, 1]
        attn = paddle.matmul(q * scale, k, transpose_y=True)  # [B * nW, h, N, N]
        # Reshaped here, not once: a constant straight into a linear layer crashes the predictor of Paddle 2.6.2.
        offsets = self.relative_coords_table.reshape([-1, 2])  # [(2M - 1) ** 2, 2]
        bias = 16.0 * functional.sigmoid(self.cpb_mlp(offsets))  # [(2M - 1) ** 2, h]
        attn = self.attn_drop(self.softmax(add_bias(attn, select_bias(self, bias), mask)))
        x = paddle.matmul(attn, v).transpose([0, 2, 1, 3]).reshape([-1, tokens, dim])  # [B * nW, N, D]
        return self.proj_drop(self.proj(x))

    def multiply_adds(self, x: paddle.Tensor) -> int:
        """Multiply-adds of the two products that no sub-layer shows: scores, and weighted values."""
        batch, tokens, dim = x.shape
        return 2 * batch * tokens * tokens * dim

    def extra_repr(self) -> str:
        sizes = f"window_size={self.window_size}, pretrained_window_size={self.pretrained_window_size}"
        return f"{sizes}, num_heads={self.num_heads}"


class SwinTransformerBlockV2(nn.Layer):
    """Attention in windows and an MLP, each normalised after and with a residual shortcut (figure 1).

    Args:
        embed_dim: Width D.
        num_heads: Attention heads.
        window_size: Window side M.
        shift_size: 0, or the tokens by which the windows are shifted.
        mlp_ratio: Width of the MLP's hidden layer over D.
        qkv_bias: See `WindowAttentionV2`.
        dropout: After the attention's projection and both layers of the MLP.
        attention_dropout: After the softmax.
        drop_path: Probability of skipping each of the two branches for a sample.
        pretrained_window_size: See `relative_coordinates`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window_size: int = 8,
        shift_size: int = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        pretrained_window_size: int = 0,
    ) -> None:
        super().__init__()
        self.windows = Windows(window_size, shift_size)
        self.attn = WindowAttentionV2(
            embed_dim, window_size, num_heads, qkv_bias, dropout, attention_dropout, pretrained_window_size
        )
        self.norm1 = nn.LayerNorm(embed_dim, epsilon=EPSILON, weight_attr=_ZERO)
        self.drop_path = DropPath(drop_path)
        self.mlp = Mlp(embed_dim, mlp_ratio, dropout, weight_attr=WEIGHT)
        self.norm2 = nn.LayerNorm(embed_dim, epsilon=EPSILON, weight_attr=_ZERO)

    def forward(self, x: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.drop_path(self.norm1(attend_in_windows(self.attn, self.windows, x, height, width)))
        return x + self.drop_path(self.norm2(self.mlp(x)))


class PatchMergingV2(nn.Layer):
    """Halves height and width of the map and doubles the width of its tokens; normalised after the projection.

    Args:
        embed_dim: Width D of the incoming tokens.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * embed_dim, 2 * embed_dim, weight_attr=WEIGHT, bias_attr=False)
        self.norm = nn.LayerNorm(2 * embed_dim, epsilon=EPSILON)

    def forward(self, x: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
        """[B, N, D] -> [B, N / 4, 2D]."""
        return self.norm(self.reduction(gather_neighbours(x, height, width)))


class SwinTransformerV2(HierarchicalTransformer):
    """The Swin Transformer V2; the defaults are SwinV2-T with windows of 8 x 8.

    Args:
        image_size: H, W of the pictures, one number or two. It only fixes the windows: in a stage whose map is smaller
            than a window, the window is as large as the map. Other sizes are accepted later, with the same windows.
        patch_size: Height and width of a patch.
        in_channels: Channels C of the pictures.
        num_classes: K; 1 for regression, 0 for the features themselves.
        embed_dim: Width D of the first stage; each stage doubles it.
        depths: Number of blocks of each stage.
        num_heads: Attention heads, one number or one per stage; must divide the stage's width.
        window_size: Window side M, one number or one per stage.
        pretrained_window_size: Window side of the network whose weights are carried over to larger windows, one number
            or one per stage; 0 when there is none.
        mlp_ratio: Width of the MLP's hidden layer over D.
        qkv_bias: Whether queries and values have a bias.
        dropout: On the embedded tokens, after attention and in the MLP.
        attention_dropout: After the softmax.
        drop_path: Stochastic depth of the last block, rising linearly from 0 over all blocks, or one value per block.
        use_checkpoint: Trade time for memory in training: recompute each block in backward.

    Raises:
        ValueError: Impossible sizes, with the numbers.

    Example:
        >>> model = SwinTransformerV2(image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], num_classes=10)
        >>> model(paddle.zeros([2, 3, 64, 64])).shape
        [2, 10]
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 256,
        patch_size: int | Sequence[int] = 4,
        in_channels: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: int | Sequence[int] = (3, 6, 12, 24),
        window_size: int | Sequence[int] = 8,
        pretrained_window_size: int | Sequence[int] = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float | Sequence[float] = 0.0,
        use_checkpoint: bool = False,
    ) -> None:
        pretrained = per_stage("pretrained_window_size", pretrained_window_size, depths)
        patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        layers = build_layers(
            [partial(SwinTransformerBlockV2, pretrained_window_size=size) for size in pretrained],
            PatchMergingV2,
            patch_embed.map_size(image_size),
            embed_dim,
            depths,
            num_heads,
            window_size,
            drop_path,
            use_checkpoint,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            dropout=dropout,
            attention_dropout=attention_dropout,
        )
        super().__init__(patch_embed, layers, embed_dim * 2 ** (len(depths) - 1), dropout, num_classes)

    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that weight decay leaves alone."""
        return {name for name, p in self.named_parameters() if p.ndim > 1 and ("cpb_mlp" in name or "logit_" in name)}


def _spec(size: str, window_size: int, image_size: int, **options) -> ModelSpec:
    options = dict(SIZES[size], window_size=window_size, **options)
    return ModelSpec(SwinTransformerV2, options, preprocessing(image_size))


# The largest offset of windows of 12 x 12 on pictures of 192, whose last map is 6 x 6.
_FROM_192 = (12, 12, 12, 6)

MODELS = {
    **{
        f"swinv2_{size}_window{window_size}_256": _spec(size, window_size, 256)
        for size in ("tiny", "small", "base")
        for window_size in (8, 16)
    },
    **{f"swinv2_{size}_window12_192": _spec(size, 12, 192, num_classes=21841) for size in ("base", "large")},
    **{
        f"swinv2_{size}_window12to{window_size}_192to{image_size}": _spec(
            size, window_size, image_size, pretrained_window_size=_FROM_192
        )
        for size in ("base", "large")
        for window_size, image_size in ((16, 256), (24, 384))
    },
}
