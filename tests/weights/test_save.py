"""Out again: every tensor bit for bit, under exactly the names that timm and transformers use."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors import safe_open

from paddlevit.models import create_model
from paddlevit.models.deit import DistilledVisualTransformer
from paddlevit.models.foundation import FoundationTransformer
from paddlevit.models.swin import SwinTransformer
from paddlevit.models.swin_v2 import SwinTransformerV2
from paddlevit.models.t2t_vit import T2TViT
from paddlevit.models.vit import VisualTransformer
from paddlevit.weights import convert, load_weights, save_weights
from paddlevit.weights.readers import open_weights
from tests.golden.fill import fill
from tests.golden.making import values as golden_state
from tests.tools import call, one_line
from tests.weights.files import golden, write
from tests.weights.test_load import build, fresh, values
from tests.weights.test_official_files import on_disk


def read(path) -> dict[str, np.ndarray]:
    return {name: array.read() for name, array in open_weights(path).tree.items()}


def equal(ours: dict, expected: dict) -> None:
    assert set(ours) == set(expected)
    for name, array in expected.items():
        assert ours[name].dtype == array.dtype, name
        assert ours[name].shape == array.shape, name
        assert ours[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


ROUND_TRIPS = [
    ("vit_tiny_patch16_224", "timm"),
    ("deit_tiny_distilled_patch16_224", "timm"),
    ("deit3_small_patch16_224", "timm"),
    ("vit_small_patch14_reg4_dinov2-img_size=224", "timm"),
    ("swin_tiny_patch4_window7_224", "timm"),
    ("swinv2_tiny_window8_256", "timm"),
    ("hf-vit_tiny_patch16_224", "hf"),
    ("hf-deit_tiny_distilled_patch16_224", "hf"),
    ("hf-vit_small_patch14_dinov2", "hf"),
    ("hf-swin_tiny_patch4_window7_224", "hf"),
]


@pytest.mark.parametrize("through", ["files", "model"])
@pytest.mark.parametrize(("name", "to"), ROUND_TRIPS, ids=[name for name, _ in ROUND_TRIPS])
def test_round_trip(name, to, through, tmp_path):
    """timm -> ours -> timm and HF -> ours -> HF, from file to file and through a network."""
    meta, _ = golden(name)
    state = golden_state(meta)
    if to == "hf":
        state = {on_disk(name): array for name, array in state.items()}
    source = write(tmp_path / "source.safetensors", state)
    if "embeddings.mask_token" in state:  # used only in pre-training: transformers gets the zeros it starts from
        state["embeddings.mask_token"] = np.zeros((1, 384), np.float32)
    if through == "files":
        convert(source, tmp_path / "ours.pdparams", "paddlevit")
        report = convert(tmp_path / "ours.pdparams", tmp_path / "back.safetensors", to)
        assert set(report.loaded) == set(state)
    else:
        options = {"image_size": 224} if "img_size" in meta["kwargs"] else {}
        model = create_model(meta["model"], **options)
        load_weights(model, source)
        save_weights(model, tmp_path / "back.safetensors", to)
    equal(read(tmp_path / "back.safetensors"), state)
    with safe_open(tmp_path / "back.safetensors", "np") as file:  # by the format's own reader
        assert set(file.keys()) == set(state)
        assert file.metadata() == {"format": "pt"}


NETWORKS = [
    (VisualTransformer, {}),
    (VisualTransformer, {"qkv_bias": False}),
    (DistilledVisualTransformer, {}),
    (FoundationTransformer, {"layer_scale": 0.1, "num_registers": 2, "class_token": "plain"}),
    (FoundationTransformer, {"pre_norm": True}),
    (FoundationTransformer, {"class_token": "absent", "pool": "attention"}),
    (FoundationTransformer, {"class_token": "absent", "pool": "average", "fc_norm": True, "num_registers": 1}),
    (FoundationTransformer, {"mlp": "swiglu", "layer_scale": 0.1, "num_classes": 0}),
    (SwinTransformer, {}),
    (SwinTransformerV2, {}),
]


@pytest.mark.parametrize(
    ("kind", "options"), NETWORKS, ids=[f"{kind.__name__} {options}" for kind, options in NETWORKS]
)
def test_every_network_through_timms_names(kind, options, tmp_path):
    source, model = build(kind, **options), fresh(kind, **options)
    save_weights(source, tmp_path / "out.safetensors", "timm")
    report = load_weights(model, tmp_path / "out.safetensors")
    assert report.dialect == "timm"
    assert not report.adapted
    assert not report.missing
    assert not report.left_out
    equal(values(model), values(source))


HF_NETWORKS = [
    (VisualTransformer, {}, "vit.embeddings.cls_token"),
    (VisualTransformer, {"num_classes": 0}, "embeddings.cls_token"),
    (DistilledVisualTransformer, {}, "deit.embeddings.distillation_token"),
    (FoundationTransformer, {"layer_scale": 0.1, "num_classes": 0}, "encoder.layer.1.layer_scale2.lambda1"),
    (
        FoundationTransformer,
        {"layer_scale": 0.1, "num_classes": 0, "mlp": "swiglu"},
        "encoder.layer.0.mlp.weights_in.weight",
    ),
    (
        FoundationTransformer,
        {"layer_scale": 0.1, "num_classes": 0, "num_registers": 4, "class_token": "plain"},
        "embeddings.register_tokens",
    ),
    (SwinTransformer, {}, "swin.encoder.layers.1.blocks.1.attention.self.relative_position_bias_table"),
    (SwinTransformer, {"num_classes": 0}, "encoder.layers.0.downsample.reduction.weight"),
]


@pytest.mark.parametrize(
    ("kind", "options", "name"), HF_NETWORKS, ids=[f"{kind.__name__} {options}" for kind, options, _ in HF_NETWORKS]
)
def test_networks_through_hugging_faces_names(kind, options, name, tmp_path):
    source, model = build(kind, **options), fresh(kind, **options)
    save_weights(source, tmp_path / "out.safetensors", "hf")
    assert name in read(tmp_path / "out.safetensors")
    load_weights(model, tmp_path / "out.safetensors")
    equal(values(model), values(source))


def test_what_hugging_face_has_no_place_for(tmp_path):
    out = tmp_path / "out.safetensors"
    for kind, options, match in [
        (
            FoundationTransformer,
            {"layer_scale": 0.1},
            r"DINOv2 classifies class token and mean together.*num_classes=0",
        ),
        (VisualTransformer, {"pool": "average"}, "Hugging Face's networks have a class token and this one has none"),
        (FoundationTransformer, {"pre_norm": True}, r"Hugging Face ViT has nothing for pre_norm\.weight"),
        (SwinTransformerV2, {}, "There are no hf names for a Swin Transformer V2; --to paddlevit works"),
    ]:
        with pytest.raises(ValueError, match=match):
            save_weights(build(kind, **options), out, "hf")
    t2t = T2TViT(image_size=32, embed_dim=16, depth=1, num_heads=2, token_dim=8)
    with pytest.raises(ValueError, match="There are no timm names for a T2T-ViT"):
        save_weights(t2t, out, "timm")
    assert list(tmp_path.iterdir()) == []


def test_suffixes_and_targets(tmp_path):
    with pytest.raises(
        ValueError, match=r"the suffix of the output is '\.pth'; it must be one of \.safetensors, \.pdparams"
    ):
        save_weights(build(), tmp_path / "a.pth")
    with pytest.raises(
        ValueError, match=r"the suffix of the output is '\.pdparams'; it must be one of \.safetensors\."
    ):
        save_weights(build(), tmp_path / "a.pdparams", "timm")
    with pytest.raises(ValueError, match="to is 'jax'; it must be one of paddlevit, timm, hf"):
        save_weights(build(), tmp_path / "a.safetensors", "jax")
    for suffix in (".safetensors", ".pdparams"):
        save_weights(build(), tmp_path / f"a{suffix}")
        equal(read(tmp_path / f"a{suffix}"), values(build()))


def test_half_precision_stays(tmp_path):
    """bfloat16 and float16 are written as they came."""
    state = {name: array.astype(np.float16) for name, array in values(build()).items()}
    convert(write(tmp_path / "in.safetensors", state), tmp_path / "half.safetensors", "timm")
    assert {array.stored for array in open_weights(tmp_path / "half.safetensors").tree.values()} == {"float16"}
    model = build()
    model.to(dtype="bfloat16")
    save_weights(model, tmp_path / "brain.safetensors", "timm")
    convert(tmp_path / "brain.safetensors", tmp_path / "again.safetensors", "paddlevit")
    tree = open_weights(tmp_path / "again.safetensors").tree
    assert {array.stored for array in tree.values()} == {"bfloat16"}
    for name, tensor in model.state_dict().items():
        assert (tree[name].read() == tensor.astype("float32").numpy()).all(), name


def test_registers_for_timm_have_no_class_position(tmp_path):
    """A DINOv2 file with registers, converted for timm: the class token's position goes into the token."""
    options = {"layer_scale": 0.1, "num_classes": 0, "num_registers": 4}
    source = values(build(FoundationTransformer, **options))
    save_weights(build(FoundationTransformer, **options), tmp_path / "hf.safetensors", "hf")
    convert(tmp_path / "hf.safetensors", tmp_path / "timm.safetensors", "timm")
    timm, positions = read(tmp_path / "timm.safetensors"), source["patch_embedding.position_embedding"]
    np.testing.assert_array_equal(timm["cls_token"], source["patch_embedding.class_token"] + positions[:, :1])
    np.testing.assert_array_equal(timm["pos_embed"], positions[:, 1:])


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "out.safetensors").write_bytes(b"before")
    model = build()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(model, tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
    assert (tmp_path / "out.safetensors").read_bytes() == b"before"


# tools/convert.py


def test_the_tool_converts_and_says_what_it_left_out(tmp_path):
    state = {**values(build()), "mask_token": fill("mask", [4])}
    source = write(tmp_path / "in.pth", {"model": state, "model_ema": {name: -state[name] for name in state}})
    result = call("convert", source, tmp_path / "out.safetensors", "--to", "timm")
    assert result.code == 0, result.err
    assert result.err == ""
    assert "note      took 'model_ema', not 'model'" in result.out
    assert "left out  mask_token: used only in masked pre-training" in result.out
    assert (read(tmp_path / "out.safetensors")["cls_token"] == -state["patch_embedding.class_token"]).all()
    call("convert", source, tmp_path / "out.safetensors", "--to", "timm", "--raw")
    assert (read(tmp_path / "out.safetensors")["cls_token"] == state["patch_embedding.class_token"]).all()


def test_the_tool_refuses_in_one_line(tmp_path):
    out = tmp_path / "out.safetensors"
    assert "There is no weight file" in one_line(call("convert", tmp_path / "none.pth", out, "--to", "timm"))
    state = {**values(build()), "gate": fill("gate", [3])}
    source = write(tmp_path / "in.safetensors", state)
    message = one_line(call("convert", source, out, "--to", "hf"))
    assert "holds what is no weight of a Vision Transformer: gate. Leave it out by allow_unused." in message
    assert call("convert", source, out, "--to", "hf", "--allow-unused", "gate").code == 0
    unknown = write(tmp_path / "unknown.safetensors", {"kernel": fill("kernel", [3])})
    assert "names its tensors in no known way (kernel)" in one_line(call("convert", unknown, out, "--to", "timm"))
