"""Self-attention, multi-head self-attention and position encoding, as an introduction derives them.

A layer in place of an RNN: a sequence of vectors goes in, a sequence of vectors comes out, every output has seen the
whole input, and all of them are computed at once, as products of matrices. These classes are written to be read; the
models have attention of their own, which computes all heads in one product. The classic paper is Attention Is All You
Need (Vaswani et al. 2017).

Shapes: B batch, N tokens, D width, h heads, d width of a head.
"""

from __future__ import annotations

import paddle
from paddle import nn

from paddlevit.layers import sinusoid_table


class SelfAttention(nn.Layer):
    """One attention head: b = softmax(q k^T / sqrt(d)) v.

    Every token a is multiplied by three learned matrices. Its query q asks, its key k is asked, its value v is what it
    has to tell. The dot product of a query and a key says how much the two tokens have to do with each other; it grows
    with the width d, which the square root makes up for. The softmax turns a token's N scores into shares of 1, and its
    output is the sum of all values by these shares.

    Args:
        embed_dim: Width D of the tokens.
        head_dim: Width d of queries, keys, values and outputs; None is D.

    Example:
        >>> head = SelfAttention(embed_dim=512)
        >>> head(paddle.rand([1, 4, 512])).shape  # a sentence of four words
        [1, 4, 512]
    """

    def __init__(self, embed_dim: int, head_dim: int | None = None) -> None:
        super().__init__()
        self.head_dim = embed_dim if head_dim is None else head_dim
        self.query = nn.Linear(embed_dim, self.head_dim, bias_attr=False)
        self.key = nn.Linear(embed_dim, self.head_dim, bias_attr=False)
        self.value = nn.Linear(embed_dim, self.head_dim, bias_attr=False)
        self.softmax = nn.Softmax(axis=-1)

    def forward(self, a: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, d]."""
        q, k, v = self.query(a), self.key(a), self.value(a)  # each [B, N, d]
        scores = paddle.matmul(q, k, transpose_y=True) / self.head_dim**0.5  # [B, N, N], row i: what token i asks
        shares = self.softmax(scores)  # [B, N, N], every row sums to 1
        return paddle.matmul(shares, v)  # [B, N, d]

    def multiply_adds(self, a: paddle.Tensor) -> int:
        """Multiply-adds of the two products that no sub-layer shows: scores, and weighted values."""
        batch, tokens, _ = a.shape
        return 2 * batch * tokens * tokens * self.head_dim

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}"


class MultiHeadSelfAttention(nn.Layer):
    """Several heads with matrices of their own, side by side, and one more matrix that mixes what they found.

    Each head sees the tokens in another, smaller space and can look for another relation.

    Args:
        embed_dim: Width D of the tokens, in and out.
        num_heads: Heads h of width d = D / h; must divide D.

    Raises:
        ValueError: D is not a multiple of h.

    Example:
        >>> attention = MultiHeadSelfAttention(embed_dim=512, num_heads=8)
        >>> attention(paddle.rand([1, 4, 512])).shape
        [1, 4, 512]
    """

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}.")
        self.heads = nn.LayerList(SelfAttention(embed_dim, embed_dim // num_heads) for _ in range(num_heads))
        self.output = nn.Linear(embed_dim, embed_dim, bias_attr=False)

    def forward(self, a: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        b = paddle.concat([head(a) for head in self.heads], axis=-1)  # [B, N, h * d]
        return self.output(b)  # [B, N, D]


class PositionEncoding(nn.Layer):
    """Adds to every token a vector that tells its place; without it attention treats a sentence as a bag of words.

    The places are written with clocks of different speeds: PE(pos, 2i) = sin(pos / 10000^(2i / D)) and
    PE(pos, 2i + 1) = cos(pos / 10000^(2i / D)). Sine and cosine of a sum are linear in sine and cosine of one summand,
    so that going k places further is one fixed rotation of each pair: attention can learn distances.

    Args:
        num_tokens: Number of tokens N, or more.
        embed_dim: Width D of the tokens.

    Example:
        >>> encode = PositionEncoding(num_tokens=4, embed_dim=512)
        >>> encode(paddle.zeros([1, 4, 512]))[0, 0, :4].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """

    def __init__(self, num_tokens: int, embed_dim: int) -> None:
        super().__init__()
        table = paddle.to_tensor(sinusoid_table(num_tokens, embed_dim))
        self.register_buffer("table", table, persistable=False)

    def forward(self, a: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D].

        Raises:
            ValueError: More tokens than the table has places.
        """
        num_tokens = a.shape[1]
        if num_tokens > self.table.shape[1]:
            raise ValueError(f"There are {num_tokens} tokens, and places for {self.table.shape[1]}; raise num_tokens.")
        return a + self.table[:, :num_tokens]
