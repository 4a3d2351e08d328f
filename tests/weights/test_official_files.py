"""Files as their authors publish them, with all that lies beside the weights: same logits as the golden reference."""

from __future__ import annotations

import argparse
import re

import numpy as np
import pytest

from paddlevit.models import create_model
from paddlevit.models.foundation import FoundationTransformer
from paddlevit.weights import load_weights
from tests.golden.fill import fill
from tests.golden.making import values as golden_state
from tests.weights.files import golden, write
from tests.weights.test_golden_files import logits

BUFFERS = "a buffer that is computed here"


def check(model, file, meta, expected, **options):
    """Load and compare with the golden logits; returns the report."""
    report = load_weights(model, file, **options)
    ours = logits(model, meta)
    assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)
    return report


def microsoft(state: dict) -> dict:
    """timm's Swin state under Microsoft's names, with the buffers of that code."""
    renamed = {}
    for name, array in state.items():
        name = re.sub(r"layers\.(\d)\.downsample", lambda at: f"layers.{int(at[1]) - 1}.downsample", name)
        renamed[name.replace("head.fc.", "head.")] = array
    for stage, depth in enumerate((2, 2, 6, 2)):
        for block in range(depth):
            prefix = f"layers.{stage}.blocks.{block}."
            renamed[prefix + "attn.relative_position_index"] = np.zeros((49, 49), np.int64)
            if block % 2 and stage < 3:
                windows = (8 // 2**stage) ** 2
                renamed[prefix + "attn_mask"] = np.zeros((windows, 49, 49), np.float32)
    return renamed


def in_paddle_layout(state: dict) -> dict:
    """Linear weights as Paddle keeps them."""
    linear = re.compile(r"(qkv|proj|fc1|fc2|head|head_dist|reduction)\.weight$")
    return {name: array.T if linear.search(name) and array.ndim == 2 else array for name, array in state.items()}


def test_microsoft_swin(tmp_path):
    meta, expected = golden("swin_tiny_patch4_window7_224")
    state = microsoft(golden_state(meta))
    assert len(state) == 173 + 12 + 5  # parameters, indices, masks
    file = write(tmp_path / "swin_tiny_patch4_window7_224.pth", {"model": state})
    report = check(create_model(meta["model"]), file, meta, expected)
    assert report.dialect == "Microsoft Swin"
    assert report.notes == ["took 'model'"]
    assert set(report.left_out) == {name for name in state if "index" in name or "mask" in name}
    assert set(report.left_out.values()) == {BUFFERS}


def test_paddleclas_swin(tmp_path):
    meta, expected = golden("swin_tiny_patch4_window7_224")
    state = {name: array for name, array in microsoft(golden_state(meta)).items() if "attn_mask" not in name}
    assert len(state) == 185
    file = write(tmp_path / "SwinTransformer_tiny_patch4_window7_224.pdparams", in_paddle_layout(state))
    assert len(check(create_model(meta["model"]), file, meta, expected).left_out) == 12


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vit_tiny_patch16_224", 152),
        ("deit_tiny_distilled_patch16_224", 155),
        pytest.param("vit_base_patch16_224", 152, marks=pytest.mark.slow),
    ],
)
def test_paddleclas_vit_and_deit(name, count, tmp_path):
    meta, expected = golden(name)
    assert len(meta["state"]) == count
    file = write(tmp_path / "ViT.pdparams", in_paddle_layout(golden_state(meta)))
    report = check(create_model(meta["model"]), file, meta, expected)
    assert report.dialect == "timm"
    assert not report.left_out


def test_official_deit(tmp_path):
    meta, expected = golden("deit_tiny_distilled_patch16_224")
    file = write(tmp_path / "deit_tiny_distilled_patch16_224-b40b3cf7.pth", {"model": golden_state(meta)})
    check(create_model(meta["model"]), file, meta, expected)


def test_official_deit3(tmp_path):
    meta, expected = golden("deit3_small_patch16_224")
    state = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", name): array for name, array in golden_state(meta).items()}
    report = check(create_model(meta["model"]), write(tmp_path / "deit_3.pth", {"model": state}), meta, expected)
    assert report.dialect == "DeiT III"


def test_official_mae(tmp_path):
    """The pre-training file of MAE: no classifier, a mask token, and a decoder of 8 layers and width 512."""
    meta, _ = golden("vit_tiny_patch16_224")
    encoder = {name: array for name, array in golden_state(meta).items() if not name.startswith("head.")}
    shapes = {"mask_token": [1, 1, 512], "decoder_pos_embed": [1, 197, 512], "decoder_embed.weight": [512, 192]}
    shapes.update({"decoder_embed.bias": [512], "decoder_norm.weight": [512], "decoder_norm.bias": [512]})
    shapes.update({"decoder_pred.weight": [768, 512], "decoder_pred.bias": [768]})
    layer = {"norm1": 512, "attn.qkv": 1536, "attn.proj": 512, "norm2": 512, "mlp.fc1": 2048}
    for i in range(8):
        shapes.update({f"decoder_blocks.{i}.{name}.bias": [width] for name, width in layer.items()})
    decoder = {name: fill(name, shape) for name, shape in shapes.items()}
    file = write(tmp_path / "mae_pretrain_vit.pth", {"model": {**encoder, **decoder}})

    plain, ours = (create_model(meta["model"], num_classes=0) for _ in range(2))
    load_weights(plain, encoder)
    report = load_weights(ours, file)
    assert set(report.left_out) == set(decoder)
    assert (logits(plain, meta) == logits(ours, meta)).all()

    report = load_weights(create_model(meta["model"]), file)
    assert set(report.missing) == {"classifier.weight", "classifier.bias"}
    assert "the file has no classifier; a new one is in place" in str(report)


def test_official_dino(tmp_path):
    """A whole DINO checkpoint: student and teacher under a backbone, each with a projection head."""
    meta, _ = golden("vit_tiny_patch16_224")
    backbone = {name: array for name, array in golden_state(meta).items() if not name.startswith("head.")}
    head = {f"head.mlp.{i}.weight": fill(f"mlp{i}", [8, 8]) for i in (0, 2, 4)}
    head.update({"head.last_layer.weight_g": fill("g", [16, 1]), "head.last_layer.weight_v": fill("v", [16, 8])})
    wrong = {name: array + 1 for name, array in backbone.items()}
    checkpoint = {
        "student": {"module.backbone." + name: array for name, array in wrong.items()}
        | {f"module.{k}": head[k] for k in head},
        "teacher": {"backbone." + name: array for name, array in backbone.items()} | head,
        "optimizer": {"state": {0: {"step": 3, "exp_avg": fill("avg", [4])}}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
        "dino_loss": {"center": fill("center", [1, 16])},
    }
    file = write(tmp_path / "dino_checkpoint.pth", checkpoint)
    plain, ours = (create_model(meta["model"], num_classes=0) for _ in range(2))
    load_weights(plain, backbone)
    report = load_weights(ours, file)
    assert report.notes == ["took 'teacher', not 'student'", "names without their prefix 'backbone.'"]
    assert set(report.left_out) == set(head)
    assert (logits(plain, meta) == logits(ours, meta)).all()

    load_weights(ours, file, ema=False)
    assert (ours.state_dict()["encoder.norm.weight"].numpy() == wrong["norm.weight"]).all()


def test_official_dinov2_with_registers(tmp_path):
    """The official file gives the class token a position; our network, as timm's, has it in the token."""
    meta, expected = golden("vit_small_patch14_reg4_dinov2-img_size=224")
    state = golden_state(meta)
    position = fill("class position", [1, 1, 384])
    official = {name: array for name, array in state.items() if name not in ("reg_token", "cls_token", "pos_embed")}
    official["register_tokens"] = state["reg_token"]
    official["cls_token"] = state["cls_token"] - position
    official["pos_embed"] = np.concatenate([position, state["pos_embed"]], axis=1)
    official["mask_token"] = fill("mask", [1, 384])
    file = write(tmp_path / "dinov2_vits14_reg4_pretrain.pth", official)
    report = check(create_model(meta["model"], image_size=224), file, meta, expected)
    assert report.adapted["patch_embedding.class_token"] == "its position added, as the model gives it none"
    assert report.left_out == {"mask_token": "used only in masked pre-training"}


def test_dinov2_in_chunks(tmp_path):
    """Files of DINOv2's training keep their blocks in chunks: blocks.0.3.norm1."""
    meta, expected = golden("vit_small_patch14_dinov2-img_size=224")
    state = {
        re.sub(r"^blocks\.(\d+)", lambda at: f"blocks.{int(at[1]) // 4}.{at[1]}", name): array
        for name, array in golden_state(meta).items()
    }
    check(create_model(meta["model"], image_size=224), write(tmp_path / "chunks.pth", state), meta, expected)


# PaddleViT


def test_paddlevit_swin_with_its_buffers(tmp_path):
    meta, expected = golden("paddlevit-swin_tiny")
    state = golden_state(meta)
    buffers = {f"stages.{i}.blocks.0.attn.relative_position_index": np.zeros((49, 49), np.int64) for i in range(4)}
    buffers.update({f"stages.{i}.blocks.1.attn_mask": np.zeros((4, 49, 49), np.float32) for i in range(3)})
    file = write(tmp_path / "swin.pdparams", {**state, **buffers})
    report = check(create_model(meta["model"]), file, meta, expected)
    assert report.left_out == dict.fromkeys(buffers, BUFFERS)


def test_paddlevit_mae(tmp_path):
    """The network that PaddleViT fine-tunes keeps its class token beside the patches."""
    meta, expected = golden("paddlevit-vit_tiny_patch16_224")
    state = {
        f"patch_embedding.{name}" if name in ("cls_token", "position_embedding") else name: array
        for name, array in golden_state(meta).items()
    }
    report = check(create_model(meta["model"]), write(tmp_path / "mae.pdparams", state), meta, expected)
    assert report.dialect == "PaddleViT"
    assert not report.left_out


def _short(match: re.Match) -> str:
    return {"attention": "attn", "project": "proj"}[match[0]]


def test_paddlevit_t2t(tmp_path):
    """PaddleViT keeps the token module under patch_embed, linear weights as Paddle, and the performer's w as it is."""
    meta, expected = golden("t2t_vit_7")
    linear = re.compile(r"(qkv|proj|project|kqv|fc1|fc2|mlp\.\d|head)\.weight$")
    state = {}
    for name, array in golden_state(meta).items():
        renamed = name.replace("tokens_to_token.attention", "patch_embed.attn").replace(
            "tokens_to_token.", "patch_embed."
        )
        state[renamed.replace("project", "proj")] = array.T if linear.search(name) else array
    report = check(create_model(meta["model"]), write(tmp_path / "t2t_vit_7.pdparams", state), meta, expected)
    assert report.dialect == "PaddleViT"


# Hugging Face, as saved on disk

ON_DISK = [
    (r"^((?:vit|deit)\.)?layers\.", r"\1encoder.layer."),
    (r"\.attention\.(q|k|v)_proj\.", lambda at: f".attention.attention.{dict(q='query', k='key', v='value')[at[1]]}."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
]


def on_disk(name: str) -> str:
    """transformers saves ViT, DeiT and Swin under older names than it uses in memory."""
    dinov2 = name.startswith(("encoder.layer.", "embeddings.", "layernorm."))
    for pattern, replacement in ON_DISK[1:3] if dinov2 else ON_DISK:
        name = re.sub(pattern, replacement, name)
    if name.startswith("swin."):
        name = name.replace(".attention.attention.", ".attention.self.")
        name = name.replace(".attention.relative_position_bias.", ".attention.self.")
    return name


@pytest.mark.parametrize(
    "name", ["hf-vit_tiny_patch16_224", "hf-deit_tiny_distilled_patch16_224", "hf-swin_tiny_patch4_window7_224"]
)
def test_hugging_face_on_disk(name, tmp_path):
    meta, expected = golden(name)
    state = {on_disk(name): array for name, array in golden_state(meta).items()}
    assert not any("q_proj" in name for name in state)
    state["vit.pooler.dense.weight"] = fill("pooler", [4, 4])
    report = check(create_model(meta["model"]), write(tmp_path / "pytorch_model.bin", state), meta, expected)
    assert set(report.left_out) == {"vit.pooler.dense.weight"}


# big_vision


def big_vision(state: dict) -> dict:
    """The state of google-research/vision_transformer as big_vision names it."""
    renamed = {}
    for name, array in state.items():
        name = name.replace("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0")
        name = name.replace("LayerNorm_2", "LayerNorm_1").replace("MlpBlock_3", "MlpBlock_0")
        renamed["params/" + name.replace("Transformer/posembed_input/", "")] = array
    return renamed


def stacked(state: dict) -> dict:
    """The layers of a network that was run by a scan: one tensor for all of them."""
    joined, layers = {}, {}
    for name, array in state.items():
        match = re.match(r"(.*encoderblock)_(\d+)(/.*)", name)
        if match:
            layers.setdefault(match[1] + match[3], {})[int(match[2])] = array
        else:
            joined[name] = array
    return joined | {name: np.stack([parts[i] for i in range(len(parts))]) for name, parts in layers.items()}


@pytest.mark.parametrize("form", [dict, stacked])
def test_big_vision(form, tmp_path):
    meta, expected = golden("jax-vit_tiny_patch16_224")
    state = form(big_vision(golden_state(meta)))
    state["opt/step"] = np.array(3)
    report = check(create_model(meta["model"]), write(tmp_path / "big_vision.npz", state), meta, expected)
    assert report.dialect == "JAX big_vision"
    assert "names without their prefix 'params/'" in report.notes


def test_jax_optimizer_state_and_pre_logits(tmp_path):
    """Older files keep the network under opt/target/ and may have a layer before the classifier."""
    meta, _ = golden("jax-vit_tiny_patch16_224")
    state = {"opt/target/" + name: array for name, array in golden_state(meta).items()}
    state["opt/target/pre_logits/kernel"] = fill("pre", [192, 192])
    state["opt/state/step"] = np.array(7)
    file = write(tmp_path / "imagenet21k.npz", state)
    with pytest.raises(ValueError, match="Nothing in the model is called opt/target/pre_logits/kernel"):
        load_weights(create_model(meta["model"]), file)
    report = load_weights(create_model(meta["model"], num_classes=0), file)
    assert report.left_out["opt/target/pre_logits/kernel"] == "the layer before the classifier of pre-training"
    assert report.left_out["opt/target/head/kernel"] == "the model has no classifier"


def siglip_in_jax(ours: dict) -> dict:
    """A toy SigLIP of width 64 with 4 heads as big_vision keeps it: heads apart, the picture's tower under img."""
    q, k, v = np.split(ours["encoder.layers.0.attn.qkv.weight"], 3, axis=1)
    bq, bk, bv = np.split(ours["encoder.layers.0.attn.qkv.bias"], 3)
    block, pool = "params/img/Transformer/encoderblock_0/", "params/img/MAPHead_0/"
    attention = "MultiHeadDotProductAttention_0/"
    pk, pv = np.split(ours["attention_pool.kv.weight"], 2, axis=1)
    pbk, pbv = np.split(ours["attention_pool.kv.bias"], 2)
    jax = {
        "params/img/embedding/kernel": ours["patch_embedding.patch_embedding.weight"].transpose(2, 3, 1, 0),
        "params/img/embedding/bias": ours["patch_embedding.patch_embedding.bias"],
        "params/img/pos_embedding": ours["patch_embedding.position_embedding"],
        "params/img/Transformer/encoder_norm/scale": ours["encoder.norm.weight"],
        "params/img/Transformer/encoder_norm/bias": ours["encoder.norm.bias"],
        "params/img/head/kernel": ours["classifier.weight"],
        "params/img/head/bias": ours["classifier.bias"],
        pool + "probe": ours["attention_pool.latent"],
        "params/txt/head/kernel": fill("text", [4, 4]),
        "params/t": fill("t", [1]),
    }
    for name, number in (("attn_norm", 0), ("mlp_norm", 1)):
        jax[f"{block}LayerNorm_{number}/scale"] = ours[f"encoder.layers.0.{name}.weight"]
        jax[f"{block}LayerNorm_{number}/bias"] = ours[f"encoder.layers.0.{name}.bias"]
    jax[pool + "LayerNorm_0/scale"], jax[pool + "LayerNorm_0/bias"] = (
        ours["attention_pool.norm.weight"],
        ours["attention_pool.norm.bias"],
    )
    rows = [(block, "query", q, bq), (block, "key", k, bk), (block, "value", v, bv)]
    rows += [(pool, "query", ours["attention_pool.q.weight"], ours["attention_pool.q.bias"])]
    rows += [(pool, "key", pk, pbk), (pool, "value", pv, pbv)]
    for prefix, name, kernel, bias in rows:
        jax[f"{prefix}{attention}{name}/kernel"] = kernel.reshape(64, 4, 16)
        jax[f"{prefix}{attention}{name}/bias"] = bias.reshape(4, 16)
    for prefix, name in ((block, "encoder.layers.0.attn.proj"), (pool, "attention_pool.proj")):
        jax[f"{prefix}{attention}out/kernel"] = ours[f"{name}.weight"].reshape(4, 16, 64)
        jax[f"{prefix}{attention}out/bias"] = ours[f"{name}.bias"]
    for prefix, name in ((block, "encoder.layers.0.mlp"), (pool, "attention_pool.mlp")):
        for number in (0, 1):
            jax[f"{prefix}MlpBlock_0/Dense_{number}/kernel"] = ours[f"{name}.fc{number + 1}.weight"]
            jax[f"{prefix}MlpBlock_0/Dense_{number}/bias"] = ours[f"{name}.fc{number + 1}.bias"]
    return jax


def test_attention_pool_of_big_vision():
    """Every tensor of a SigLIP comes back from big_vision's form; the text tower is left out."""
    sizes = dict(image_size=32, patch_size=16, embed_dim=64, depth=1, num_heads=4, num_classes=5)
    first, second = (FoundationTransformer(class_token="absent", pool="attention", **sizes) for _ in range(2))
    ours = {name: tensor.numpy() for name, tensor in first.state_dict().items()}
    report = load_weights(second, siglip_in_jax(ours))
    assert set(report.left_out.values()) == {"the text tower", "of the contrastive loss"}
    for name, tensor in second.state_dict().items():
        assert (tensor.numpy() == ours[name]).all(), name
