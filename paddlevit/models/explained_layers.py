"""The pieces that the explained Vision Transformers are made of, under the article's names: see `explained`.

Shapes: B batch, C image channels, H W image height and width, P patch side, N tokens, D width, h heads, d = D / h.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import ParamAttr, nn
from paddle.nn import initializer

from paddlevit.layers import sinusoid_table
from paddlevit.models.plain import check_picture, patch_grid

# Initialisation: linear weights and the class token normal with std 0.02, biases 0.
INIT_STD = 0.02
WEIGHT = ParamAttr(initializer=initializer.Normal(std=INIT_STD))


class Patch_Tokenization(nn.Layer):
    """Image tokenization: cuts the picture into patches with Unfold and projects each to a token.

    Args:
        img_size: Channels C, height H and width W of the picture.
        patch_size: Side P of a square patch; must divide H and W.
        token_len: Length D of a projected token.

    Raises:
        ValueError: P does not divide H or W.
    """

    def __init__(self, img_size: Sequence[int] = (1, 60, 100), patch_size: int = 20, token_len: int = 768) -> None:
        super().__init__()
        self.in_channels, height, width = img_size
        self.image_size = (height, width)
        self.grid_size = patch_grid(self.image_size, (patch_size, patch_size))
        self.num_tokens = self.grid_size[0] * self.grid_size[1]
        self.split = nn.Unfold(patch_size, strides=patch_size)
        self.project = nn.Linear(self.in_channels * patch_size**2, token_len, weight_attr=WEIGHT)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, N, D]."""
        check_picture(x, self.in_channels, self.image_size)
        x = self.split(x).transpose([0, 2, 1])  # [B, N, C * P * P], each patch row by row
        return self.project(x)  # [B, N, D]


def get_sinusoid_encoding(num_tokens: int, token_len: int) -> paddle.Tensor:
    """Fixed sine and cosine encoding of the positions of N tokens of length D, [1, N, D]."""
    return paddle.to_tensor(sinusoid_table(num_tokens, token_len))


class Attention(nn.Layer):
    """Multi-head self-attention that may change the token's length and adds the values to its result.

    Args:
        dim: Length of an incoming token.
        chan: Length of an outgoing token.
        num_heads: Heads h; must divide `chan`.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: Factor on the scores; None is (chan / h) ** -0.5.

    Raises:
        ValueError: `chan` is not a multiple of h.
    """

    def __init__(
        self, dim: int, chan: int, num_heads: int = 1, qkv_bias: bool = False, qk_scale: float | None = None
    ) -> None:
        super().__init__()
        if chan % num_heads:
            raise ValueError(f"chan {chan} is not a multiple of num_heads {num_heads}.")
        self.chan, self.num_heads = chan, num_heads
        self.head_dim = chan // num_heads
        self.scale = self.head_dim**-0.5 if qk_scale is None else qk_scale
        self.qkv = nn.Linear(dim, chan * 3, weight_attr=WEIGHT, bias_attr=None if qkv_bias else False)
        self.proj = nn.Linear(chan, chan, weight_attr=WEIGHT)
        self.softmax = nn.Softmax(axis=-1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, dim] -> [B, N, chan]."""
        qkv = self.qkv(x).reshape([0, 0, 3 * self.num_heads, self.head_dim])  # [B, N, 3 h, d]
        q, k, v = qkv.transpose([0, 2, 1, 3]).chunk(3, axis=1)  # each [B, h, N, d]
        attn = self.softmax(paddle.matmul(q * self.scale, k, transpose_y=True))  # [B, h, N, N]
        x = paddle.matmul(attn, v)  # [B, h, N, d]
        x, v = (heads.transpose([0, 2, 1, 3]).reshape([0, 0, self.chan]) for heads in (x, v))  # each [B, N, chan]
        # The input may have another length than the result, so the shortcut starts at the values.
        return v + self.proj(x)

    def multiply_adds(self, x: paddle.Tensor) -> int:
        """Multiply-adds of the two products that no sub-layer shows: scores, and weighted values."""
        batch, tokens, _ = x.shape
        return 2 * batch * tokens * tokens * self.chan

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, scale={self.scale:.4f}"


class NeuralNet(nn.Layer):
    """Two fully connected layers with an activation between them.

    Args:
        in_chan: Length of an incoming token.
        hidden_chan: Units of the hidden layer; None is `in_chan`.
        out_chan: Length of an outgoing token; None is `in_chan`.
        act_layer: Class of the activation.
    """

    def __init__(
        self, in_chan: int, hidden_chan: int | None = None, out_chan: int | None = None, act_layer: type = nn.GELU
    ) -> None:
        super().__init__()
        hidden_chan = in_chan if hidden_chan is None else hidden_chan
        out_chan = in_chan if out_chan is None else out_chan
        self.fc1 = nn.Linear(in_chan, hidden_chan, weight_attr=WEIGHT)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_chan, out_chan, weight_attr=WEIGHT)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, in_chan] -> [B, N, out_chan]."""
        return self.fc2(self.act(self.fc1(x)))


class Encoding(nn.Layer):
    """Encoding block: attention and a neural net, each after a normalisation and with a shortcut.

    Args:
        dim: Length D of a token.
        num_heads: Attention heads.
        hidden_chan_mul: The neural net's hidden layer has int(D * hidden_chan_mul) units.
        qkv_bias, qk_scale: See `Attention`.
        act_layer: Class of the neural net's activation.
        norm_layer: Class of the normalisation, called with D.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 1,
        hidden_chan_mul: float = 4.0,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        act_layer: type[nn.Layer] = nn.GELU,
        norm_layer: type[nn.Layer] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, dim, num_heads, qkv_bias, qk_scale)
        self.norm2 = norm_layer(dim)
        self.neuralnet = NeuralNet(dim, int(dim * hidden_chan_mul), dim, act_layer)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.attn(self.norm1(x))
        return x + self.neuralnet(self.norm2(x))


class TokenTransformer(nn.Layer):
    """Attention that shortens the tokens, then a neural net with a shortcut.

    Args:
        dim: Length of an incoming token.
        chan: Length of an outgoing token.
        hidden_chan_mul: The neural net's hidden layer has int(chan * hidden_chan_mul) units.
        **attention_options: Further keywords of `Attention`.
    """

    def __init__(self, dim: int, chan: int, hidden_chan_mul: float = 1.0, **attention_options) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, chan, **attention_options)
        self.norm2 = nn.LayerNorm(chan)
        self.neuralnet = NeuralNet(chan, int(chan * hidden_chan_mul), chan)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, dim] -> [B, N, chan]."""
        x = self.attn(self.norm1(x))  # [B, N, chan]
        return x + self.neuralnet(self.norm2(x))


class Tokens2Token(nn.Layer):
    """Tokens-to-token module: three soft splits, with a token transformer after the first and the second.

    A soft split unfolds the picture into squares of side k that overlap by about half: stride (k + 1) // 2, padding
    (k + 1) // 4.

    Args:
        img_size: Channels C, height H and width W of the picture.
        softsplit_kernels: Sides of the three soft splits' squares, in order.
        token_chan: Length of a token between the splits.
        token_len: Length D of a finished token.
        **options: Passed to both `TokenTransformer`.

    Raises:
        ValueError: Not three kernels, or a picture too small for them.
    """

    def __init__(
        self, img_size: Sequence[int], softsplit_kernels: Sequence[int], token_chan: int, token_len: int, **options
    ) -> None:
        super().__init__()
        if len(softsplit_kernels) != 3 or min(softsplit_kernels) < 1:
            raise ValueError(f"softsplit_kernels is {softsplit_kernels}; it must be three positive whole numbers.")
        self.in_channels, rows, columns = img_size
        self.image_size = (rows, columns)
        self.grid_sizes, splits = [], []
        for kernel in softsplit_kernels:
            stride, padding = (kernel + 1) // 2, (kernel + 1) // 4
            rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in (rows, columns))
            self.grid_sizes.append((rows, columns))
            splits.append(nn.Unfold(kernel, strides=stride, paddings=padding))
        if min(rows, columns) < 1:
            raise ValueError(f"image_size {self.image_size} is too small for softsplit_kernels {softsplit_kernels}.")
        self.grid_size, self.num_tokens = (rows, columns), rows * columns
        self.soft_split0, self.soft_split1, self.soft_split2 = splits
        areas = [kernel**2 for kernel in softsplit_kernels]
        self.transformer1 = TokenTransformer(self.in_channels * areas[0], token_chan, **options)
        self.transformer2 = TokenTransformer(token_chan * areas[1], token_chan, **options)
        self.project = nn.Linear(token_chan * areas[2], token_len, weight_attr=WEIGHT)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, N, D]."""
        check_picture(x, self.in_channels, self.image_size)
        x = self.transformer1(self.soft_split0(x).transpose([0, 2, 1]))  # [B, rows * columns, chan]
        x = x.transpose([0, 2, 1]).reshape([0, 0, *self.grid_sizes[0]])  # [B, chan, rows, columns]
        x = self.transformer2(self.soft_split1(x).transpose([0, 2, 1]))  # [B, rows * columns, chan]
        x = x.transpose([0, 2, 1]).reshape([0, 0, *self.grid_sizes[1]])  # [B, chan, rows, columns]
        return self.project(self.soft_split2(x).transpose([0, 2, 1]))  # [B, N, D]
