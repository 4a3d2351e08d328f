"""T2T-ViT: Tokens-to-Token ViT (Yuan et al. 2021, arXiv 2101.11986).

In place of one cut into patches, the picture is split softly three times: every token is made of overlapping
neighbours, and between two splits a small attention layer mixes all tokens. A narrow, deep ViT follows. The numbers are
those of the authors' code (github.com/yitu-opensource/T2T-ViT), and so are the attribute names, which are its
checkpoints' keys.

Shapes: B batch, C image channels, H W image height and width, N tokens, D width, h heads, d = D / h, t width inside the
tokens-to-token module, m random features of the performer, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import ParamAttr, nn
from paddle.nn import initializer

from paddlevit.errors import check_choice
from paddlevit.layers import DropPath, Mlp, linear_drop_path, run_layer, set_classifier, sinusoid_table, to_pair
from paddlevit.models.plain import check_picture, layer_maps
from paddlevit.models.spec import ModelSpec
from paddlevit.preprocessing import Preprocessing

TOKEN_TYPES = ("performer", "transformer")

# Kernel, stride and padding of the three soft splits (section 3.1 of the paper): 224 -> 56 -> 28 -> 14 tokens a side.
SOFT_SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))

# Initialisation as in the authors' code: linear weights and the class token normal with std 0.02, biases 0. Frozen: the
# positions (a table of sines) and the performer's directions (orthogonal, of length sqrt(m)). Both are parameters, not
# buffers, because the checkpoints hold them and the published sizes count them.
_INIT_STD = 0.02
_WEIGHT = ParamAttr(initializer=initializer.Normal(std=_INIT_STD))


def _linear(in_dim: int, out_dim: int, bias: bool = True) -> nn.Linear:
    return nn.Linear(in_dim, out_dim, weight_attr=_WEIGHT, bias_attr=None if bias else False)


def _frozen(values: np.ndarray) -> ParamAttr:
    return ParamAttr(initializer=initializer.Assign(values), trainable=False)


class TokenPerformer(nn.Layer):
    """Attention in time linear in N, by positive random features (Rethinking Attention with Performers), then an MLP.

    exp(q . k) is the expectation of f(q) . f(k) over random directions w, with f(x) = exp(w . x - |x|^2 / 2). So the
    keys and values are summed once for all queries, and no N x N matrix is made.

    Args:
        in_dim: Width of the incoming tokens.
        token_dim: Width t of the outgoing tokens; t / 2 random features are used.
        dropout: Probability after the projection and after the MLP; the authors always train with 0.1.
    """

    def __init__(self, in_dim: int, token_dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.num_features = token_dim // 2
        self.norm1 = nn.LayerNorm(in_dim, epsilon=1e-5)
        self.kqv = _linear(in_dim, 3 * token_dim)  # in this order: keys, queries, values
        self.proj = _linear(token_dim, token_dim)
        self.dp = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(token_dim, epsilon=1e-5)
        self.mlp = nn.Sequential(
            _linear(token_dim, token_dim), nn.GELU(), _linear(token_dim, token_dim), nn.Dropout(dropout)
        )
        columns, _ = np.linalg.qr(paddle.randn([token_dim, self.num_features]).numpy())  # [t, m]
        directions = self.num_features**0.5 * columns.T  # [m, t]
        self.w = self.create_parameter(list(directions.shape), attr=_frozen(directions))

    def random_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, t] -> [B, N, m], all positive."""
        projected = paddle.matmul(x, self.w.astype(x.dtype), transpose_y=True)  # [B, N, m]
        half_square = (x * x).sum(axis=-1, keepdim=True) / 2  # [B, N, 1]
        return paddle.exp(projected - half_square) / self.num_features**0.5

    def attend(self, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        """Three times [B, N, t] -> [B, N, t]; unlike in softmax attention, the scores are not scaled."""
        q, k = self.random_features(q), self.random_features(k)  # [B, N, m]
        values = paddle.matmul(k, v, transpose_x=True)  # [B, m, t]
        divisor = paddle.matmul(q, k.sum(axis=1).unsqueeze(-1))  # [B, N, 1]
        return paddle.matmul(q, values) / (divisor + 1e-8)  # [B, N, t]

    def attend_in_float32(self, q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
        """`attend` in mixed precision: the exponentials, and their sums over all tokens, leave float16's range."""
        with paddle.amp.auto_cast(enable=False):
            out = self.attend(q.astype("float32"), k.astype("float32"), v.astype("float32"))  # [B, N, t]
        return out.astype(v.dtype)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, in_dim] -> [B, N, t]."""
        k, q, v = self.kqv(self.norm1(x)).chunk(3, axis=-1)  # each [B, N, t]
        half = v.dtype in (paddle.float16, paddle.bfloat16)
        out = self.attend_in_float32(q, k, v) if half else self.attend(q, k, v)
        # The width changes, so the shortcut starts at the values.
        x = v + self.dp(self.proj(out))
        return x + self.mlp(self.norm2(x))

    def multiply_adds(self, x: paddle.Tensor) -> int:
        """Multiply-adds of the products that no sub-layer shows: features of q and k, two sums, and the divisor."""
        batch, tokens, _ = x.shape
        token_dim = self.w.shape[1]
        return batch * tokens * self.num_features * (4 * token_dim + 1)


class TokenAttention(nn.Layer):
    """Softmax attention of one head that changes the width, so that its shortcut starts at the values.

    Args:
        in_dim: Width of the incoming tokens; the scores are scaled by in_dim ** -0.5.
        token_dim: Width t of queries, keys, values and outgoing tokens.
    """

    def __init__(self, in_dim: int, token_dim: int) -> None:
        super().__init__()
        self.scale = in_dim**-0.5
        self.qkv = _linear(in_dim, 3 * token_dim, bias=False)
        self.proj = _linear(token_dim, token_dim)
        self.softmax = nn.Softmax(axis=-1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, in_dim] -> [B, N, t]."""
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, axis=-1)  # each [B, 1, N, t]
        attn = self.softmax(paddle.matmul(q * self.scale, k, transpose_y=True))  # [B, 1, N, N]
        out = paddle.matmul(attn, v).squeeze(1)  # [B, N, t]
        return v.squeeze(1) + self.proj(out)

    def multiply_adds(self, x: paddle.Tensor) -> int:
        """Multiply-adds of the two products that no sub-layer shows: scores, and weighted values."""
        batch, tokens, _ = x.shape
        return 2 * batch * tokens * tokens * self.proj.weight.shape[0]

    def extra_repr(self) -> str:
        return f"scale={self.scale:.4f}"


class TokenTransformer(nn.Layer):
    """The exact counterpart of `TokenPerformer`: attention over all N x N pairs, then an MLP.

    Args:
        in_dim: Width of the incoming tokens.
        token_dim: Width t of the outgoing tokens.
    """

    def __init__(self, in_dim: int, token_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_dim, epsilon=1e-5)
        self.attn = TokenAttention(in_dim, token_dim)
        self.norm2 = nn.LayerNorm(token_dim, epsilon=1e-5)
        self.mlp = Mlp(token_dim, mlp_ratio=1.0, weight_attr=_WEIGHT)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, in_dim] -> [B, N, t]."""
        x = self.attn(self.norm1(x))  # [B, N, t]
        return x + self.mlp(self.norm2(x))


class T2TModule(nn.Layer):
    """The tokens-to-token module: three soft splits with attention between them (figure 2 of the paper).

    Args:
        image_size: H, W of the picture, one number or two.
        in_channels: Channels C of the picture.
        embed_dim: Width D of the finished tokens.
        token_type: `performer` or `transformer`, the attention between the splits.
        token_dim: Width t between the splits.

    Raises:
        ValueError: An unknown `token_type`, or a picture too small to split.
    """

    def __init__(
        self, image_size: int | Sequence[int], in_channels: int, embed_dim: int, token_type: str, token_dim: int
    ) -> None:
        super().__init__()
        check_choice("token_type", token_type, TOKEN_TYPES)
        size = self.image_size = to_pair(image_size, "image_size")
        if min(size) < 3:
            raise ValueError(f"image_size is {size}; the first soft split needs at least 3 x 3 pixels.")
        self.in_channels = in_channels
        self.grid_sizes: list[tuple[int, int]] = []
        for kernel, stride, padding in SOFT_SPLITS:
            rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in size)
            size = (rows, columns)
            self.grid_sizes.append(size)

        self.soft_split0, self.soft_split1, self.soft_split2 = (
            nn.Unfold(kernel, strides=stride, paddings=padding) for kernel, stride, padding in SOFT_SPLITS
        )
        areas = [kernel * kernel for kernel, _, _ in SOFT_SPLITS]
        attention = TokenPerformer if token_type == "performer" else TokenTransformer
        self.attention1 = attention(in_channels * areas[0], token_dim)
        self.attention2 = attention(token_dim * areas[1], token_dim)
        self.project = _linear(token_dim * areas[2], embed_dim)

    @staticmethod
    def as_map(x: paddle.Tensor, grid_size: tuple[int, int]) -> paddle.Tensor:
        """[B, N, D] -> [B, D, rows, columns], the tokens put back where they came from."""
        return x.transpose([0, 2, 1]).reshape([0, 0, *grid_size])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, N, D]."""
        check_picture(x, self.in_channels, self.image_size)
        x = self.soft_split0(x).transpose([0, 2, 1])  # [B, H / 4 * W / 4, 49 C]
        x = self.as_map(self.attention1(x), self.grid_sizes[0])  # [B, t, H / 4, W / 4]
        x = self.soft_split1(x).transpose([0, 2, 1])  # [B, H / 8 * W / 8, 9 t]
        x = self.as_map(self.attention2(x), self.grid_sizes[1])  # [B, t, H / 8, W / 8]
        x = self.soft_split2(x).transpose([0, 2, 1])  # [B, N, 9 t], N = H / 16 * W / 16
        return self.project(x)  # [B, N, D]


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
        self.qkv = _linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.attn_drop = nn.Dropout(attention_dropout)
        self.proj = _linear(embed_dim, embed_dim)
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
        self.mlp = Mlp(embed_dim, mlp_ratio, dropout, weight_attr=_WEIGHT)
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
        self.cls_token = self.create_parameter([1, 1, embed_dim], attr=_WEIGHT)
        table = sinusoid_table(1 + rows * columns, embed_dim)  # position 0 is the class token's
        self.pos_embed = self.create_parameter(list(table.shape), attr=_frozen(table))
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
        set_classifier(self, num_classes, "head", _INIT_STD)

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
