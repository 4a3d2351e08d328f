"""The relatives of the Vision Transformer that people take weights from.

One network with the parts that tell them apart:

- DeiT III (Touvron et al. 2022, 2204.07118): LayerScale, positions on the patches only, the same drop path everywhere;
- DINOv2 (Oquab et al. 2023, 2304.07193), also with registers (Darcet et al. 2023, 2309.16588): LayerScale, SwiGLU;
- CLIP (Radford et al. 2021, 2103.00020): a norm before the encoder, its own epsilon, in OpenAI's weights a quick GELU;
- SigLIP (Zhai et al. 2023, 2303.15343): no class token, a learned query gathers the patches;
- MAE (He et al. 2022, 2111.06377) and I-JEPA (Assran et al. 2023, 2301.08243): the mean of the patches is classified.

Shapes: B batch, C image channels, H W image height and width, P patch side, N tokens, D width, h heads, d = D / h,
K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn

from paddlevit.errors import check_choice
from paddlevit.layers import DropPath, Identity, linear_drop_path, run_layer, set_classifier
from paddlevit.models.deit import DEIT_INITIALIZATION
from paddlevit.models.foundation_layers import AttentionPool, FoundationEmbedding, LayerScale, build_mlp
from paddlevit.models.plain import layer_maps, parameter_depth
from paddlevit.models.spec import ModelSpec
from paddlevit.models.vit import Attention
from paddlevit.preprocessing import CLIP_MEAN, CLIP_STD, HALF_MEAN, HALF_STD, IMAGENET_MEAN, IMAGENET_STD, Preprocessing

POOLS = ("token", "average", "attention")


class FoundationLayer(nn.Layer):
    """Attention and MLP, each normalised before, scaled after, and with a residual shortcut.

    Args:
        embed_dim: Width D.
        num_heads: Attention heads.
        mlp_ratio: Width of the MLP's hidden layer over D.
        mlp: See `FoundationTransformer`.
        layer_scale: First value of both LayerScales; None leaves them out.
        epsilon: Of both norms.
        dropout: After the attention's projection and both layers of the MLP.
        attention_dropout: After the softmax.
        drop_path: Probability of skipping each of the two branches for a sample.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        mlp: str = "gelu",
        layer_scale: float | None = None,
        epsilon: float = 1e-6,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = dict(dropout=dropout, attention_dropout=attention_dropout, init=DEIT_INITIALIZATION)
        self.attn_norm = nn.LayerNorm(embed_dim, epsilon=epsilon)
        self.attn = Attention(embed_dim, num_heads, **options)
        self.attn_scale = Identity() if layer_scale is None else LayerScale(embed_dim, layer_scale)
        self.mlp_norm = nn.LayerNorm(embed_dim, epsilon=epsilon)
        self.mlp = build_mlp(mlp, embed_dim, mlp_ratio, dropout)
        self.mlp_scale = Identity() if layer_scale is None else LayerScale(embed_dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.drop_path(self.attn_scale(self.attn(self.attn_norm(x))))
        return x + self.drop_path(self.mlp_scale(self.mlp(self.mlp_norm(x))))


class FoundationEncoder(nn.Layer):
    """Equal layers and, unless the norm follows the pooling, a last normalisation.

    Args:
        embed_dim: Width D.
        drop_paths: Probability of drop path, one per layer.
        epsilon: Of all norms.
        final_norm: Whether the last normalisation is here.
        use_checkpoint: Recompute each layer in backward instead of keeping its activations.
        **layer_options: Passed to every `FoundationLayer`.
    """

    def __init__(
        self,
        embed_dim: int,
        drop_paths: Sequence[float],
        epsilon: float,
        final_norm: bool,
        use_checkpoint: bool,
        **layer_options: Any,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.layers = nn.LayerList(
            FoundationLayer(embed_dim, epsilon=epsilon, drop_path=probability, **layer_options)
            for probability in drop_paths
        )
        self.norm = nn.LayerNorm(embed_dim, epsilon=epsilon) if final_norm else Identity()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, N, D]."""
        for layer in self.layers:
            x = run_layer(layer, x, self.use_checkpoint)
        return self.norm(x)


class FoundationTransformer(nn.Layer):
    """A Vision Transformer with the parts of DeiT III, DINOv2, CLIP, SigLIP and MAE.

    Args:
        image_size: H, W of the pictures, one number or two.
        patch_size: Height and width of a patch; must divide the picture unless `crop_border`.
        in_channels: Channels C of the pictures.
        num_classes: K; 0 for the features themselves.
        embed_dim: Width D.
        depth: Number of encoder layers.
        num_heads: Attention heads; must divide D.
        mlp_ratio: Width of the MLP's hidden layer over D.
        mlp: Kind of MLP: `gelu` (exact), `gelu_tanh`, `quick_gelu` or the gated `swiglu`.
        layer_scale: First value of LayerScale on both branches; None leaves it out.
        pre_norm: Normalise the tokens before the encoder; the patches' projection then has no bias.
        epsilon: Of all norms.
        class_token: `positioned` (it has a position of its own), `plain` (it has none) or `absent`.
        num_registers: Learned tokens without position between class token and patches.
        pool: `token` classifies the class token, `average` the mean of the patches, `attention` what a learned query
            gathers from them.
        fc_norm: Normalise the mean of the patches rather than each token before it, as MAE is fine-tuned; only with
            pool `average`.
        dropout: On the embedded tokens, after attention and in the MLP.
        attention_dropout: After the softmax.
        drop_path: Stochastic depth: probability of the last layer, or one probability per layer.
        constant_drop_path: Use that probability in every layer, rather than rising linearly from 0.
        crop_border: Ignore the pixels right and below the last whole patch, as SigLIP's 384 / 14 does.
        use_checkpoint: Trade time for memory in training: recompute each layer in backward.

    Raises:
        ValueError: Impossible sizes or unknown choices, with the numbers.

    Example:
        >>> model = FoundationTransformer(
        ...     image_size=28, patch_size=14, embed_dim=64, depth=2, num_heads=4, layer_scale=1e-5, num_registers=4
        ... )
        >>> model(paddle.zeros([2, 3, 28, 28])).shape
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
        mlp: str = "gelu",
        layer_scale: float | None = None,
        pre_norm: bool = False,
        epsilon: float = 1e-6,
        class_token: str = "positioned",
        num_registers: int = 0,
        pool: str = "token",
        fc_norm: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        drop_path: float | Sequence[float] = 0.0,
        constant_drop_path: bool = False,
        crop_border: bool = False,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        check_choice("pool", pool, POOLS)
        if pool == "token" and class_token == "absent":
            raise ValueError("pool is 'token' but class_token is 'absent'; use pool 'average' or 'attention'.")
        if fc_norm and pool != "average":
            raise ValueError(f"fc_norm is True with pool {pool!r}; it goes with pool 'average' only.")
        self.pool, self.num_features = pool, embed_dim
        self.patch_embedding = FoundationEmbedding(
            image_size,
            patch_size,
            in_channels,
            embed_dim,
            dropout,
            class_token,
            num_registers,
            bias=not pre_norm,
            crop_border=crop_border,
        )
        self.pre_norm = nn.LayerNorm(embed_dim, epsilon=epsilon) if pre_norm else Identity()
        if constant_drop_path and isinstance(drop_path, (int, float)):
            drop_path = [drop_path] * depth
        self.encoder = FoundationEncoder(
            embed_dim,
            linear_drop_path(drop_path, depth),
            epsilon,
            final_norm=not fc_norm,
            use_checkpoint=use_checkpoint,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            mlp=mlp,
            layer_scale=layer_scale,
            dropout=dropout,
            attention_dropout=attention_dropout,
        )
        if pool == "attention":
            self.attention_pool = AttentionPool(embed_dim, num_heads, mlp_ratio, mlp, epsilon)
        self.fc_norm = nn.LayerNorm(embed_dim, epsilon=epsilon) if fc_norm else Identity()
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """A new classifier of `num_classes` outputs; 0 lets the features through."""
        set_classifier(self, num_classes, init_std=DEIT_INITIALIZATION.classifier_std)

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, N, D], the encoder's tokens: class, registers, patches."""
        return self.encoder(self.pre_norm(self.patch_embedding(x)))

    def forward_head(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, N, D] -> [B, K]."""
        patches = x[:, self.patch_embedding.num_prefix :]
        if self.pool == "token":
            x = x[:, 0]  # [B, D]
        elif self.pool == "average":
            x = patches.mean(axis=1)  # [B, D]
        else:
            x = self.attention_pool(patches)  # [B, D]
        return self.classifier(self.fc_norm(x))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[B, C, H, W] -> [B, K], the logits."""
        return self.forward_head(self.forward_features(x))

    def feature_maps(self, x: paddle.Tensor, layers: Sequence[int] | None = None) -> list[paddle.Tensor]:
        """What the patch tokens are after some encoder layers, as maps; see `VisualTransformer.feature_maps`."""
        embedding = self.patch_embedding
        x = self.pre_norm(embedding(x))  # [B, N, D]
        return layer_maps(self.encoder.layers, x, layers, embedding.num_prefix, embedding.grid_size)

    def layer_index(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 the embedding, 1.. the layers, then norm and head."""
        return 0 if name.startswith("pre_norm.") else parameter_depth(name, len(self.encoder.layers))

    def no_weight_decay(self) -> set[str]:
        """Parameters of two or more dimensions that weight decay leaves alone."""
        learned = (
            "patch_embedding.class_token",
            "patch_embedding.register_tokens",
            "patch_embedding.position_embedding",
            "attention_pool.latent",
        )
        return {name for name, _ in self.named_parameters() if name in learned}


# Sizes, as the papers and the weights published with them have them.
_SIZES: dict[str, dict[str, Any]] = {
    "xsmall": dict(embed_dim=256, depth=10, num_heads=4),
    "wee": dict(embed_dim=256, depth=14, num_heads=4, mlp_ratio=5.0),
    "little": dict(embed_dim=320, depth=14, num_heads=5, mlp_ratio=5.6),
    "small": dict(embed_dim=384, depth=12, num_heads=6),
    "medium": dict(embed_dim=512, depth=12, num_heads=8),
    "mediumd": dict(embed_dim=512, depth=20, num_heads=8),
    "betwixt": dict(embed_dim=640, depth=12, num_heads=10),
    "base": dict(embed_dim=768, depth=12, num_heads=12),
    "base_plus": dict(embed_dim=896, depth=12, num_heads=14),
    "large": dict(embed_dim=1024, depth=24, num_heads=16),
    "so400m": dict(embed_dim=1152, depth=27, num_heads=16, mlp_ratio=4304 / 1152),
    "huge": dict(embed_dim=1280, depth=32, num_heads=16),
    "giant": dict(embed_dim=1408, depth=40, num_heads=16, mlp_ratio=48 / 11),
    "giantopt": dict(embed_dim=1536, depth=40, num_heads=16),
    "dinov2_giant": dict(embed_dim=1536, depth=40, num_heads=24, mlp_ratio=8 / 3, mlp="swiglu"),
    "gigantic": dict(embed_dim=1664, depth=48, num_heads=16, mlp_ratio=64 / 13),
}
_IMAGENET, _HALF, _CLIP = (IMAGENET_MEAN, IMAGENET_STD), (HALF_MEAN, HALF_STD), (CLIP_MEAN, CLIP_STD)


def _spec(
    size: str,
    patch_size: int,
    image_size: int,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    crop_pct: float,
    crop_mode: str = "center",
    **options: Any,
) -> ModelSpec:
    preprocessing = Preprocessing((image_size, image_size), crop_pct, crop_mode, mean=statistics[0], std=statistics[1])
    return ModelSpec(FoundationTransformer, {"patch_size": patch_size, **_SIZES[size], **options}, preprocessing)


def _deit3(size: str, patch_size: int, image_size: int) -> ModelSpec:
    options: dict[str, Any] = dict(layer_scale=1e-4, class_token="plain", constant_drop_path=True)
    return _spec(size, patch_size, image_size, _IMAGENET, 1.0 if image_size == 384 else 0.9, **options)


def _dinov2(size: str, num_registers: int) -> ModelSpec:
    options: dict[str, Any] = dict(layer_scale=1e-5, num_classes=0, num_registers=num_registers)
    # In the weights with registers, the class token's position has been added to the token.
    class_token = "plain" if num_registers else "positioned"
    size = "dinov2_giant" if size == "giant" else size
    return _spec(size, 14, 518, _IMAGENET, 1.0, class_token=class_token, **options)


def _clip(
    size: str, patch_size: int, kind: str, image_size: int, num_classes: int, crop_pct: float, crop_mode: str = "center"
) -> ModelSpec:
    # Large networks fine-tuned on ImageNet were trained with mean and std 0.5.
    statistics = _HALF if size == "large" and num_classes == 1000 else _CLIP
    mlp = "quick_gelu" if kind == "clip_quickgelu" else "gelu"
    size = "base_plus" if kind == "plus_clip" else size
    options: dict[str, Any] = dict(num_classes=num_classes, pre_norm=True, epsilon=1e-5, mlp=mlp)
    return _spec(size, patch_size, image_size, statistics, crop_pct, crop_mode, **options)


def _siglip(size: str, patch_size: int, image_size: int, mlp: str, average: bool) -> ModelSpec:
    pool = "average" if average else "attention"
    crop_pct = 1.0 if average and patch_size == 14 and image_size >= 384 else 0.9
    options: dict[str, Any] = dict(num_classes=0, class_token="absent", pool=pool, mlp=mlp)
    if image_size % patch_size:
        options["crop_border"] = True
    return _spec(size, patch_size, image_size, _HALF, crop_pct, **options)


def _gap(size: str, patch_size: int, image_size: int, statistics: Any, crop_pct: float, **options: Any) -> ModelSpec:
    options = {"class_token": "absent", "pool": "average", **options}
    return _spec(size, patch_size, image_size, statistics, crop_pct, **options)


_CLIP_ROWS: list[tuple[Any, ...]] = [
    # size, patch, kind, image, classes, crop
    ("xsmall", 16, "clip", 224, 512, 0.9),
    ("medium", 32, "clip", 224, 512, 0.9),
    ("medium", 16, "clip", 224, 512, 0.9),
    ("betwixt", 32, "clip", 224, 512, 0.9),
    ("base", 32, "clip", 224, 1000, 0.9),
    ("base", 32, "clip", 256, 512, 1.0),
    ("base", 32, "clip", 384, 1000, 1.0),
    ("base", 32, "clip", 448, 1000, 1.0),
    ("base", 16, "clip", 224, 1000, 0.95),
    ("base", 16, "clip", 384, 1000, 1.0, "squash"),
    ("base", 16, "plus_clip", 240, 640, 1.0),
    ("large", 14, "clip", 224, 1000, 1.0),
    ("large", 14, "clip", 336, 1000, 1.0, "squash"),
    ("huge", 14, "clip", 224, 1000, 1.0),
    ("huge", 14, "clip", 336, 1000, 1.0, "squash"),
    ("huge", 14, "clip", 378, 1024, 1.0),
    ("giant", 14, "clip", 224, 1024, 1.0),
    ("gigantic", 14, "clip", 224, 1280, 1.0),
    ("gigantic", 14, "clip", 378, 1280, 1.0, "squash"),
    ("base", 32, "clip_quickgelu", 224, 512, 0.9),
    ("base", 16, "clip_quickgelu", 224, 512, 1.0),
    ("large", 14, "clip_quickgelu", 224, 768, 1.0),
    ("large", 14, "clip_quickgelu", 336, 768, 1.0),
    ("huge", 14, "clip_quickgelu", 224, 1024, 1.0),
    ("huge", 14, "clip_quickgelu", 378, 1024, 1.0),
    ("gigantic", 14, "clip_quickgelu", 224, 1280, 1.0),
]
_SIGLIP_ROWS = [
    # size, patch, images, MLP
    ("base", 32, (256,), "gelu_tanh"),
    ("base", 16, (224, 256, 384, 512), "gelu"),
    ("large", 16, (256, 384), "gelu"),
    ("large", 16, (512,), "gelu_tanh"),
    ("so400m", 14, (224, 378, 384), "gelu"),
    ("so400m", 16, (256, 384, 512), "gelu_tanh"),
    ("giantopt", 16, (256, 384), "gelu_tanh"),
]
_REGISTER_ROWS = [
    # size, registers, image, crop, LayerScale
    ("wee", 1, 256, 0.95, 1e-5),
    ("little", 1, 256, 0.95, 1e-5),
    ("little", 4, 256, 0.95, 1e-5),
    ("medium", 1, 256, 0.95, 1e-5),
    ("medium", 4, 256, 0.95, 1e-5),
    ("mediumd", 4, 256, 0.95, 1e-5),
    ("mediumd", 4, 384, 1.0, 1e-5),
    ("betwixt", 1, 256, 0.95, 1e-5),
    ("betwixt", 4, 256, 0.95, 1e-5),
    ("betwixt", 4, 384, 1.0, 1e-5),
    ("base", 4, 256, 0.9, None),
]

MODELS = {
    **{
        f"deit3_{size}_patch{patch_size}_{image_size}": _deit3(size, patch_size, image_size)
        for size, patch_size, image_sizes in [
            ("small", 16, (224, 384)),
            ("medium", 16, (224,)),
            ("base", 16, (224, 384)),
            ("large", 16, (224, 384)),
            ("huge", 14, (224,)),
        ]
        for image_size in image_sizes
    },
    **{
        f"vit_{size}_patch14{registers}_dinov2": _dinov2(size, 4 if registers else 0)
        for size in ("small", "base", "large", "giant")
        for registers in ("", "_reg4")
    },
    **{f"vit_{row[0]}_patch{row[1]}_{row[2]}_{row[3]}": _clip(*row) for row in _CLIP_ROWS},
    **{
        f"vit_{size}_patch{patch_size}_siglip{gap}_{image_size}": _siglip(size, patch_size, image_size, mlp, bool(gap))
        for size, patch_size, image_sizes, mlp in _SIGLIP_ROWS
        for image_size in image_sizes
        for gap in ("", "_gap")
    },
    "vit_so400m_patch14_siglip_gap_448": _siglip("so400m", 14, 448, "gelu", True),
    "vit_so400m_patch14_siglip_gap_896": _siglip("so400m", 14, 896, "gelu", True),
    # I-JEPA's, and timm's small networks trained from scratch.
    "vit_base_patch16_gap_224": _gap("base", 16, 224, _HALF, 0.9, num_heads=16),
    "vit_huge_patch14_gap_224": _gap("huge", 14, 224, _IMAGENET, 0.9, num_classes=0),
    "vit_huge_patch16_gap_448": _gap("huge", 16, 448, _IMAGENET, 1.0, num_classes=0),
    "vit_giant_patch16_gap_224": _gap("giant", 16, 224, _IMAGENET, 0.9, num_classes=0),
    **{
        f"vit_{size}_patch16_reg{num_registers}_gap_{image_size}": _gap(
            size, 16, image_size, _HALF, crop, num_registers=num_registers, layer_scale=scale, fc_norm=True
        )
        for size, num_registers, image_size, crop, scale in _REGISTER_ROWS
    },
}
