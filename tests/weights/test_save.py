"""Out again: every tensor bit for bit, under exactly the names that timm and transformers use."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors import safe_open

from paddlevit.layers import sinusoid_table
from paddlevit.models import create_model
from paddlevit.models.deit import DistilledVisualTransformer
from paddlevit.models.foundation import FoundationTransformer
from paddlevit.models.swin import SwinTransformer
from paddlevit.models.swin_v2 import SwinTransformerV2
from paddlevit.models.t2t_vit import T2TViT
from paddlevit.models.vit import VisualTransformer
from paddlevit.weights import convert, load_weights, save_weights
from paddlevit.weights.checkpoint import Checkpoint, write_checkpoint
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
    # Without a classifier only the numbers of the mergings tell timm's names from Microsoft's.
    (SwinTransformer, {"num_classes": 0}),
    (SwinTransformerV2, {"num_classes": 0}),
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
        (
            SwinTransformer,
            {"image_size": 24},
            "Swin has windows of one size in all stages .* of 3 and 4; it cannot be wr",
        ),
    ]:
        with pytest.raises(ValueError, match=match):
            save_weights(build(kind, **options), out, "hf")
    t2t = T2TViT(image_size=32, embed_dim=16, depth=1, num_heads=2, token_dim=8)
    with pytest.raises(ValueError, match="There are no timm names for a T2T-ViT"):
        save_weights(t2t, out, "timm")
    assert list(tmp_path.iterdir()) == []


NOT_ELSEWHERE = [
    ({"norm_order": "post"}, r"norm_order='post'"),
    ({"position": "none"}, r"position='none'"),
    ({"position_merge": "concat"}, r"position_merge='concat'"),
    ({"position": "sinusoidal", "position_merge": "concat"}, r"position_merge='concat'"),
    ({"qk_scale": 0.5}, r"qk_scale=0\.5"),
]


@pytest.mark.parametrize("to", ["timm", "hf"])
@pytest.mark.parametrize(("options", "match"), NOT_ELSEWHERE)
def test_parts_that_others_do_not_have(options, match, to, tmp_path):
    """From a network, and from its checkpoint."""
    with pytest.raises(ValueError, match=f"{match}.* cannot be written for it"):
        save_weights(build(**options), tmp_path / "out.safetensors", to)
    meta = {"model_options": options, "preprocessing": {"image_size": [32, 32]}}
    write_checkpoint(tmp_path / "best.safetensors", Checkpoint(values(build(**options)), meta))
    if options.get("position") != "sinusoidal":  # of which a file does not tell how it is merged
        with pytest.raises(ValueError, match=f"{match}.* cannot be written for it"):
            convert(tmp_path / "best.safetensors", tmp_path / "out.safetensors", to)
    assert not (tmp_path / "out.safetensors").exists()


def test_fixed_positions_are_written_as_values(tmp_path):
    save_weights(build(position="sinusoidal"), tmp_path / "out.safetensors", "timm")
    model = fresh()
    load_weights(model, tmp_path / "out.safetensors")
    np.testing.assert_array_equal(values(model)["patch_embedding.position_embedding"], sinusoid_table(17, 24))


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


SIZES = [(24, 40), (32, 56)]  # 3 x 5 patches, a square with the class token, and 4 x 7, none either way


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("class_token", ["plain", "positioned"])
def test_registers_and_oblong_grids(size, class_token, tmp_path):
    """A position for the class token comes and goes by whose names a file has, not by its numbers."""
    options = dict(image_size=size, layer_scale=0.1, num_classes=0, num_registers=4, class_token=class_token)
    source = build(FoundationTransformer, **options)
    count = (size[0] // 8) * (size[1] // 8)
    meta = {"preprocessing": {"image_size": list(size)}}
    write_checkpoint(tmp_path / "own.safetensors", Checkpoint(values(source), meta))
    save_weights(source, tmp_path / "timm.safetensors", "timm")
    save_weights(source, tmp_path / "hf.safetensors", "hf")
    official = read(tmp_path / "hf.safetensors")  # Facebook's names, a position for the class token
    official = {name: official[f"embeddings.{name}"] for name in ("cls_token", "register_tokens")}
    official["pos_embed"] = read(tmp_path / "hf.safetensors")["embeddings.position_embeddings"]
    timm = read(tmp_path / "timm.safetensors")
    official = {**{name: timm[name] for name in timm if name not in ("reg_token", *official)}, **official}
    write(tmp_path / "official.safetensors", official)
    for start in ("own", "timm", "hf", "official"):
        for to, name, rows in (("timm", "pos_embed", 0), ("hf", "embeddings.position_embeddings", 1)):
            convert(tmp_path / f"{start}.safetensors", tmp_path / "out.safetensors", to)
            written = read(tmp_path / "out.safetensors")
            assert written[name].shape == (1, rows + count, 24), (start, to)
            tokens = written["cls_token" if to == "timm" else "embeddings.cls_token"]
            ours = source.patch_embedding.class_token.numpy()
            if class_token == "positioned" and not (to == "hf" and start in ("own", "hf", "official")):
                ours = ours + source.patch_embedding.position_embedding.numpy()[:, :1]
            np.testing.assert_allclose(tokens, ours, rtol=1e-6, err_msg=f"{start} {to}")
            np.testing.assert_array_equal(
                written[name][:, rows:], source.patch_embedding.position_embedding.numpy()[:, -count:]
            )


def test_files_that_do_not_tell_their_positions(tmp_path):
    options = dict(image_size=(32, 56), layer_scale=0.1, num_classes=0, class_token="plain")
    save_weights(build(FoundationTransformer, **options), tmp_path / "timm.safetensors", "timm")
    match = "does not tell whether the first of its 28 positions is the class token's: load it into its model and use"
    with pytest.raises(ValueError, match=match):
        convert(tmp_path / "timm.safetensors", tmp_path / "out.safetensors", "hf")
    convert(tmp_path / "timm.safetensors", tmp_path / "out.safetensors", "timm")
    equal(read(tmp_path / "out.safetensors"), read(tmp_path / "timm.safetensors"))


def test_a_plain_vit_keeps_its_positions(tmp_path):
    """3 x 5 patches and the class token are 16, a square."""
    source = build(image_size=(24, 40))
    for to in ("timm", "hf"):
        save_weights(source, tmp_path / f"{to}.safetensors", to)
        convert(tmp_path / f"{to}.safetensors", tmp_path / "ours.safetensors", "paddlevit")
        equal(read(tmp_path / "ours.safetensors"), values(source))
        convert(tmp_path / "ours.safetensors", tmp_path / "again.safetensors", to)
        equal(read(tmp_path / "again.safetensors"), read(tmp_path / f"{to}.safetensors"))


@pytest.mark.parametrize("kind", [SwinTransformer, SwinTransformerV2])
def test_a_swin_of_timm_without_classifier(kind, tmp_path):
    source = build(kind, num_classes=0, depths=(1, 1, 1), num_heads=(1, 2, 4), image_size=32, window_size=2)
    save_weights(source, tmp_path / "timm.safetensors", "timm")
    assert "layers.1.downsample.norm.weight" in read(tmp_path / "timm.safetensors")
    report = convert(tmp_path / "timm.safetensors", tmp_path / "ours.safetensors", "paddlevit")
    assert report.dialect == "timm"
    equal(read(tmp_path / "ours.safetensors"), values(source))
    title = "Microsoft Swin V2" if kind is SwinTransformerV2 else "Microsoft Swin"
    assert convert(values(source), tmp_path / "timm2.safetensors", "timm").dialect == title
    equal(read(tmp_path / "timm2.safetensors"), read(tmp_path / "timm.safetensors"))


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
