"""Swin Transformer: Hierarchical Vision Transformer using Shifted Windows (Liu et al. 2021, arXiv 2103.14030).

A picture becomes small patches, and attention looks only inside windows of M x M of them, so that its cost grows with
the picture and not with its square. Every second block shifts the windows by half a window, which connects them. After
each stage, 2 x 2 neighbours merge into one token of twice the width: four stages give a pyramid of maps.

Any picture size is accepted. The picture is padded with zeros to a multiple of the patch, a map to a multiple of the
window before it is shifted, and an odd map by a row or column before merging; a map with a side no longer than a
window is not shifted. Hugging Face does the same. timm shifts first and pads afterwards, and shifts along each side by
itself, which gives other numbers, but only where a map needs padding or has one side no longer than a window.

Shapes: B batch, C image channels, H W height and width of the picture or of a map of tokens, P patch side, N tokens,
D width, h heads, d = D / h, M window side, nW windows per map, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import paddle
from paddle import ParamAttr, nn
from paddle.distributed.fleet.utils import recompute
from paddle.nn import functional, initializer

from paddlevit.layers import DropPath, Identity, Mlp, linear_drop_path, to_pair
from paddlevit.models.hierarchical import INIT_STD, HierarchicalTransformer, per_stage
from paddlevit.models.spec import ModelSpec
from paddlevit.models.windows import (
    Windows,
    add_bias,
    attend_in_windows,
    gather_neighbours,
    relative_position_index,
    select_bias,
    window_partition,
    window_reverse,
)
from paddlevit.preprocessing import Preprocessing

__all__ = [
    "MODELS",
    "BasicLayer",
    "PatchEmbed",
    "PatchMerging",
    "SwinTransformer",
    "SwinTransformerBlock",
    "WindowAttention",
    "window_partition",
    "window_reverse",
]

# Initialisation as in the paper's code (github.com/microsoft/Swin-Transformer).
#   every linear layer, bias table   normal, std 0.02; biases 0
#   patch projection                 uniform in +-1 / sqrt(fan_in), weight and bias
#   LayerNorm                        1 and 0
WEIGHT = ParamAttr(initializer=initializer.Normal(std=INIT_STD))
EPSILON = 1e-5


class PatchEmbed(nn.Layer):
    """Cuts the picture into patches and projects each to a token (section 3.1).

    Args:
        patch_size: Height and width of a patch, one number or two.
        in_channels: Channels C of the picture.
        embed_dim: Width D of a token.
        patch_norm: Whether the tokens are normalised.
    """

    def __init__(
        self, patch_size: int | Sequence[int] = 4, in_channels: int = 3, embed_dim: int = 96, patch_norm: bool = True
    ) -> None:
        super().__init__()
        self.patch_size, self.in_channels = to_pair(patch_size, "patch_size"), in_channels
        bound = (in_channels * self.patch_size[0] * self.patch_size[1]) ** -0.5
        uniform = ParamAttr(initializer=initializer.Uniform(-bound, bound))
        self.proj = nn.Conv2D(
            in_channels, embed_dim, self.patch_size, self.patch_size, weight_attr=uniform, bias_attr=uniform
        )
        self.norm = nn.LayerNorm(embed_dim, epsilon=EPSILON) if patch_norm else Identity()

    def map_size(self, image_size: int | Sequence[int]) -> tuple[int, int]:
        """Height and width of the map of tokens of a picture."""
        height, width = (-(-size // patch) for size, patch in zip(to_pair(image_size, "image_size"), self.patch_size))
        return height, width

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, int, int]:
        """[B, C, H, W] -> [B, N, D], and height and width of the map of tokens."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"The input has shape {list(x.shape)}; this model was built for [batch, {self.in_channels}, height,"
                " width]. Build it with another in_channels, or convert the picture."
            )
        if not all(isinstance(size, int) and size > 0 for size in x.shape[2:]):
            raise ValueError(
                "The input's height and width are open; export needs fixed ones, for example"
                f" InputSpec([None, {self.in_channels}, 224, 224])."
            )
        bottom, right = (-size % patch for size, patch in zip(x.shape[2:], self.patch_size))
        if bottom or right:
            x = functional.pad(x, [0, right, 0, bottom])  # [B, C, H + bottom, W + right]
        x = self.proj(x)  # [B, D, H / P, W / P]
        height, width = x.shape[2:]
        x = x.flatten(2).transpose([0, 2, 1])  # [B, N, D]
        return self.norm(x), height, width


class WindowAttention(nn.Layer):
    """Multi-head self-attention inside a window, with a learned bias for each relative position (equation 4).

    Args:
        embed_dim: Width D.
        window_size: Window side M.
        num_heads: Heads h; must divide D.
        qkv_bias: Whether the joint projection to queries, keys and values has a bias.
        dropout: Probability after the output projection.
        attention_dropout: Probability after the softmax.

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
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}.")
        self.window_size, self.num_heads = window_size, num_heads
        self.head_dim = embed_dim // num_heads
        self.scale = self.head_dim**-0.5
        self.relative_position_bias_table = self.create_parameter([(2 * window_size - 1) ** 2, num_heads], attr=WEIGHT)
        index = paddle.to_tensor(relative_position_index(window_size))
        self.register_buffer("relative_position_index", index, persistable=False)
        self.qkv = nn.Linear(embed_dim, embed_dim * 3, weight_attr=WEIGHT, bias_attr=None if qkv_bias else False)
        self.attn_drop = nn.Dropout(attention_dropout)
        self.proj = nn.Linear(embed_dim, embed_dim, weight_attr=WEIGHT)
        self.proj_drop = nn.Dropout(dropout)
        self.softmax = nn.Softmax(axis=-1)

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor | None = None) -> paddle.Tensor:
        """[B * nW, N, D] and a mask [nW, N, N] -> [B * nW, N, D]; here N is M * M."""
        tokens, dim = x.shape[1:]
        qkv = self.qkv(x).reshape([-1, tokens, 3, self.num_heads, self.head_dim])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)  # each [B * nW, h, N, d]
        attn = paddle.matmul(q * self.scale, k, transpose_y=True)  # [B * nW, h, N, N]
        attn = add_bias(attn, select_bias(self, self.relative_position_bias_table), mask)
        attn = self.attn_drop(self.softmax(attn))
        x = paddle.matmul(attn, v).transpose([0, 2, 1, 3]).reshape([-1, tokens, dim])  # [B * nW, N, D]
        return self.proj_drop(self.proj(x))

    def multiply_adds(self, x: paddle.Tensor) -> int:
        """Multiply-adds of the two products that no sub-layer shows: scores, and weighted values."""
        batch, tokens, dim = x.shape
        return 2 * batch * tokens * tokens * dim

    def extra_repr(self) -> str:
        return f"window_size={self.window_size}, num_heads={self.num_heads}, scale={self.scale:.4f}"


class SwinTransformerBlock(nn.Layer):
    """Attention in windows and an MLP, each normalised before and with a residual shortcut (equation 3).

    Args:
        embed_dim: Width D.
        num_heads: Attention heads.
        window_size: Window side M.
        shift_size: 0, or the tokens by which the windows are shifted.
        mlp_ratio: Width of the MLP's hidden layer over D.
        qkv_bias: See `WindowAttention`.
        dropout: After the attention's projection and both layers of the MLP.
        attention_dropout: See `WindowAttention`.
        drop_path: Probability of skipping each of the two branches for a sample.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window_size: int = 7,
        shift_size: int = 0,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.windows = Windows(window_size, shift_size)
        self.norm1 = nn.LayerNorm(embed_dim, epsilon=EPSILON)
        self.attn = WindowAttention(embed_dim, window_size, num_heads, qkv_bias, dropout, attention_dropout)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(embed_dim, epsilon=EPSILON)
        self.mlp = Mlp(embed_dim, mlp_ratio, dropout, weight_attr=WEIGHT)

    def forward(self, x: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.drop_path(attend_in_windows(self.attn, self.windows, self.norm1(x), height, width))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Layer):
    """Halves height and width of the map and doubles the width of its tokens (section 3.1).

    Args:
        embed_dim: Width D of the incoming tokens.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * embed_dim, 2 * embed_dim, weight_attr=WEIGHT, bias_attr=False)
        self.norm = nn.LayerNorm(4 * embed_dim, epsilon=EPSILON)

    def forward(self, x: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
        """[B, N, D] -> [B, N / 4, 2D]."""
        return self.reduction(self.norm(gather_neighbours(x, height, width)))


class BasicLayer(nn.Layer):
    """One stage: blocks of which every second shifts its windows, then a merging.

    Args:
        embed_dim: Width D.
        depth: Number of blocks.
        num_heads: Attention heads.
        window_size: Window side M.
        drop_path: Probability of the blocks, one number or one for each.
        block: Builds a block.
        downsample: Builds the merging; None is none.
        use_checkpoint: Recompute each block in backward instead of keeping its activations.
        **block_options: Passed to every block.
    """

    def __init__(
        self,
        embed_dim: int,
        depth: int,
        num_heads: int,
        window_size: int,
        drop_path: float | Sequence[float] = 0.0,
        block: Callable[..., nn.Layer] = SwinTransformerBlock,
        downsample: Callable[[int], nn.Layer] | None = None,
        use_checkpoint: bool = False,
        **block_options,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        shifts = [i % 2 * (window_size // 2) for i in range(depth)]
        probabilities = drop_path if isinstance(drop_path, Sequence) else [drop_path] * depth
        self.blocks = nn.LayerList(
            block(embed_dim, num_heads, window_size, shift, drop_path=probability, **block_options)
            for shift, probability in zip(shifts, probabilities)
        )
        self.downsample = None if downsample is None else downsample(embed_dim)

    def run_blocks(self, x: paddle.Tensor, height: int, width: int) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D], the stage without its merging."""
        for block in self.blocks:
            run = partial(recompute, block) if self.use_checkpoint and self.training else block
            x = run(x, height, width)
        return x

    def forward(self, x: paddle.Tensor, height: int, width: int) -> tuple[paddle.Tensor, int, int]:
        """[B, N, D] -> [B, N / 4, 2D], and height and width of the new map; without a merging all stay."""
        x = self.run_blocks(x, height, width)
        if self.downsample is None:
            return x, height, width
        return self.downsample(x, height, width), (height + 1) // 2, (width + 1) // 2


def build_layers(
    blocks: Sequence[Callable[..., nn.Layer]],
    downsample: Callable[[int], nn.Layer],
    map_size: tuple[int, int],
    embed_dim: int,
    depths: Sequence[int],
    num_heads: int | Sequence[int],
    window_size: int | Sequence[int],
    drop_path: float | Sequence[float],
    use_checkpoint: bool,
    **block_options,
) -> list[BasicLayer]:
    """The stages of a network.

    Args:
        blocks: What builds a block, for each stage.
        downsample: What builds a merging.
        map_size: Height and width of the first stage's map, for the pictures expected.
        **block_options: Passed to every block. The others are explained at `SwinTransformer`.

    Returns:
        One BasicLayer for each stage, all but the last with a merging.
    """
    heads, windows = per_stage("num_heads", num_heads, depths), per_stage("window_size", window_size, depths)
    if min(windows) < 1:
        raise ValueError(f"window_size is {window_size}; it must be 1 or more.")
    probabilities = linear_drop_path(drop_path, sum(depths))
    (height, width), layers = map_size, []
    for i, depth in enumerate(depths):
        first = sum(depths[:i])
        layer = BasicLayer(
            embed_dim * 2**i,
            depth,
            heads[i],
            min(windows[i], height, width),
            probabilities[first : first + depth],
            blocks[i],
            downsample if i < len(depths) - 1 else None,
            use_checkpoint,
            **block_options,
        )
        for block in layer.blocks:
            block.windows(height, width)  # kept from now on, so that an export finds them
        layers.append(layer)
        height, width = (height + 1) // 2, (width + 1) // 2
    return layers


class SwinTransformer(HierarchicalTransformer):
    """The Swin Transformer; the defaults are Swin-T of the paper's section 3.3.

    Args:
        image_size: H, W of the pictures, one number or two. It only fixes the windows: in a stage whose map is smaller
            than a window, the window is as large as the map. Other sizes are accepted later, with the same windows.
        patch_size: Height and width of a patch.
        in_channels: Channels C of the pictures.
        num_classes: K; 1 for regression, 0 for the features themselves.
        embed_dim: Width D of the first stage; each stage doubles it.
        depths: Number of blocks of each stage.
        num_heads: Attention heads of each stage; must divide its width.
        window_size: Window side M, one number or one per stage.
        mlp_ratio: Width of the MLP's hidden layer over D.
        qkv_bias: Whether queries, keys and values have a bias.
        dropout: On the embedded tokens, after attention and in the MLP.
        attention_dropout: After the softmax.
        drop_path: Stochastic depth of the last block, rising linearly from 0 over all blocks, or one value per block.
        patch_norm: Whether the embedded tokens are normalised.
        use_checkpoint: Trade time for memory in training: recompute each block in backward.

    Raises:
        ValueError: Impossible sizes, with the numbers.

    Example:
        >>> model = SwinTransformer(image_size=64, embed_dim=24, depths=[2, 2], num_heads=[2, 4], num_classes=10)
        >>> model(paddle.zeros([2, 3, 64, 64])).shape
        [2, 10]
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 4,
        in_channels: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: int | Sequence[int] = (3, 6, 12, 24),
        window_size: int | Sequence[int] = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float | Sequence[float] = 0.0,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        patch_embed = PatchEmbed(patch_size, in_channels, embed_dim, patch_norm)
        layers = build_layers(
            [SwinTransformerBlock] * len(depths),
            PatchMerging,
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
        return {name for name, _ in self.named_parameters() if name.endswith("relative_position_bias_table")}


# Sizes: section 3.3 of the paper; S3 is Searching the Search Space of Vision Transformer (Chen et al. 2021).
SIZES = {
    "tiny": dict(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    "small": dict(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    "base": dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    "large": dict(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
}
_S3_SIZES = {
    "tiny": dict(SIZES["tiny"], window_size=(7, 7, 14, 7)),
    "small": dict(SIZES["small"], window_size=(14, 14, 14, 7)),
    "base": dict(SIZES["small"], window_size=(7, 7, 14, 7), depths=(2, 2, 30, 2)),
}


def preprocessing(image_size: int) -> Preprocessing:
    """How the published weights were evaluated: pictures of 384 whole, smaller ones by their centre."""
    return Preprocessing((image_size, image_size), crop_pct=1.0 if image_size == 384 else 0.9)


MODELS = {
    f"swin_{size}_patch4_window{window_size}_{image_size}": ModelSpec(
        SwinTransformer, dict(SIZES[size], window_size=window_size), preprocessing(image_size)
    )
    for size, window_size, image_size in [
        ("tiny", 7, 224),
        ("small", 7, 224),
        ("base", 7, 224),
        ("base", 12, 384),
        ("large", 7, 224),
        ("large", 12, 384),
    ]
}
MODELS.update(
    {f"swin_s3_{size}_224": ModelSpec(SwinTransformer, sizes, preprocessing(224)) for size, sizes in _S3_SIZES.items()}
)
