"""T2T-ViT: Tokens-to-Token ViT (Yuan et al. 2021, arXiv 2101.11986).

In place of one cut into patches, the picture is split softly three times: every token is made of overlapping
neighbours, and between two splits a small attention layer mixes all tokens (`t2t_module`). A narrow, deep ViT follows.
The numbers are those of the authors' code (github.com/yitu-opensource/T2T-ViT), and so are the attribute names, which
are its checkpoints' keys.

Shapes: B batch, C image channels, H W image height and width, N tokens, D width, h heads, d = D / h, t width inside the
tokens-to-token module, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import nn

from paddlevit.layers import DropPath, Mlp, linear_drop_path, run_layer, set_classifier, sinusoid_table
from paddlevit.models.plain import layer_maps
from paddlevit.models.spec import ModelSpec
from paddlevit.models.t2t_module import (
    INIT_STD,
    SOFT_SPLITS,
    WEIGHT,
    T2TModule,
    TokenAttention,
    TokenPerformer,
    TokenTransformer,
    frozen,
    linear,
)
from paddlevit.preprocessing import Preprocessing

__all__ = [
    "MODELS",
    "SOFT_SPLITS",
    "Attention",
    "Block",
    "T2TModule",
    "T2TViT",
    "TokenAttention",
    "TokenPerformer",
    "TokenTransformer",
]


class Attention(nn.Layer):
    """Multi-head self-attention of the ViT part, by default without bias in queries, keys and values.

    Args:
        embed_dim: Width D.
        num_heads: Heads h; must divide D.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: Factor on the scores; None is d ** -0.5.
        dropout: Probability after the output projection.
        attention_dropout: Probability after the softmax.

    Raises:
        ValueError: D is not a multiple of h.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}.")
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scale = self.head_dim**-0.5 if qk_scale is None else qk_scale
        self.qkv = linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attention_dropout)
        self.proj = linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(dropout)
        self.softmax = nn.Softmax(axis=-1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        qkv = self.qkv(x).reshape([0, 0, 3 * self.num_heads, self.head_dim])  # [B, N, 3 h, d]
        q, k, v = qkv.transpose([0, 2, 1, 3]).chunk(3, axis=1)  # each [B, h, N, d]
        attn = self.softmax(paddle.matmul(q * self.scale, k, transpose_y=True))  # [B, h, N, N]
        out = paddle.matmul(self.attn_drop(attn), v).transpose([0, 2, 1, 3])  # [B, N, h, d]
        out = out.reshape([0, 0, self.num_heads * self.head_dim])  # [B, N, D]
        return self.proj_drop(self.proj(out))

    def multiply_adds(self, x: paddle.Tensor) -> int:
        """Multiply-adds of the two products that no sub-layer shows: scores, and weighted values."""
        batch, tokens, dim = x.shape
        return 2 * batch * tokens * tokens * dim

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, scale={self.scale:.4f}"


class Block(nn.Layer):
    """Attention and MLP, each after a normalisation and with a residual shortcut.

    Args:
        embed_dim: Width D.
        num_heads: Attention heads.
        mlp_ratio: Width of the MLP's hidden layer over D.
        dropout: After the attention's projection and both layers of the MLP.
        drop_path: Probability of skipping each of the two branches for a sample.
        **attention_options: Further keywords of `Attention`.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, mlp_ratio: float, dropout: float, drop_path: float, **attention_options
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, epsilon=1e-5)
        self.attn = Attention(embed_dim, num_heads, dropout=dropout, **attention_options)
        self.norm2 = nn.LayerNorm(embed_dim, epsilon=1e-5)
        self.mlp = Mlp(embed_dim, mlp_ratio, dropout, weight_attr=WEIGHT)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class T2TViT(nn.Layer):
    """Tokens-to-Token ViT; the defaults are T2T-ViT-14 of the paper's table 2.

    Args:
        image_size: H, W of the pictures, one number or two.
        in_channels: Channels C of the pictures.
        num_classes: K; 0 for the features themselves.
        embed_dim: Width D.
        depth: Number of blocks after the tokens-to-token module.
        num_heads: Attention heads of the blocks; must divide D.
        mlp_ratio: Width of the MLP's hidden layer over D.
        qkv_bias: Whether queries, keys and values of the blocks have a bias.
        dropout: On the embedded tokens, after attention and in the MLP of the blocks.
        attention_dropout: After the softmax of the blocks.
        drop_path: Stochastic depth: probability of the last block, rising linearly from 0, or one per block.
        qk_scale: Factor on the blocks' attention scores; None is (D / h) ** -0.5, with which the published accuracy was
            reached.
        token_type: Attention between the soft splits: `performer` (linear in the number of tokens) or `transformer`.
        token_dim: Width t between the soft splits.
        use_checkpoint: Trade time for memory in training: recompute each block in backward.

    Raises:
        ValueError: Impossible sizes or an unknown `token_type`, with the numbers.

    Example:
        >>> model = T2TViT(image_size=32, embed_dim=64, depth=2, num_heads=4, token_dim=16, num_classes=10)
        >>> model(paddle.zeros([2, 3, 32, 32])).shape
        [2, 10]
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 14,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        qkv_bias: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float | Sequence[float] = 0.0,
        qk_scale: float | None = None,
        token_type: str = "performer",
        token_dim: int = 64,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.num_features = embed_dim
        self.use_checkpoint = use_checkpoint
        self.tokens_to_token = T2TModule(image_size, in_channels, embed_dim, token_type, token_dim)
        rows, columns = self.grid_size = self.tokens_to_token.grid_sizes[-1]
        self.cls_token = self.create_parameter([1, 1, embed_dim], attr=WEIGHT)
        table = sinusoid_table(1 + rows * columns, embed_dim)  # position 0 is the class token's
        self.pos_embed = self.create_parameter(list(table.shape), attr=frozen(table))
        self.pos_drop = nn.Dropout(dropout)
        self.blocks = nn.LayerList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                dropout,
                probability,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                attention_dropout=attention_dropout,
            )
            for probability in linear_drop_path(drop_path, depth)
        )
        self.norm = nn.LayerNorm(embed_dim, epsilon=1e-5)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """A new classifier of `num_classes` outputs; 0 lets the features through."""
        set_classifier(self, num_classes, "head", INIT_STD)

    def embed(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, 1 + N, D], the tokens before the first block."""
        x = self.tokens_to_token(x)  # [B, N, D]
        cls_token = self.cls_token.expand([x.shape[0], -1, -1])
        x = paddle.concat([cls_token, x], axis=1)  # [B, 1 + N, D]
        return self.pos_drop(x + self.pos_embed)

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, 1 + N, D], the normalised tokens, class token first."""
        x = self.embed(x)
        for block in self.blocks:
            x = run_layer(block, x, self.use_checkpoint)
        return self.norm(x)

    def forward_head(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, 1 + N, D] -> [B, K]."""
        return self.head(x[:, 0])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, K], the logits."""
        return self.forward_head(self.forward_features(x))

    def feature_maps(self, x: paddle.Tensor, layers: Sequence[int] | None = None) -> list[paddle.Tensor]:
        """What the image tokens are after some blocks, as maps.

        Args:
            x: [B, C, H, W].
            layers: Indices of blocks, negative ones from the end; None is all of them.

        Returns:
            One [B, D, H / 16, W / 16] per index, in the order asked for, before the last normalisation.

        Raises:
            ValueError: An index outside the blocks.
        """
        return layer_maps(self.blocks, self.embed(x), layers, 1, self.grid_size)

    def layer_index(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 the embedding, 1.. the blocks, then norm and head."""
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return len(self.blocks) + 1 if name.startswith(("norm.", "head.")) else 0

    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that weight decay leaves alone; frozen ones are never updated."""
        return {"cls_token"}


# Sizes: table 2 of the paper.
_SIZES = {
    "7": dict(embed_dim=256, depth=7, num_heads=4, mlp_ratio=2.0),
    "10": dict(embed_dim=256, depth=10, num_heads=4, mlp_ratio=2.0),
    "12": dict(embed_dim=256, depth=12, num_heads=4, mlp_ratio=2.0),
    "14": dict(embed_dim=384, depth=14, num_heads=6, mlp_ratio=3.0),
    "19": dict(embed_dim=448, depth=19, num_heads=7, mlp_ratio=3.0),
    "24": dict(embed_dim=512, depth=24, num_heads=8, mlp_ratio=3.0),
}
_DATA = Preprocessing(crop_pct=0.9)

MODELS = {f"t2t_vit_{size}": ModelSpec(T2TViT, options, _DATA) for size, options in _SIZES.items()}
for _size in ("14", "19", "24"):
    MODELS[f"t2t_vit_t_{_size}"] = ModelSpec(T2TViT, {"token_type": "transformer", **_SIZES[_size]}, _DATA)
MODELS["t2t_vit_14_384"] = ModelSpec(T2TViT, _SIZES["14"], Preprocessing((384, 384), crop_pct=1.0))
