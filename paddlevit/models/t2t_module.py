"""The tokens-to-token module of T2T-ViT (arXiv 2101.11986, section 3.1): soft splits with attention between them.

Shapes: B batch, C image channels, H W image height and width, N tokens, D width, t width inside the module, m random
features of the performer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import ParamAttr, nn
from paddle.nn import initializer

from paddlevit.errors import check_choice
from paddlevit.layers import Mlp, to_pair
from paddlevit.models.plain import check_picture

TOKEN_TYPES = ("performer", "transformer")

# Kernel, stride and padding of the three soft splits (section 3.1 of the paper): 224 -> 56 -> 28 -> 14 tokens a side.
SOFT_SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))

# Initialisation as in the authors' code: linear weights and the class token normal with std 0.02, biases 0. Frozen: the
# positions (a table of sines) and the performer's directions (orthogonal, of length sqrt(m)). Both are parameters, not
# buffers, because the checkpoints hold them and the published sizes count them.
INIT_STD = 0.02
WEIGHT = ParamAttr(initializer=initializer.Normal(std=INIT_STD))


def linear(in_dim: int, out_dim: int, bias: bool = True) -> nn.Linear:
    """A linear layer, initialised as in the authors' code."""
    return nn.Linear(in_dim, out_dim, weight_attr=WEIGHT, bias_attr=None if bias else False)


def frozen(values: np.ndarray) -> ParamAttr:
    """Attributes of a parameter that holds `values` and is not trained."""
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
        self.kqv = linear(in_dim, 3 * token_dim)  # in this order: keys, queries, values
        self.proj = linear(token_dim, token_dim)
        self.dp = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(token_dim, epsilon=1e-5)
        self.mlp = nn.Sequential(
            linear(token_dim, token_dim), nn.GELU(), linear(token_dim, token_dim), nn.Dropout(dropout)
        )
        columns, _ = np.linalg.qr(paddle.randn([token_dim, self.num_features]).numpy())  # [t, m]
        directions = self.num_features**0.5 * columns.T  # [m, t]
        self.w = self.create_parameter(list(directions.shape), attr=frozen(directions))

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
        self.qkv = linear(in_dim, 3 * token_dim, bias=False)
        self.proj = linear(token_dim, token_dim)
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
        self.mlp = Mlp(token_dim, mlp_ratio=1.0, weight_attr=WEIGHT)

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
        self.project = linear(token_dim * areas[2], embed_dim)

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
