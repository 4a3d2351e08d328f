"""The golden files of timm, Hugging Face, JAX, PaddleViT and T2T-ViT, written as real files and read by the loader."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit.models import create_model
from paddlevit.weights import load_weights
from tests.golden.fill import image
from tests.golden.making import values as golden_state
from tests.weights.files import golden, write

WORDS = {"img_size": "image_size", "num_classes": "num_classes"}
FILES = [
    ("vit_tiny_patch16_224", ".safetensors", "timm"),
    ("vit_tiny_patch16_224-img_size=96x160-num_classes=10", ".safetensors", "timm"),
    ("vit_small_patch32_224", ".pth", "timm"),
    ("vit_base_patch16_224", ".safetensors", "timm"),
    ("vit_base_patch32_clip_224", ".safetensors", "timm"),
    ("vit_base_patch16_siglip_224", ".safetensors", "timm"),
    ("vit_small_patch14_dinov2-img_size=224", ".safetensors", "timm"),
    ("vit_small_patch14_reg4_dinov2-img_size=224", ".safetensors", "timm"),
    ("deit_small_patch16_224", ".pth", "timm"),
    ("deit_tiny_distilled_patch16_224", ".safetensors", "timm"),
    ("deit3_small_patch16_224", ".safetensors", "timm"),
    ("swin_tiny_patch4_window7_224", ".safetensors", "timm"),
    ("swinv2_tiny_window8_256", ".safetensors", "timm"),
    ("t2t_vit_7", ".pth", "official T2T-ViT"),
    ("t2t_vit_t_14", ".pth", "official T2T-ViT"),
    ("hf-vit_tiny_patch16_224", ".safetensors", "Hugging Face ViT"),
    ("hf-deit_tiny_distilled_patch16_224", ".safetensors", "Hugging Face DeiT"),
    ("hf-swin_tiny_patch4_window7_224", ".safetensors", "Hugging Face Swin"),
    ("hf-vit_small_patch14_dinov2", ".bin", "Hugging Face DINOv2"),
    ("jax-vit_tiny_patch16_224", ".npz", "JAX vision_transformer"),
    ("paddlevit-vit_tiny_patch16_224", ".pdparams", "PaddleViT"),
    ("paddlevit-swin_tiny", ".pdparams", "PaddleViT"),
]


def logits(model: paddle.nn.Layer, meta: dict) -> np.ndarray:
    model.eval()
    with paddle.no_grad():
        return model(paddle.to_tensor(image(meta["input"]))).numpy()


SLOW = ("vit_base", "hf-vit_small_patch14_dinov2")


def cases() -> list:
    """One test per file; what takes more than ten seconds is marked."""
    return [pytest.param(*row, id=row[0], marks=[pytest.mark.slow] if row[0].startswith(SLOW) else []) for row in FILES]


@pytest.mark.parametrize(("name", "suffix", "dialect"), cases())
def test_logits_equal_the_reference(name, suffix, dialect, tmp_path):
    meta, expected = golden(name)
    file = write(tmp_path / f"weights{suffix}", golden_state(meta))
    model = create_model(meta["model"], **{WORDS[key]: value for key, value in meta["kwargs"].items()})
    report = load_weights(model, file)

    assert report.dialect == dialect
    assert not report.adapted
    assert set(report.missing) <= {"pos_embed"}  # T2T's fixed sinusoid
    assert set(report.left_out) <= {"embeddings.mask_token"}
    assert set(report.loaded) | set(report.missing) == set(model.state_dict())
    ours = logits(model, meta)
    assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)
