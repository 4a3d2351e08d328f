"""The layers that an export is made of where the network's own do more than its answers need.

Shapes: B batch, N tokens, D width, h heads, d = D / h.
"""

from __future__ import annotations

import paddle
from paddle import nn

from paddlevit.inference.folding import fold_query_scale, split_queries


class LeanAttention(nn.Layer):
    """Multi-head self-attention whose queries come out of their projection scaled.

    Args:
        qkv: Joint projection to queries, keys and values, without the scale.
        proj: Output projection.
        num_heads: Heads h.
        scale: Factor on the scores.
    """

    def __init__(self, qkv: nn.Linear, proj: nn.Linear, num_heads: int, scale: float) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, proj.weight.shape[0] // num_heads
        self.qkv, self.proj = fold_query_scale(qkv, scale), proj
        self.softmax = nn.Softmax(axis=-1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        q, k, v = (_by_head(part, self.num_heads, self.head_dim) for part in self.qkv(x).chunk(3, axis=-1))
        attn = self.softmax(paddle.matmul(q, k, transpose_y=True))  # [B, h, N, N]
        return self.proj(_side_by_side(paddle.matmul(attn, v)))


class FirstTokensBlock(nn.Layer):
    """The last pre-norm block of a network that classifies its first tokens: others are looked at, but not updated.

    Of the 12 D^2 multiply-adds per token only the 2 D^2 for keys and values remain.

    Args:
        attn_norm: Before the attention.
        attn: Its attention.
        mlp_norm: Before the MLP.
        mlp: Its MLP.
        rows: How many first tokens come out.
    """

    def __init__(self, attn_norm: nn.Layer, attn: LeanAttention, mlp_norm: nn.Layer, mlp: nn.Layer, rows: int) -> None:
        super().__init__()
        self.attn_norm, self.mlp_norm, self.mlp, self.rows = attn_norm, mlp_norm, mlp, rows
        self.num_heads, self.head_dim = attn.num_heads, attn.head_dim
        self.queries, self.keys_values = split_queries(attn.qkv)
        self.proj, self.softmax = attn.proj, attn.softmax

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, rows, D]."""
        tokens = self.attn_norm(x)
        x = x[:, : self.rows]  # [B, rows, D]
        parts = [self.queries(tokens[:, : self.rows]), *self.keys_values(tokens).chunk(2, axis=-1)]
        q, k, v = (_by_head(part, self.num_heads, self.head_dim) for part in parts)
        attn = self.softmax(paddle.matmul(q, k, transpose_y=True))  # [B, h, rows, N]
        x = x + self.proj(_side_by_side(paddle.matmul(attn, v)))
        return x + self.mlp(self.mlp_norm(x))


def _by_head(x: paddle.Tensor, num_heads: int, head_dim: int) -> paddle.Tensor:
    """[B, N, D] -> [B, h, N, d]."""
    return x.reshape([0, 0, num_heads, head_dim]).transpose([0, 2, 1, 3])


def _side_by_side(x: paddle.Tensor) -> paddle.Tensor:
    """[B, h, N, d] -> [B, N, D]."""
    return x.transpose([0, 2, 1, 3]).flatten(2)
