"""The layers that DeiT III, DINOv2, CLIP and SigLIP have beside those of the Vision Transformer.

Shapes: B batch, C image channels, H W image height and width, P patch side, N tokens, D width, h heads, d = D / h.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import ParamAttr, nn
from paddle.nn import initializer

from paddlevit.errors import check_choice
from paddlevit.layers import Mlp, QuickGELU, to_pair
from paddlevit.models.deit import DEIT_INITIALIZATION
from paddlevit.models.plain import check_picture, patch_grid

CLASS_TOKENS = ("positioned", "plain", "absent")
MLPS = ("gelu", "gelu_tanh", "quick_gelu", "swiglu")


class TanhGELU(nn.Layer):
    """GELU in its approximation by tanh, written with a sigmoid: 0.5 (1 + tanh(z)) = sigmoid(2 z).

    Paddle's own `gelu(approximate=True)` becomes the exact one when it is exported to ONNX.
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * nn.functional.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


class SwiGLU(nn.Layer):
    """A gated MLP: fc2(silu(a) * b) with [a, b] = fc1(x) (Shazeer 2020, 2002.05202).

    Args:
        embed_dim: Width D of the tokens.
        mlp_ratio: a and b each have int(D * mlp_ratio) units.
        dropout: Probability of dropping a unit after the gate and after fc2.
    """

    def __init__(self, embed_dim: int, mlp_ratio: float, dropout: float = 0.0) -> None:
        super().__init__()
        hidden_dim = int(embed_dim * mlp_ratio)
        weight_attr = ParamAttr(initializer=DEIT_INITIALIZATION.mlp)
        self.fc1 = nn.Linear(embed_dim, 2 * hidden_dim, weight_attr=weight_attr)
        self.fc2 = nn.Linear(hidden_dim, embed_dim, weight_attr=weight_attr)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        gate, x = self.fc1(x).chunk(2, axis=-1)  # each [B, N, D * mlp_ratio]
        x = self.dropout(nn.functional.silu(gate) * x)
        return self.dropout(self.fc2(x))  # [B, N, D]


def build_mlp(mlp: str, embed_dim: int, mlp_ratio: float, dropout: float = 0.0) -> nn.Layer:
    """The MLP of a layer: `swiglu`, or two linear layers around an exact, tanh or quick GELU."""
    check_choice("mlp", mlp, MLPS)
    if mlp == "swiglu":
        return SwiGLU(embed_dim, mlp_ratio, dropout)
    activation = {"gelu": nn.GELU, "gelu_tanh": TanhGELU, "quick_gelu": QuickGELU}[mlp]
    weight_attr = ParamAttr(initializer=DEIT_INITIALIZATION.mlp)
    return Mlp(embed_dim, mlp_ratio, dropout, activation, weight_attr=weight_attr)


class LayerScale(nn.Layer):
    """Multiplies each feature of a branch by a learned factor (Touvron et al. 2021, 2103.17239, section 2).

    Args:
        embed_dim: Width D.
        initial: First value of the factors; small, so that a deep network starts near the identity.
    """

    def __init__(self, embed_dim: int, initial: float) -> None:
        super().__init__()
        self.gamma = self.create_parameter([embed_dim], default_initializer=initializer.Constant(initial))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        return x * self.gamma


class FoundationEmbedding(nn.Layer):
    """Patches as tokens behind an optional class token and registers: class, registers, patches.

    Args:
        image_size: H, W of the picture, one number or two.
        patch_size: Height and width of a patch, one number or two.
        in_channels: Channels C of the picture.
        embed_dim: Width D of a token.
        dropout: Probability of dropping a value of the finished tokens.
        class_token: See `FoundationTransformer`.
        num_registers: Learned tokens without position between class token and patches.
        bias: Whether the projection of the patches has a bias.
        crop_border: Ignore what the last whole patch leaves over instead of refusing such sizes.

    Raises:
        ValueError: Sizes that do not divide, or an unknown choice.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        dropout: float = 0.0,
        class_token: str = "positioned",
        num_registers: int = 0,
        bias: bool = True,
        crop_border: bool = False,
    ) -> None:
        super().__init__()
        check_choice("class_token", class_token, CLASS_TOKENS)
        if num_registers < 0:
            raise ValueError(f"num_registers is {num_registers}; it must be 0 or more.")
        init = DEIT_INITIALIZATION
        self.image_size, self.patch_size = to_pair(image_size, "image_size"), to_pair(patch_size, "patch_size")
        height, width = self.image_size
        if crop_border:
            height, width = height - height % self.patch_size[0], width - width % self.patch_size[1]
        self.grid_size = patch_grid((height, width), self.patch_size)
        self.patch_embedding = nn.Conv2D(
            in_channels,
            embed_dim,
            kernel_size=self.patch_size,
            stride=self.patch_size,
            weight_attr=ParamAttr(initializer=init.patch),
            bias_attr=ParamAttr(initializer=init.patch_bias) if bias else False,
        )
        self.class_token = self.register_tokens = None
        if class_token != "absent":
            self.class_token = self.create_parameter([1, 1, embed_dim], default_initializer=init.token)
        if num_registers:
            shape = [1, num_registers, embed_dim]
            self.register_tokens = self.create_parameter(shape, default_initializer=init.token)
        self.class_position = class_token == "positioned"
        self.num_prefix = int(class_token != "absent") + num_registers
        num_positions = self.grid_size[0] * self.grid_size[1] + int(self.class_position)
        shape = [1, num_positions, embed_dim]
        self.position_embedding = self.create_parameter(shape, default_initializer=init.position)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, prefix + N, D]."""
        check_picture(x, self.patch_embedding._in_channels, self.image_size)
        x = self.patch_embedding(x)  # [B, D, H / P, W / P]
        x = x.flatten(2).transpose([0, 2, 1])  # [B, N, D]
        prefix, positions = [], self.position_embedding
        if self.class_token is not None:
            prefix.append(self.class_token)
        if self.class_position:
            prefix[0], positions = prefix[0] + positions[:, :1], positions[:, 1:]
        if self.register_tokens is not None:
            prefix.append(self.register_tokens)
        x = x + positions
        if prefix:
            x = paddle.concat([*(token.expand([x.shape[0], -1, -1]) for token in prefix), x], axis=1)
        return self.dropout(x)  # [B, prefix + N, D]


class AttentionPool(nn.Layer):
    """A learned query looks at all patches, and an MLP works on what it saw (SigLIP; Set Transformer, 1810.00825).

    Args:
        embed_dim: Width D.
        num_heads: Heads h; must divide D.
        mlp_ratio: Width of the MLP's hidden layer over D.
        mlp: See `FoundationTransformer`.
        epsilon: Of the norm before the MLP.
    """

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float, mlp: str, epsilon: float) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, embed_dim // num_heads
        self.scales = self.head_dim**-0.5
        latent_init = initializer.Normal(std=embed_dim**-0.5)
        weight_attr = ParamAttr(initializer=DEIT_INITIALIZATION.attention)
        self.latent = self.create_parameter([1, 1, embed_dim], default_initializer=latent_init)
        self.q = nn.Linear(embed_dim, embed_dim, weight_attr=weight_attr)
        self.kv = nn.Linear(embed_dim, 2 * embed_dim, weight_attr=weight_attr)
        self.proj = nn.Linear(embed_dim, embed_dim, weight_attr=weight_attr)
        self.norm = nn.LayerNorm(embed_dim, epsilon=epsilon)
        self.mlp = build_mlp(mlp, embed_dim, mlp_ratio)
        self.softmax = nn.Softmax(axis=-1)

    def transpose_multihead(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, h, N, d]."""
        x = x.reshape([0, 0, self.num_heads, self.head_dim])  # [B, N, h, d]
        return x.transpose([0, 2, 1, 3])  # [B, h, N, d]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, D]."""
        # One query for all would do, but Paddle Inference 2.6 crashes on a linear layer whose input is a parameter.
        latent = self.latent.expand([x.shape[0], -1, -1])  # [B, 1, D]
        q = self.transpose_multihead(self.q(latent))  # [B, h, 1, d]
        k, v = map(self.transpose_multihead, self.kv(x).chunk(2, axis=-1))  # each [B, h, N, d]
        attn = self.softmax(paddle.matmul(q * self.scales, k, transpose_y=True))  # [B, h, 1, N]
        x = self.proj(paddle.matmul(attn, v).flatten(1))  # [B, D]
        return x + self.mlp(self.norm(x))

    def multiply_adds(self, x: paddle.Tensor) -> int:
        """Multiply-adds of the two products that no sub-layer shows: the query's scores, and weighted values."""
        batch, tokens, dim = x.shape
        return 2 * batch * tokens * dim

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, scales={self.scales:.4f}"
