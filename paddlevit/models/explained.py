"""Vision Transformers, Explained: the ViT and the T2T-ViT of an article that takes them apart, step by step.

The code that it teaches is github.com/lanl/vision_transformers_explained. The pieces, most of them in
`explained_layers`, keep its class and attribute names (the checkpoint's keys) and its keywords, in which `img_size` is
(channels, height, width); the two models at the end take the keywords of every other model here. Mended: token counts
are whole numbers, sizes that do not divide raise ValueError, a `qk_scale` of 0 counts, and weight decay does spare the
class token, a level deeper than the code says.

What sets these models apart: pictures of any shape and one channel, patches by Unfold, fixed sine positions for the
prediction token too, no dropout, and attention that adds its values to its result, inside every block.

Shapes: B batch, C image channels, H W image height and width, P patch side, N tokens, D width, h heads, d = D / h, K
predictions.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import ParamAttr, nn
from paddle.nn import initializer

from paddlevit.layers import note_classes, set_classifier, sinusoid_table, to_pair
from paddlevit.models.explained_layers import (
    INIT_STD,
    WEIGHT,
    Attention,
    Encoding,
    NeuralNet,
    Patch_Tokenization,
    Tokens2Token,
    TokenTransformer,
    get_sinusoid_encoding,
)
from paddlevit.models.plain import layer_maps
from paddlevit.models.spec import ModelSpec
from paddlevit.preprocessing import Preprocessing

__all__ = [
    "MODELS",
    "Attention",
    "Encoding",
    "NeuralNet",
    "Patch_Tokenization",
    "T2T_ViT",
    "TokenTransformer",
    "Tokens2Token",
    "ViT_Backbone",
    "ViT_Model",
    "get_sinusoid_encoding",
]


class ViT_Backbone(nn.Layer):
    """From image tokens to a prediction: token processing, encoding blocks, prediction processing.

    Args:
        num_tokens: Number of image tokens N.
        token_len: Length D of a token.
        depth: Number of encoding blocks.
        num_classes: Predictions K; 0 for the features themselves.
        **block_options: Passed to every `Encoding`.
    """

    def __init__(self, num_tokens: int, token_len: int, depth: int, num_classes: int, **block_options) -> None:
        super().__init__()
        self.num_features = token_len
        # The positions are a frozen parameter, not a buffer: checkpoints hold them and the published totals count them.
        table = initializer.Assign(sinusoid_table(1 + num_tokens, token_len))  # position 0 is the prediction token's
        self.cls_token = self.create_parameter([1, 1, token_len], attr=WEIGHT)
        self.pos_embed = self.create_parameter(
            [1, 1 + num_tokens, token_len], attr=ParamAttr(initializer=table, trainable=False)
        )
        self.blocks = nn.LayerList(Encoding(token_len, **block_options) for _ in range(depth))
        self.norm = nn.LayerNorm(token_len)
        set_classifier(self, num_classes, "head", INIT_STD)

    def token_processing(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, 1 + N, D]: the prediction token is put first, the positions are added."""
        prediction_token = self.cls_token.expand([x.shape[0], -1, -1])
        return paddle.concat([prediction_token, x], axis=1) + self.pos_embed  # [B, 1 + N, D]

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, 1 + N, D], the normalised tokens, prediction token first."""
        x = self.token_processing(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, K]."""
        return self.head(self.forward_features(x)[:, 0])


class _Explained(nn.Layer):
    """What the two models share, around a module that makes tokens and a backbone under the article's names."""

    tokens_name: str
    backbone_name: str

    def __init__(self, tokens: nn.Layer, embed_dim: int, depth: int, num_classes: int, **block_options) -> None:
        super().__init__()
        self.num_features, self.num_classes = embed_dim, num_classes
        setattr(self, self.tokens_name, tokens)
        backbone = ViT_Backbone(tokens.num_tokens, embed_dim, depth, num_classes, **block_options)
        setattr(self, self.backbone_name, backbone)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, K], the predictions."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, 1 + N, D], the normalised tokens, prediction token first."""
        return getattr(self, self.backbone_name).forward_features(getattr(self, self.tokens_name)(x))

    def forward_head(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, 1 + N, D] -> [B, K]."""
        return getattr(self, self.backbone_name).head(x[:, 0])

    def reset_classifier(self, num_classes: int) -> None:
        """A new head of `num_classes` predictions; 0 lets the features through."""
        set_classifier(getattr(self, self.backbone_name), num_classes, "head", INIT_STD)
        note_classes(self, num_classes)

    def feature_maps(self, x: paddle.Tensor, layers: Sequence[int] | None = None) -> list[paddle.Tensor]:
        """What the image tokens are after some encoding blocks, as maps.

        Args:
            x: [B, C, H, W].
            layers: Indices of blocks, negative ones from the end; None is all of them.

        Returns:
            One [B, D, rows, columns] per index, in the order asked for, before the last normalisation.

        Raises:
            ValueError: An index outside the blocks.
        """
        tokens, backbone = getattr(self, self.tokens_name), getattr(self, self.backbone_name)
        return layer_maps(backbone.blocks, backbone.token_processing(tokens(x)), layers, 1, tokens.grid_size)

    def layer_index(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 the embedding, 1.. the blocks, then norm and head."""
        if name.startswith(f"{self.backbone_name}.blocks."):
            return int(name.split(".")[2]) + 1
        last = (f"{self.backbone_name}.norm.", f"{self.backbone_name}.head.")
        return len(getattr(self, self.backbone_name).blocks) + 1 if name.startswith(last) else 0

    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that weight decay leaves alone; frozen ones are never updated."""
        return {f"{self.backbone_name}.cls_token"}


class ViT_Model(_Explained):
    """The article's ViT: patch tokenization and a backbone; the defaults are its walk-through.

    Args:
        image_size: H, W of the pictures, one number or two.
        patch_size: Side P of a square patch; must divide H and W.
        in_channels: Channels C of the pictures.
        num_classes: Predictions K; 1 for regression, 0 for the features themselves.
        embed_dim: Length D of a token.
        depth: Number of encoding blocks.
        num_heads: Attention heads; must divide D.
        mlp_ratio: Width of the neural net's hidden layer over D.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: Factor on the attention scores; None is (D / h) ** -0.5.

    Example:
        >>> model = ViT_Model(embed_dim=64, depth=2)
        >>> model(paddle.zeros([3, 1, 60, 100])).shape
        [3, 1]
    """

    tokens_name, backbone_name = "patch_tokens", "backbone"

    def __init__(
        self,
        image_size: int | Sequence[int] = (60, 100),
        patch_size: int = 20,
        in_channels: int = 1,
        num_classes: int = 1,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
    ) -> None:
        attention = dict(num_heads=num_heads, qkv_bias=qkv_bias, qk_scale=qk_scale)
        tokens = Patch_Tokenization((in_channels, *to_pair(image_size, "image_size")), patch_size, embed_dim)
        super().__init__(tokens, embed_dim, depth, num_classes, hidden_chan_mul=mlp_ratio, **attention)


class T2T_ViT(_Explained):
    """The article's T2T-ViT: a tokens-to-token module before the same backbone.

    The keywords that it shares with `ViT_Model` mean the same; `num_heads` (must divide `token_dim` too), `qkv_bias`
    and `qk_scale` hold in the token transformers as well.

    Args:
        softsplit_kernels: Sides of the three soft splits' squares.
        token_dim: Length of a token between the splits.
        token_mlp_ratio: Width of the token transformers' hidden layer over `token_dim`.

    Example:
        >>> model = T2T_ViT(image_size=(60, 100), softsplit_kernels=(7, 3, 3), embed_dim=64, depth=2)
        >>> model(paddle.zeros([3, 1, 60, 100])).shape
        [3, 1]
    """

    tokens_name, backbone_name = "tokens_to_token", "vit_backbone"

    def __init__(
        self,
        image_size: int | Sequence[int] = (1700, 500),
        in_channels: int = 1,
        num_classes: int = 1,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 1,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        softsplit_kernels: Sequence[int] = (31, 3, 3),
        token_dim: int = 64,
        token_mlp_ratio: float = 1.0,
    ) -> None:
        attention = dict(num_heads=num_heads, qkv_bias=qkv_bias, qk_scale=qk_scale)
        img_size = (in_channels, *to_pair(image_size, "image_size"))
        tokens = Tokens2Token(
            img_size, softsplit_kernels, token_dim, embed_dim, hidden_chan_mul=token_mlp_ratio, **attention
        )
        super().__init__(tokens, embed_dim, depth, num_classes, hidden_chan_mul=mlp_ratio, **attention)


# The article's picture has one channel, from 0 to 1, and is used as it is.
_DATA = Preprocessing((60, 100), crop_pct=1.0, crop_mode="squash", mean=(0.0,), std=(1.0,))

MODELS = {
    "explained_vit": ModelSpec(ViT_Model, {}, _DATA),
    "explained_t2t_vit": ModelSpec(T2T_ViT, {}, _DATA.adapted((1700, 500))),
}
