"""DeiT: Training data-efficient image transformers & distillation through attention (Touvron et al. 2021, 2012.12877).

The network is the Vision Transformer with other first values. The distilled one has a second learned token beside the
class token; its own classifier learns from a teacher's answers.

Shapes: B batch, C image channels, H W image height and width, P patch side, N patches, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import ParamAttr, nn
from paddle.nn import initializer

from paddlevit.layers import set_classifier, to_pair
from paddlevit.models.plain import Initialization, check_picture, layer_maps, parameter_depth, patch_grid
from paddlevit.models.spec import ModelSpec
from paddlevit.models.vit import Encoder, VisualTransformer
from paddlevit.preprocessing import Preprocessing

# The official code (github.com/facebookresearch/deit) draws everything from a normal distribution cut off at 100
# standard deviations, except the patch projection, which keeps what PyTorch gives a convolution: uniform, bounded by
# fan_in ** -0.5. The bias of that projection is 0 here, not uniform.
DEIT_INITIALIZATION = Initialization(
    patch=initializer.KaimingUniform(negative_slope=5**0.5, nonlinearity="leaky_relu"),
    patch_bias=initializer.Constant(0.0),
    token=initializer.Normal(std=0.02),
    position=initializer.Normal(std=0.02),
    attention=initializer.Normal(std=0.02),
    mlp=initializer.Normal(std=0.02),
    mlp_bias=initializer.Constant(0.0),
    classifier_std=0.02,
)


class DataEfficientTransformer(VisualTransformer):
    """The Vision Transformer with DeiT's initialisation; the keywords are those of `VisualTransformer`.

    Example:
        >>> model = DataEfficientTransformer(image_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4)
        >>> model(paddle.zeros([2, 3, 32, 32])).shape
        [2, 1000]
    """

    initialization = DEIT_INITIALIZATION


class DistilledPatchEmbedding(nn.Layer):
    """Patches as tokens behind a class token and a distillation token, all with positions (section 4).

    Args:
        image_size: H, W of the picture, one number or two.
        patch_size: Height and width of a patch, one number or two; must divide the picture.
        in_channels: Channels C of the picture.
        embed_dim: Width D of a token.
        dropout: Probability of dropping a value of the finished tokens.

    Raises:
        ValueError: Sizes that do not divide.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        init = DEIT_INITIALIZATION
        self.image_size, self.patch_size = to_pair(image_size, "image_size"), to_pair(patch_size, "patch_size")
        self.grid_size = patch_grid(self.image_size, self.patch_size)
        self.patch_embedding = nn.Conv2D(
            in_channels,
            embed_dim,
            kernel_size=self.patch_size,
            stride=self.patch_size,
            weight_attr=ParamAttr(initializer=init.patch),
            bias_attr=ParamAttr(initializer=init.patch_bias),
        )
        self.class_token = self.create_parameter([1, 1, embed_dim], default_initializer=init.token)
        self.distillation_token = self.create_parameter([1, 1, embed_dim], default_initializer=init.token)
        num_tokens = 2 + self.grid_size[0] * self.grid_size[1]
        self.position_embedding = self.create_parameter([1, num_tokens, embed_dim], default_initializer=init.position)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, 2 + N, D]."""
        check_picture(x, self.patch_embedding._in_channels, self.image_size)
        x = self.patch_embedding(x)  # [B, D, H / P, W / P]
        x = x.flatten(2).transpose([0, 2, 1])  # [B, N, D]
        tokens = [token.expand([x.shape[0], -1, -1]) for token in (self.class_token, self.distillation_token)]
        x = paddle.concat([*tokens, x], axis=1)  # [B, 2 + N, D]
        return self.dropout(x + self.position_embedding)


class DistilledVisualTransformer(nn.Layer):
    """DeiT with a distillation token (figure 2); the defaults are DeiT-B distilled.

    In training, the class token's logits and the distillation token's come out as a pair, one for each part of the
    loss; in evaluation, their mean. After `set_distilled_training(False)` it is their mean in training too, as a loss
    of one output needs it: `paddle.Model.fit` with `paddle.nn.CrossEntropyLoss`, for example.

    Args:
        image_size: H, W of the pictures, one number or two.
        patch_size: Height and width of a patch; must divide the picture.
        in_channels: Channels C of the pictures.
        num_classes: K of both classifiers; 0 for the features of the two tokens.
        embed_dim: Width D.
        depth: Number of encoder layers.
        num_heads: Attention heads; must divide D.
        mlp_ratio: Width of the MLP's hidden layer over D.
        qkv_bias: Whether queries, keys and values have a bias.
        dropout: On the embedded tokens, after attention and in the MLP.
        attention_dropout: After the softmax.
        drop_path: Stochastic depth, see `vit.Encoder`.
        use_checkpoint: Trade time for memory in training: recompute each layer in backward.

    Raises:
        ValueError: Impossible sizes, with the numbers.

    Example:
        >>> model = DistilledVisualTransformer(image_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4)
        >>> [logits.shape for logits in model(paddle.zeros([2, 3, 32, 32]))]
        [[2, 1000], [2, 1000]]
        >>> model.eval()(paddle.zeros([2, 3, 32, 32])).shape
        [2, 1000]
    """

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
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.num_features, self.distilled_training = embed_dim, True
        self.patch_embedding = DistilledPatchEmbedding(image_size, patch_size, in_channels, embed_dim, dropout)
        self.encoder = Encoder(
            embed_dim,
            depth,
            drop_path,
            use_checkpoint,
            num_heads=num_heads,
            qkv_bias=qkv_bias,
            mlp_ratio=mlp_ratio,
            dropout=dropout,
            attention_dropout=attention_dropout,
            init=DEIT_INITIALIZATION,
        )
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Two new classifiers of `num_classes` outputs; 0 lets the features through."""
        for name in ("classifier", "classifier_distillation"):
            set_classifier(self, num_classes, name, DEIT_INITIALIZATION.classifier_std)

    def set_distilled_training(self, on: bool = True) -> None:
        """Whether training gives the pair of logits, or their mean as evaluation does."""
        self.distilled_training = on

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, 2 + N, D], the encoder's tokens: class, distillation, patches."""
        return self.encoder(self.patch_embedding(x))

    def forward_head(self, x: paddle.Tensor) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor]:
        """[B, 2 + N, D] -> [B, K], in distilled training a pair of them."""
        logits = self.classifier(x[:, 0])  # [B, K]
        distilled = self.classifier_distillation(x[:, 1])  # [B, K]
        if self.training and self.distilled_training:
            return logits, distilled
        return (logits + distilled) / 2

    def forward(self, x: paddle.Tensor) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor]:
        """[B, C, H, W] -> [B, K], the mean of both logits; in distilled training the pair."""
        return self.forward_head(self.forward_features(x))

    def feature_maps(self, x: paddle.Tensor, layers: Sequence[int] | None = None) -> list[paddle.Tensor]:
        """What the patch tokens are after some encoder layers, as maps; see `VisualTransformer.feature_maps`."""
        return layer_maps(self.encoder.layers, self.patch_embedding(x), layers, 2, self.patch_embedding.grid_size)

    def layer_index(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 the embedding, 1.. the layers, then norm and heads."""
        return parameter_depth(name, len(self.encoder.layers))

    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that weight decay leaves alone."""
        names = ("class_token", "distillation_token", "position_embedding")
        return {f"patch_embedding.{name}" for name in names}


# Sizes: table 1 of the paper. Evaluated as timm does: crop 0.9 at 224 (the paper's code: 0.875), all of it at 384.
_SIZES = {
    "tiny": dict(embed_dim=192, depth=12, num_heads=3),
    "small": dict(embed_dim=384, depth=12, num_heads=6),
    "base": dict(embed_dim=768, depth=12, num_heads=12),
}


def _spec(size: str, image_size: int, distilled: bool) -> ModelSpec:
    preprocessing = Preprocessing((image_size, image_size), crop_pct=1.0 if image_size == 384 else 0.9)
    return ModelSpec(DistilledVisualTransformer if distilled else DataEfficientTransformer, _SIZES[size], preprocessing)


MODELS = {
    f"deit_{size}{distilled}_patch16_{image_size}": _spec(size, image_size, bool(distilled))
    for size, image_size in [("tiny", 224), ("small", 224), ("base", 224), ("base", 384)]
    for distilled in ("", "_distilled")
}
