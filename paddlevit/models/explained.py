"""Vision Transformers, Explained: the ViT and the T2T-ViT of an article that takes them apart, step by step.

The code that it teaches is github.com/lanl/vision_transformers_explained. The pieces keep its class and attribute names
(the checkpoint's keys) and its keywords, in which `img_size` is (channels, height, width); the two models at the end
take the keywords of every other model here. Mended: token counts are whole numbers, sizes that do not divide raise
ValueError, a `qk_scale` of 0 counts, and weight decay does spare the class token, a level deeper than the code says.

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

from paddlevit.layers import set_classifier, sinusoid_table, to_pair
from paddlevit.models.plain import check_picture, layer_maps, patch_grid
from paddlevit.models.spec import ModelSpec
from paddlevit.preprocessing import Preprocessing

# Initialisation: linear weights and the class token normal with std 0.02, biases 0. The positions are a frozen
# parameter, not a buffer: checkpoints hold them and the published totals count them.
_INIT_STD = 0.02
_WEIGHT = ParamAttr(initializer=initializer.Normal(std=_INIT_STD))


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
        self.project = nn.Linear(self.in_channels * patch_size**2, token_len, weight_attr=_WEIGHT)

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
        self.qkv = nn.Linear(dim, chan * 3, weight_attr=_WEIGHT, bias_attr=None if qkv_bias else False)
        self.proj = nn.Linear(chan, chan, weight_attr=_WEIGHT)
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
        self.fc1 = nn.Linear(in_chan, hidden_chan, weight_attr=_WEIGHT)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_chan, out_chan, weight_attr=_WEIGHT)

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
        table = initializer.Assign(sinusoid_table(1 + num_tokens, token_len))  # position 0 is the prediction token's
        self.cls_token = self.create_parameter([1, 1, token_len], attr=_WEIGHT)
        self.pos_embed = self.create_parameter(
            [1, 1 + num_tokens, token_len], attr=ParamAttr(initializer=table, trainable=False)
        )
        self.blocks = nn.LayerList(Encoding(token_len, **block_options) for _ in range(depth))
        self.norm = nn.LayerNorm(token_len)
        set_classifier(self, num_classes, "head", _INIT_STD)

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
        self.project = nn.Linear(token_chan * areas[2], token_len, weight_attr=_WEIGHT)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, N, D]."""
        check_picture(x, self.in_channels, self.image_size)
        x = self.transformer1(self.soft_split0(x).transpose([0, 2, 1]))  # [B, rows * columns, chan]
        x = x.transpose([0, 2, 1]).reshape([0, 0, *self.grid_sizes[0]])  # [B, chan, rows, columns]
        x = self.transformer2(self.soft_split1(x).transpose([0, 2, 1]))  # [B, rows * columns, chan]
        x = x.transpose([0, 2, 1]).reshape([0, 0, *self.grid_sizes[1]])  # [B, chan, rows, columns]
        return self.project(self.soft_split2(x).transpose([0, 2, 1]))  # [B, N, D]


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
        set_classifier(getattr(self, self.backbone_name), num_classes, "head", _INIT_STD)
        self.num_classes = num_classes

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
