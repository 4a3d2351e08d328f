"""A small model of every family, with weights that make its attention uneven."""

from __future__ import annotations

import paddle
from paddle import nn

from paddlevit.models.deit import DataEfficientTransformer, DistilledVisualTransformer
from paddlevit.models.explained import T2T_ViT, ViT_Model
from paddlevit.models.foundation import FoundationTransformer
from paddlevit.models.swin import SwinTransformer
from paddlevit.models.swin_v2 import SwinTransformerV2
from paddlevit.models.t2t_vit import T2TViT
from paddlevit.models.vit import VisualTransformer
from tests.models.checks import fill_by_name, pictures

PLAIN = dict(image_size=(32, 48), patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=5)
STAGES = dict(embed_dim=24, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5)
SPLITS = dict(image_size=(32, 48), embed_dim=32, depth=2, num_heads=4, token_dim=16, num_classes=5)
ARTICLE = dict(image_size=(60, 100), embed_dim=32, depth=2, num_heads=4, num_classes=5)

# Name: what builds it, rows and columns of its last tokens, tokens before them.
FAMILIES = {
    "vit": (lambda: VisualTransformer(**PLAIN), (4, 6), 1),
    "vit average": (lambda: VisualTransformer(pool="average", **PLAIN), (4, 6), 0),
    "vit post-norm": (lambda: VisualTransformer(norm_order="post", **PLAIN), (4, 6), 1),
    "vit concatenated": (lambda: VisualTransformer(position="sinusoidal", position_merge="concat", **PLAIN), (4, 6), 1),
    "deit": (lambda: DataEfficientTransformer(**PLAIN), (4, 6), 1),
    "deit distilled": (lambda: DistilledVisualTransformer(**PLAIN), (4, 6), 2),
    "deit 3": (lambda: FoundationTransformer(class_token="plain", layer_scale=1e-4, **PLAIN), (4, 6), 1),
    "registers": (lambda: FoundationTransformer(num_registers=3, mlp="swiglu", **PLAIN), (4, 6), 4),
    "clip": (lambda: FoundationTransformer(pre_norm=True, mlp="quick_gelu", **PLAIN), (4, 6), 1),
    "siglip": (lambda: FoundationTransformer(class_token="absent", pool="attention", **PLAIN), (4, 6), 0),
    "siglip registers": (
        lambda: FoundationTransformer(class_token="absent", num_registers=2, pool="attention", **PLAIN),
        (4, 6),
        2,
    ),
    "mae": (lambda: FoundationTransformer(pool="average", fc_norm=True, **PLAIN), (4, 6), 1),
    "swin": (lambda: SwinTransformer((32, 64), **STAGES), (4, 8), 0),
    "swin padded": (lambda: SwinTransformer((36, 52), **STAGES), (5, 7), 0),
    "swin v2": (lambda: SwinTransformerV2((32, 64), **STAGES), (4, 8), 0),
    "t2t performer": (lambda: T2TViT(**SPLITS), (2, 3), 1),
    "t2t transformer": (lambda: T2TViT(token_type="transformer", **SPLITS), (2, 3), 1),
    "article": (lambda: ViT_Model(**ARTICLE), (3, 5), 1),
    "article t2t": (lambda: T2T_ViT(softsplit_kernels=(7, 3, 3), **ARTICLE), (4, 7), 1),
}
SIZES = {"swin": (32, 64), "swin v2": (32, 64), "swin padded": (36, 52), "article": (60, 100), "article t2t": (60, 100)}


def build(name: str) -> nn.Layer:
    """The family's model, filled by name and in training mode."""
    model = FAMILIES[name][0]()
    fill_by_name(model)
    return model


def batch(name: str, count: int = 2) -> paddle.Tensor:
    """Pictures for it."""
    return pictures(count, SIZES.get(name, (32, 48)), channels=1 if name.startswith("article") else 3)
