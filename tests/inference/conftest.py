"""Small networks of every family with telling weights, and one export, made once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevit.inference import export_model
from paddlevit.models import create_model
from tests.golden.fill import fill

CLASS_NAMES = ["ant", "bee", "cat", "dog", "elk"]
_PLAIN = {"image_size": 32, "num_classes": 5, "embed_dim": 32, "depth": 2, "num_heads": 2}
_PATCHES = {**_PLAIN, "patch_size": 8}
_SWIN = {"image_size": 32, "num_classes": 5, "embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}

# One of every kind that `simplify` treats in its own way.
FAMILIES: dict[str, tuple[str, dict]] = {
    "vit": ("vit_tiny_patch16_224", _PATCHES),
    "vit, average": ("vit_tiny_patch16_224", {**_PATCHES, "pool": "average"}),
    "vit, batch norm": ("vit_tiny_patch16_224", {**_PATCHES, "norm": "batch"}),
    "vit, post-norm": ("vit_tiny_patch16_224", {**_PATCHES, "norm": "batch", "norm_order": "post"}),
    "vit, sines": ("vit_tiny_patch16_224", {**_PATCHES, "position": "sinusoidal", "position_merge": "concat"}),
    "vit, no positions": ("vit_tiny_patch16_224", {**_PATCHES, "position": "none", "qkv_bias": False}),
    "distilled": ("deit_tiny_distilled_patch16_224", _PATCHES),
    "deit3": ("deit3_small_patch16_224", _PATCHES),
    "clip": ("vit_base_patch32_clip_224", _PATCHES),
    "dinov2": ("vit_small_patch14_reg4_dinov2", _PATCHES),
    "siglip": ("vit_base_patch16_siglip_224", _PATCHES),
    "registers, average": ("vit_wee_patch16_reg1_gap_256", _PATCHES),
    "swin": ("swin_tiny_patch4_window7_224", _SWIN),
    "swin, padded": ("swin_tiny_patch4_window7_224", {**_SWIN, "image_size": 44}),
    "swin v2": ("swinv2_tiny_window8_256", _SWIN),
    "t2t": ("t2t_vit_7", {**_PLAIN, "image_size": 48}),
    "t2t, transformer": ("t2t_vit_t_14", {**_PLAIN, "image_size": 48}),
    "explained": ("explained_vit", {**_PLAIN, "image_size": (20, 40)}),
    "explained, t2t": ("explained_t2t_vit", {**_PLAIN, "image_size": (40, 48), "softsplit_kernels": [7, 3, 3]}),
}


def build(family: str, **options) -> nn.Layer:
    """The small network of a family, in eval mode, every parameter and statistic of which matters to its answers."""
    name, small = FAMILIES[family]
    network = create_model(name, **{**small, **options})
    refill(network)
    return network


def refill(network: nn.Layer) -> None:
    """Give every parameter and buffer the value that belongs to its name."""
    state = network.state_dict()
    values = {name: fill(name, tuple(old.shape)) for name, old in state.items()}
    values.update({name: np.abs(value) + 0.5 for name, value in values.items() if name.endswith("_variance")})
    network.set_state_dict({name: paddle.to_tensor(value) for name, value in values.items()})
    network.eval()


def run(function: Callable, *arrays: np.ndarray) -> np.ndarray:
    """A layer's answer to NumPy arrays, without gradients."""
    with paddle.no_grad():
        return function(*(paddle.to_tensor(array) for array in arrays)).numpy()


def relative(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference over the largest value."""
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


@pytest.fixture(scope="session")
def toy():
    network = build("vit")
    network.class_names = CLASS_NAMES
    return network


@pytest.fixture(scope="session")
def exported(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "toy"
    export_model(toy, folder)
    return folder
