"""Vision Transformer: An Image is Worth 16x16 Words (Dosovitskiy et al. 2021, arXiv 2010.11929).

The classes follow the PaddleViT course, in its order: a picture becomes patches, patches become tokens, tokens pass
through an encoder of equal layers, and one vector is classified.

Shapes: B batch, C image channels, H W image height and width, P patch side, N tokens, D width, h heads, d = D / h,
K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import ParamAttr, nn
from paddle.nn import initializer

from paddlevit.errors import check_choice
from paddlevit.layers import (
    DropPath,
    Identity,
    Mlp,
    linear_drop_path,
    run_layer,
    set_classifier,
    sinusoid_table,
    to_pair,
)
from paddlevit.models.plain import Initialization, check_picture, layer_maps, parameter_depth, patch_grid
from paddlevit.models.spec import ModelSpec
from paddlevit.preprocessing import HALF_MEAN, HALF_STD, Preprocessing

POOLS = ("token", "average")
POSITIONS = ("learned", "sinusoidal", "none")
POSITION_MERGES = ("add", "concat")
NORM_ORDERS = ("pre", "post")
NORMS = ("layer", "batch")

# The paper's code (github.com/google-research/vision_transformer, models_vit.py). Kaiming's uniform of gain 1 on a
# D x D matrix is Xavier's, and it stays the same when the matrices of q, k and v stand side by side.
PAPER_INITIALIZATION = Initialization(
    patch=initializer.KaimingNormal(nonlinearity="linear"),
    patch_bias=initializer.Constant(0.0),
    token=initializer.Constant(0.0),
    position=initializer.Normal(std=0.02),
    attention=initializer.KaimingUniform(nonlinearity="linear"),
    mlp=initializer.XavierUniform(),
    mlp_bias=initializer.Normal(std=1e-6),
    classifier_std=0.0,
)


def build_norm(norm: str, dim: int) -> nn.Layer:
    """Normalisation of [B, N, D]: `layer` over each token, `batch` over the batch and all tokens of each feature."""
    check_choice("norm", norm, NORMS)
    if norm == "layer":
        return nn.LayerNorm(dim, epsilon=1e-6)
    return nn.BatchNorm1D(dim, data_format="NLC")


class PatchEmbedding(nn.Layer):
    """Cuts the picture into patches, projects each to a token, adds the class token and the positions (equation 1).

    Args:
        image_size: H, W of the picture, one number or two.
        patch_size: Height and width of a patch, one number or two; must divide the picture.
        in_channels: Channels C of the picture.
        embed_dim: Width D of a token.
        dropout: Probability of dropping a value of the finished tokens.
        class_token: Whether a learned token is put before the patches.
        position: `learned`, `sinusoidal` (fixed) or `none`.
        position_merge: `add` the positions to the tokens, or `concat` them: then D / 2 features come from the patch
            and D / 2 from its position.
        init: What the parameters are drawn from.

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
        class_token: bool = True,
        position: str = "learned",
        position_merge: str = "add",
        init: Initialization = PAPER_INITIALIZATION,
    ) -> None:
        super().__init__()
        check_choice("position", position, POSITIONS)
        check_choice("position_merge", position_merge, POSITION_MERGES)
        self.image_size, self.patch_size = to_pair(image_size, "image_size"), to_pair(patch_size, "patch_size")
        self.grid_size = patch_grid(self.image_size, self.patch_size)
        num_tokens = self.grid_size[0] * self.grid_size[1] + int(class_token)

        self.concat = position != "none" and position_merge == "concat"
        if self.concat and embed_dim % 2:
            raise ValueError(f"embed_dim is {embed_dim}; position_merge 'concat' needs an even number.")
        dim = embed_dim // 2 if self.concat else embed_dim
        self.patch_embedding = nn.Conv2D(
            in_channels,
            dim,
            kernel_size=self.patch_size,
            stride=self.patch_size,
            weight_attr=ParamAttr(initializer=init.patch),
            bias_attr=ParamAttr(initializer=init.patch_bias),
        )
        if class_token:
            self.class_token = self.create_parameter([1, 1, dim], default_initializer=init.token)
        else:
            self.class_token = None
        if position == "learned":
            self.position_embedding = self.create_parameter([1, num_tokens, dim], default_initializer=init.position)
        elif position == "sinusoidal":
            table = paddle.to_tensor(sinusoid_table(num_tokens, dim))
            self.register_buffer("position_embedding", table, persistable=False)
        else:
            self.position_embedding = None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, N, D]."""
        check_picture(x, self.patch_embedding._in_channels, self.image_size)
        x = self.patch_embedding(x)  # [B, D, H / P, W / P]
        x = x.flatten(2).transpose([0, 2, 1])  # [B, N, D]
        if self.class_token is not None:
            class_token = self.class_token.expand([x.shape[0], -1, -1])
            x = paddle.concat([class_token, x], axis=1)  # [B, 1 + N, D]
        if self.concat:
            positions = self.position_embedding.expand([x.shape[0], -1, -1])
            x = paddle.concat([x, positions], axis=2)  # [B, N, D], two halves
        elif self.position_embedding is not None:
            x = x + self.position_embedding
        return self.dropout(x)


class Attention(nn.Layer):
    """Multi-head self-attention (appendix A): every token looks at every other.

    Args:
        embed_dim: Width D.
        num_heads: Heads h; must divide D.
        qkv_bias: Whether the joint projection to queries, keys and values has a bias.
        qk_scale: Factor on the scores; None is d ** -0.5.
        dropout: Probability after the output projection.
        attention_dropout: Probability after the softmax.
        init: What the parameters are drawn from.

    Raises:
        ValueError: D is not a multiple of h.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        init: Initialization = PAPER_INITIALIZATION,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}.")
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scales = self.head_dim**-0.5 if qk_scale is None else qk_scale
        weight_attr = ParamAttr(initializer=init.attention)
        self.qkv = nn.Linear(embed_dim, embed_dim * 3, weight_attr=weight_attr, bias_attr=None if qkv_bias else False)
        self.proj = nn.Linear(embed_dim, embed_dim, weight_attr=weight_attr)
        self.dropout = nn.Dropout(dropout)
        self.attention_dropout = nn.Dropout(attention_dropout)
        self.softmax = nn.Softmax(axis=-1)

    def transpose_multihead(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, h, N, d]."""
        x = x.reshape([0, 0, self.num_heads, self.head_dim])  # [B, N, h, d]
        return x.transpose([0, 2, 1, 3])  # [B, h, N, d]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        qkv = self.qkv(x).chunk(3, axis=-1)
        q, k, v = map(self.transpose_multihead, qkv)  # each [B, h, N, d]
        attn = paddle.matmul(q * self.scales, k, transpose_y=True)  # [B, h, N, N]
        attn = self.attention_dropout(self.softmax(attn))
        out = paddle.matmul(attn, v).transpose([0, 2, 1, 3])  # [B, N, h, d]
        out = out.reshape([0, 0, self.num_heads * self.head_dim])  # [B, N, D]
        return self.dropout(self.proj(out))

    def multiply_adds(self, x: paddle.Tensor) -> int:
        """Multiply-adds of the two products that no sub-layer shows: scores, and weighted values."""
        batch, tokens, dim = x.shape
        return 2 * batch * tokens * tokens * dim

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, scales={self.scales:.4f}"


class EncoderLayer(nn.Layer):
    """Attention and MLP, each with a residual shortcut (equations 2 and 3).

    Args:
        embed_dim: Width D.
        num_heads: Attention heads.
        qkv_bias: See `Attention`.
        mlp_ratio: Width of the MLP's hidden layer over D.
        dropout: After the attention's projection and both layers of the MLP.
        attention_dropout: After the softmax.
        drop_path: Probability of skipping each of the two branches for a sample.
        qk_scale: See `Attention`.
        norm: `layer` or `batch`.
        norm_order: `pre` normalises the input of each branch, `post` the sum after it.
        init: What the parameters are drawn from.
    """

    def __init__(
        self,
        embed_dim: int = 768,
        num_heads: int = 12,
        qkv_bias: bool = True,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
        qk_scale: float | None = None,
        norm: str = "layer",
        norm_order: str = "pre",
        init: Initialization = PAPER_INITIALIZATION,
    ) -> None:
        super().__init__()
        self.norm_first = norm_order == "pre"
        self.attn_norm = build_norm(norm, embed_dim)
        self.attn = Attention(embed_dim, num_heads, qkv_bias, qk_scale, dropout, attention_dropout, init)
        self.mlp_norm = build_norm(norm, embed_dim)
        weight_attr, bias_attr = ParamAttr(initializer=init.mlp), ParamAttr(initializer=init.mlp_bias)
        self.mlp = Mlp(embed_dim, mlp_ratio, dropout, weight_attr=weight_attr, bias_attr=bias_attr)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        if self.norm_first:
            x = x + self.drop_path(self.attn(self.attn_norm(x)))
            return x + self.drop_path(self.mlp(self.mlp_norm(x)))
        x = self.attn_norm(x + self.drop_path(self.attn(x)))
        return self.mlp_norm(x + self.drop_path(self.mlp(x)))


class Encoder(nn.Layer):
    """`depth` encoder layers, and with pre-norm a last normalisation (equation 4).

    Args:
        embed_dim: Width D.
        depth: Number of layers.
        drop_path: Probability of the last layer, rising linearly from 0, or one probability per layer.
        use_checkpoint: Recompute each layer in backward instead of keeping its activations.
        norm: `layer` or `batch`.
        norm_order: `pre` or `post`.
        **layer_options: Passed to every `EncoderLayer`.
    """

    def __init__(
        self,
        embed_dim: int,
        depth: int,
        drop_path: float | Sequence[float] = 0.0,
        use_checkpoint: bool = False,
        norm: str = "layer",
        norm_order: str = "pre",
        **layer_options,
    ) -> None:
        super().__init__()
        check_choice("norm_order", norm_order, NORM_ORDERS)
        self.use_checkpoint = use_checkpoint
        self.layers = nn.LayerList(
            EncoderLayer(embed_dim, drop_path=probability, norm=norm, norm_order=norm_order, **layer_options)
            for probability in linear_drop_path(drop_path, depth)
        )
        self.norm = build_norm(norm, embed_dim) if norm_order == "pre" else Identity()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        for layer in self.layers:
            x = run_layer(layer, x, self.use_checkpoint)
        return self.norm(x)


class VisualTransformer(nn.Layer):
    """The Vision Transformer; the defaults are ViT-B/16 of the paper's table 1.

    Args:
        image_size: H, W of the pictures, one number or two.
        patch_size: Height and width of a patch; must divide the picture.
        in_channels: Channels C of the pictures.
        num_classes: K; 1 for regression, 0 for the features themselves.
        embed_dim: Width D.
        depth: Number of encoder layers.
        num_heads: Attention heads; must divide D.
        mlp_ratio: Width of the MLP's hidden layer over D.
        qkv_bias: Whether queries, keys and values have a bias.
        dropout: On the embedded tokens, after attention and in the MLP.
        attention_dropout: After the softmax.
        drop_path: Stochastic depth, see `Encoder`.
        qk_scale: Factor on the attention scores; None is (D / h) ** -0.5.
        pool: `token` classifies a class token, `average` the mean of the patch tokens (then there is no class token).
        position: `learned`, `sinusoidal` or `none`.
        position_merge: `add` or `concat`.
        norm: `layer` or `batch`.
        norm_order: `pre` or `post`.
        use_checkpoint: Trade time for memory in training: recompute each layer in backward.

    Raises:
        ValueError: Impossible sizes or unknown choices, with the numbers.

    Example:
        >>> model = VisualTransformer(image_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4, num_classes=10)
        >>> model(paddle.zeros([2, 3, 32, 32])).shape
        [2, 10]
    """

    initialization = PAPER_INITIALIZATION

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 16,
        in_channels: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float | Sequence[float] = 0.0,
        qk_scale: float | None = None,
        pool: str = "token",
        position: str = "learned",
        position_merge: str = "add",
        norm: str = "layer",
        norm_order: str = "pre",
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_choice("pool", pool, POOLS)
        self.pool, self.num_features, init = pool, embed_dim, self.initialization
        self.patch_embedding = PatchEmbedding(
            image_size, patch_size, in_channels, embed_dim, dropout, pool == "token", position, position_merge, init
        )
        self.encoder = Encoder(
            embed_dim,
            depth,
            drop_path,
            use_checkpoint,
            norm,
            norm_order,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            mlp_ratio=mlp_ratio,
            dropout=dropout,
            attention_dropout=attention_dropout,
            qk_scale=qk_scale,
            init=init,
        )
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """A new classifier of `num_classes` outputs; 0 lets the features through."""
        set_classifier(self, num_classes, init_std=self.initialization.classifier_std)

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, N, D], the encoder's tokens, class token first."""
        return self.encoder(self.patch_embedding(x))

    def forward_head(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, K]."""
        x = x[:, 0] if self.pool == "token" else x.mean(axis=1)  # [B, D]
        return self.classifier(x)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, K], the logits."""
        return self.forward_head(self.forward_features(x))

    def feature_maps(self, x: paddle.Tensor, layers: Sequence[int] | None = None) -> list[paddle.Tensor]:
        """What the patch tokens are after some encoder layers, as maps.

        Args:
            x: [B, C, H, W].
            layers: Indices of encoder layers, negative ones from the end; None is all of them.

        Returns:
            One [B, D, H / P, W / P] per index, in the order asked for, before the last normalisation.

        Raises:
            ValueError: An index outside the encoder.
        """
        prefix = int(self.patch_embedding.class_token is not None)
        return layer_maps(self.encoder.layers, self.patch_embedding(x), layers, prefix, self.patch_embedding.grid_size)

    def layer_index(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 the embedding, 1.. the layers, then norm and head."""
        return parameter_depth(name, len(self.encoder.layers))

    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that weight decay leaves alone."""
        return {"patch_embedding.class_token", "patch_embedding.position_embedding"}


# Sizes: table 1 of the paper and table 2 of Scaling Vision Transformers (Zhai et al. 2022); ti and s are DeiT's.
_SIZES: dict[str, dict] = {
    "tiny": dict(embed_dim=192, depth=12, num_heads=3),
    "small": dict(embed_dim=384, depth=12, num_heads=6),
    "base": dict(embed_dim=768, depth=12, num_heads=12),
    "large": dict(embed_dim=1024, depth=24, num_heads=16),
    "huge": dict(embed_dim=1280, depth=32, num_heads=16),
    "giant": dict(embed_dim=1408, depth=40, num_heads=16, mlp_ratio=48 / 11),
    "gigantic": dict(embed_dim=1664, depth=48, num_heads=16, mlp_ratio=64 / 13),
}


def _spec(size: str, patch_size: int, image_size: int) -> ModelSpec:
    # The public weights are those of How to train your ViT? (Steiner et al. 2022), evaluated with mean and std 0.5.
    crop_pct = 1.0 if image_size == 384 else 0.9
    preprocessing = Preprocessing((image_size, image_size), crop_pct, mean=HALF_MEAN, std=HALF_STD)
    options = dict(patch_size=patch_size, **_SIZES[size])
    if (size, patch_size, image_size) in (("large", 32, 224), ("huge", 14, 224)):
        options["num_classes"] = 0  # pretrained on ImageNet-21k and published without a classifier
    return ModelSpec(VisualTransformer, options, preprocessing)


MODELS = {
    f"vit_{size}_patch{patch_size}_{image_size}": _spec(size, patch_size, image_size)
    for size, patch_sizes, image_sizes in [
        ("tiny", (16,), (224, 384)),
        ("small", (32, 16), (224, 384)),
        ("base", (32, 16), (224, 384)),
        ("base", (8,), (224,)),
        ("large", (32, 16), (224, 384)),
        ("large", (14,), (224,)),
        ("huge", (14,), (224,)),
        ("giant", (14,), (224,)),
        ("gigantic", (14,), (224,)),
    ]
    for patch_size in patch_sizes
    for image_size in image_sizes
}
