"""What the loader adapts, what it leaves, what it refuses, and what it says."""

from __future__ import annotations

import re

import numpy as np
import paddle
import pytest

from paddlevit.models.deit import DistilledVisualTransformer
from paddlevit.models.foundation import FoundationTransformer
from paddlevit.models.swin import SwinTransformer
from paddlevit.models.swin_v2 import SwinTransformerV2
from paddlevit.models.vit import VisualTransformer
from paddlevit.weights import LoadReport, load_weights, resize, save_weights
from paddlevit.weights.checkpoint import Checkpoint, write_checkpoint
from paddlevit.weights.readers import open_weights
from tests.golden.fill import fill
from tests.weights.files import write

VIT = dict(image_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)
SWIN = dict(image_size=64, embed_dim=12, depths=(2, 2), num_heads=(2, 4), window_size=4, num_classes=5)
POSITIONS = "patch_embedding.position_embedding"
PATCHES = "patch_embedding.patch_embedding.weight"


def build(kind=VisualTransformer, **changes):
    """A toy network with the same random values every time."""
    options = dict(SWIN if kind in (SwinTransformer, SwinTransformerV2) else VIT, **changes)
    model = kind(**options)
    for name, tensor in model.state_dict().items():
        tensor.set_value(fill(name, tuple(tensor.shape)))
    return model


def values(model) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def timm_state(model, tmp_path) -> dict[str, np.ndarray]:
    """The model's weights under timm's names."""
    save_weights(model, tmp_path / "timm.safetensors", to="timm")
    return {name: array.read() for name, array in open_weights(tmp_path / "timm.safetensors").tree.items()}


def fresh(kind=VisualTransformer, **changes):
    """The same network with other values."""
    model = build(kind, **changes)
    for tensor in model.state_dict().values():
        tensor.set_value(tensor.numpy() * 0 + 7)
    return model


def test_nothing_to_adapt_and_nothing_left():
    source, model = build(), fresh()
    report = load_weights(model, source.state_dict())
    assert set(report.loaded) == set(values(model))
    assert not report.adapted
    assert not report.missing
    assert not report.left_out
    for name, array in values(model).items():
        assert (array == values(source)[name]).all(), name


# Adaptation


@pytest.mark.parametrize(("size", "grid"), [(64, (8, 8)), (16, (2, 2)), ((24, 48), (3, 6))])
def test_image_size(size, grid):
    source, model = build(), fresh(image_size=size)
    report = load_weights(model, source.state_dict())
    expected = resize.resize_positions(values(source)[POSITIONS], (4, 4), grid, 1)
    np.testing.assert_array_equal(values(model)[POSITIONS], expected)
    assert report.adapted == {POSITIONS: f"4 x 4 positions resized to {grid[0]} x {grid[1]}"}
    assert POSITIONS in report.loaded


def test_image_size_of_a_distilled_model_keeps_both_tokens_positions():
    source, model = build(DistilledVisualTransformer), fresh(DistilledVisualTransformer, image_size=64)
    load_weights(model, source.state_dict())
    assert (values(model)[POSITIONS][:, :2] == values(source)[POSITIONS][:, :2]).all()
    assert values(model)[POSITIONS].shape == (1, 2 + 64, 24)


def test_a_square_grid_is_resized_for_an_oblong_one_of_as_many_patches(tmp_path):
    """6 x 6 and 4 x 9 are both 36: the numbers alone would fit and be wrong."""
    source, model = build(image_size=48), fresh(image_size=(32, 72))
    report = load_weights(model, timm_state(source, tmp_path))
    expected = resize.resize_positions(values(source)[POSITIONS], (6, 6), (4, 9), 1)
    np.testing.assert_array_equal(values(model)[POSITIONS], expected)
    assert "6 x 6 positions resized to 4 x 9" in report.adapted[POSITIONS]


def test_source_grid_says_what_the_numbers_cannot(tmp_path):
    source = build(image_size=(32, 72))
    state = timm_state(source, tmp_path)
    model = fresh(image_size=(32, 72))
    load_weights(model, state, source_grid=(4, 9))
    assert (values(model)[POSITIONS] == values(source)[POSITIONS]).all()
    with pytest.raises(ValueError, match=r"37 positions in the file, which are no grid of 5 x 9"):
        load_weights(model, state, source_grid=(5, 9))
    state = timm_state(build(image_size=(16, 40)), tmp_path)  # 10 patches
    with pytest.raises(ValueError, match="11 positions in the file, which is no square; give source_grid"):
        load_weights(model, state)
    load_weights(model, state, source_grid=(2, 5))


def test_our_checkpoints_know_their_grid(tmp_path):
    source, model = build(image_size=(16, 72)), fresh(image_size=(32, 72))
    meta = {"preprocessing": {"image_size": [16, 72]}}
    write_checkpoint(tmp_path / "last.safetensors", Checkpoint(values(source), meta))
    report = load_weights(model, tmp_path)
    assert report.adapted[POSITIONS] == "2 x 9 positions resized to 4 x 9"


def test_patch_size():
    source, model = build(), fresh(patch_size=4)
    report = load_weights(model, source.state_dict())
    expected = resize.resize_patches(values(source)[PATCHES], (4, 4))
    np.testing.assert_array_equal(values(model)[PATCHES], expected)
    assert report.adapted[PATCHES] == "patches of 8 x 8 resized to 4 x 4"
    assert report.adapted[POSITIONS] == "4 x 4 positions resized to 8 x 8"


@pytest.mark.parametrize(("channels", "what"), [(1, "summed to 1"), (5, "repeated to 5")])
def test_in_channels(channels, what):
    source, model = build(), fresh(in_channels=channels)
    report = load_weights(model, source.state_dict())
    np.testing.assert_array_equal(values(model)[PATCHES], resize.adapt_channels(values(source)[PATCHES], channels))
    assert report.adapted == {PATCHES: f"3 input channels {what}"}


def test_num_classes_leaves_the_new_classifier_alone():
    model = fresh(num_classes=9)
    report = load_weights(model, build().state_dict())
    assert (values(model)["classifier.weight"] == 7).all()
    assert (values(model)["classifier.bias"] == 7).all()
    reason = "the file has 5 classes and the model 9; a new classifier is in place"
    assert report.missing == {"classifier.weight": reason, "classifier.bias": reason}
    assert report.left_out == dict.fromkeys(report.missing, "replaced by the new classifier")


def test_a_model_without_classifier_leaves_the_files_out():
    report = load_weights(fresh(num_classes=0), build().state_dict())
    assert report.left_out == dict.fromkeys(["classifier.weight", "classifier.bias"], "the model has no classifier")


@pytest.mark.parametrize("window", [2, 8])
def test_window_of_swin(window):
    source, model = build(SwinTransformer), fresh(SwinTransformer, window_size=window)
    report = load_weights(model, source.state_dict())
    name = "layers.0.blocks.1.attn.relative_position_bias_table"
    np.testing.assert_array_equal(values(model)[name], resize.resize_bias_table(values(source)[name], window))
    assert report.adapted[name] == f"position biases of windows of 4 x 4 resized to {window} x {window}"


def test_resolution_transfer_of_swin_v2():
    """Continuous position biases fit any window; the report says when their scale changes."""
    state = build(SwinTransformerV2).state_dict()
    state["layers.0.blocks.0.attn.relative_coords_table"] = np.zeros((1, 7, 7, 2), np.float32)
    report = load_weights(fresh(SwinTransformerV2, window_size=8), state)
    assert not report.adapted
    note = "position biases learned in windows of 4 x 4 are spread over 8 x 8; pretrained_window_size=4 would"
    assert report.notes == [f"{note} keep their scale"]
    assert not load_weights(fresh(SwinTransformerV2, window_size=8, pretrained_window_size=4), state).notes
    assert not load_weights(fresh(SwinTransformerV2), state).notes


def test_a_class_token_with_and_without_position_gives_the_same_tokens():
    x = paddle.to_tensor(fill("picture", [2, 3, 32, 32]))
    source = build(FoundationTransformer, layer_scale=1.0)
    model = fresh(FoundationTransformer, layer_scale=1.0, class_token="plain")
    report = load_weights(model, source.state_dict())
    assert report.adapted["patch_embedding.class_token"] == "its position added, as the model gives it none"
    assert "one for the class token in the file and none before them in the model" in report.adapted[POSITIONS]
    np.testing.assert_allclose(model(x).numpy(), source(x).numpy(), rtol=1e-5, atol=1e-6)

    back = fresh(FoundationTransformer, layer_scale=1.0)
    load_weights(back, model.state_dict())
    np.testing.assert_allclose(back(x).numpy(), source(x).numpy(), rtol=1e-5, atol=1e-6)
    assert (values(back)[POSITIONS][:, 0] == 0).all()


# What surrounds the weights


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "model.", "backbone.", "net."])
def test_prefixes(prefix, tmp_path):
    source, model = build(), fresh()
    state = {prefix + name: array for name, array in timm_state(source, tmp_path).items()}
    load_weights(model, state)
    assert (values(model)[POSITIONS] == values(source)[POSITIONS]).all()


def test_what_lies_outside_of_a_prefix_is_left_out():
    state = {"model." + name: array for name, array in values(build()).items()}
    state["criterion.weight"] = fill("loss", [3])
    report = load_weights(fresh(), state)
    assert report.left_out == {"criterion.weight": "outside of 'model.'"}


@pytest.mark.parametrize("suffix", [".pth", ".pdparams"])
@pytest.mark.parametrize("keys", [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("model", "ema")])
def test_nesting_and_averaged_weights(keys, suffix, tmp_path):
    raw, averaged = values(build()), {name: array + 1 for name, array in values(build()).items()}
    optimizer = {"state": {"0": {"moment": raw["encoder.norm.bias"]}}}
    file = write(tmp_path / f"run{suffix}", {keys[0]: raw, keys[1]: averaged, "optimizer": optimizer})
    model = fresh()
    report = load_weights(model, file)
    assert report.notes == [f"took {keys[1]!r}, not {keys[0]!r}"]
    assert (values(model)["encoder.norm.bias"] == averaged["encoder.norm.bias"]).all()
    report = load_weights(model, file, ema=False)
    assert report.notes == [f"took {keys[0]!r}, not {keys[1]!r}"]
    assert (values(model)["encoder.norm.bias"] == raw["encoder.norm.bias"]).all()


def test_our_checkpoints(tmp_path):
    raw, averaged = values(build()), {name: array + 1 for name, array in values(build()).items()}
    optimizer = {"encoder.norm.bias/moment1": raw["encoder.norm.bias"]}
    file = tmp_path / "best.safetensors"
    write_checkpoint(file, Checkpoint(raw, {"preprocessing": {"image_size": [32, 32]}}, averaged, optimizer))
    model = fresh()
    assert load_weights(model, file).notes == ["took 'model', not 'ema'"]
    assert (values(model)["encoder.norm.bias"] == raw["encoder.norm.bias"]).all()
    load_weights(model, file, ema=True)
    assert (values(model)["encoder.norm.bias"] == averaged["encoder.norm.bias"]).all()


def test_batch_norm_statistics_come_along():
    source, model = build(norm="batch"), fresh(norm="batch")
    report = load_weights(model, source.state_dict())
    assert "encoder.layers.0.attn_norm._mean" in report.loaded
    assert not report.missing


def test_a_network_that_no_table_knows_uses_its_own_names():
    source, model = paddle.nn.Linear(3, 4), paddle.nn.Linear(3, 4)
    report = load_weights(model, {"module." + name: tensor for name, tensor in source.state_dict().items()})
    assert report.dialect == "the model's own"
    assert (model.weight.numpy() == source.weight.numpy()).all()
    with pytest.raises(
        ValueError, match=r"state names its tensors in no known way \(kernel\); Linear has bias, weight"
    ):
        load_weights(model, {"kernel": fill("kernel", [3, 4])})


def test_half_precision_files_and_models(tmp_path):
    source, model = build(), fresh()
    load_weights(model, {name: array.astype(np.float16) for name, array in values(source).items()})
    np.testing.assert_allclose(values(model)[PATCHES], values(source)[PATCHES].astype(np.float16))
    half = fresh()
    half.to(dtype="bfloat16")
    load_weights(half, source.state_dict())
    tensor = half.state_dict()[PATCHES]
    assert tensor.dtype == paddle.bfloat16
    np.testing.assert_allclose(tensor.astype("float32").numpy(), values(source)[PATCHES], rtol=1e-2)


# Refusals


def refuse(model, source, match, **options):
    """The load fails with this message and leaves every parameter as it was."""
    before = values(model)
    with pytest.raises(ValueError, match=match):
        load_weights(model, source, **options)
    for name, array in values(model).items():
        assert (array == before[name]).all(), name


def test_another_family():
    swin = build(SwinTransformer).state_dict()
    match = r"state holds weights of a Swin Transformer \(Microsoft Swin names\), and VisualTransformer is a Vision Tra"
    refuse(fresh(), swin, match)
    refuse(
        fresh(SwinTransformerV2), swin, "weights of a Swin Transformer .* SwinTransformerV2 is a Swin Transformer V2"
    )
    refuse(fresh(SwinTransformer), build().state_dict(), "weights of a Vision Transformer")


def test_unknown_and_missing_names_are_all_listed_unless_allowed():
    state = values(build())
    state["encoder.layers.0.attn.gate"] = fill("gate", [3])
    del state["encoder.norm.bias"]
    refuse(
        fresh(), state, r"lacks encoder\.norm\.bias\. Nothing in the model is called encoder\.layers\.0\.attn\.gate\."
    )
    refuse(fresh(), state, "lacks encoder", allow_unused=["*gate"])
    refuse(fresh(), state, "Nothing in the model", allow_missing=["encoder.norm.*"])
    report = load_weights(fresh(), state, allow_unused=["*gate"], allow_missing=["encoder.norm.*"])
    assert report.missing == {"encoder.norm.bias": "not in the file; allowed"}
    assert report.left_out == {"encoder.layers.0.attn.gate": "allowed"}


def test_a_misspelt_name_gets_a_hint():
    state = values(build())
    state["encoder.norm.biass"] = state.pop("encoder.norm.bias")
    refuse(fresh(), state, r'called encoder\.norm\.biass\. Did you mean "encoder\.norm\.bias"')


def test_another_depth_or_width():
    refuse(fresh(depth=3), build().state_dict(), r"lacks encoder\.layers\.2\.attn_norm\.weight")
    refuse(fresh(), build(depth=3).state_dict(), r"has nothing for encoder\.layers\.2\.attn\.proj\.bias")
    refuse(
        fresh(embed_dim=48), build().state_dict(), r"class_token is \[1, 1, 24\] in the file and \[1, 1, 48\] in the mo"
    )
    report = load_weights(fresh(mlp_ratio=2.0), build().state_dict(), allow_missing=["*.mlp.*"])
    assert report.missing["encoder.layers.0.mlp.fc1.weight"] == "does not fit; allowed"
    assert "encoder.layers.0.mlp.fc2.bias" in report.loaded


def test_distilled_into_plain_and_back():
    plain, distilled = build().state_dict(), build(DistilledVisualTransformer).state_dict()
    refuse(fresh(), distilled, r"The file is a distilled DeiT .* and the model is not: build a deit_\*_distilled model")
    report = load_weights(fresh(), distilled, allow_unused=["*distillation*"])
    assert report.adapted[POSITIONS].startswith("4 x 4 positions, one for the class token and one for the distillation")

    refuse(
        fresh(DistilledVisualTransformer), plain, "The model is a distilled DeiT and the file has no distillation token"
    )
    model = fresh(DistilledVisualTransformer)
    load_weights(model, plain, allow_missing=["*distillation*"])
    positions, source = values(model)[POSITIONS], plain[POSITIONS].numpy()
    assert (positions[:, 0] == source[:, 0]).all()
    assert (positions[:, 1] == 7).all()  # the model's own
    assert (positions[:, 2:] == source[:, 1:]).all()


def test_average_pooling_has_no_place_for_a_class_token():
    refuse(fresh(pool="average"), build().state_dict(), r"has nothing for patch_embedding\.class_token")
    model = fresh(pool="average")
    load_weights(model, build().state_dict(), allow_unused=["*class_token"])
    assert (values(model)[POSITIONS] == values(build())[POSITIONS][:, 1:]).all()


def test_some_parts_of_a_tensor():
    state = {f"encoder.layer.0.attention.attention.{part}.weight": fill(part, [24, 24]) for part in ("query", "value")}
    refuse(fresh(), state, r"Of encoder\.layers\.0\.attn\.qkv\.weight the file holds only encoder\.layer\.0")


def test_mixed_layouts(tmp_path):
    state = timm_state(build(), tmp_path)
    state["head.weight"] = state["head.weight"].T
    refuse(
        fresh(), state, r"The file mixes layouts: blocks\.1\.mlp\.fc2\.weight is \[outputs, inputs\] and head\.weight"
    )


def test_layout_follows_the_shapes_not_the_file(tmp_path):
    """A torch-like state in a Paddle file and the reverse are told by the layers that are not square."""
    source = build()
    state = timm_state(source, tmp_path)
    for suffix, turned in ((".pdparams", False), (".pth", True)):
        linear = re.compile(r"(qkv|proj|fc1|fc2|head)\.weight")
        turn = {
            name: array.T if turned and array.ndim == 2 and linear.search(name) else array
            for name, array in state.items()
        }
        model = fresh()
        load_weights(model, write(tmp_path / f"state{suffix}", turn))
        for name, array in values(model).items():
            assert (array == values(source)[name]).all(), name


def test_whole_numbers_are_no_weights():
    state = values(build())
    state["encoder.norm.bias"] = np.zeros(24, np.int64)
    refuse(fresh(), state, r"encoder\.norm\.bias holds int64 numbers, not weights")


def test_no_tensors_and_several_dictionaries():
    refuse(fresh(), {"epoch": 3}, "state holds no tensors")
    parts = {name: values(build()) for name in ("generator", "discriminator")}
    refuse(
        fresh(), parts, "holds several dictionaries of tensors, generator, discriminator; pass the one that is meant"
    )


# The report


def test_the_report_is_one_summary():
    report = LoadReport(
        "weights.pth",
        "vit",
        "timm",
        loaded=["a", "b"],
        adapted={"a": "resized"},
        missing={"head": "new"},
        left_out={f"decoder.{i}": "the decoder" for i in range(6)},
        notes=["took 'model'"],
    )
    assert str(report).splitlines() == [
        "weights.pth (timm names) -> vit: 2 tensors loaded",
        "  note      took 'model'",
        "  adapted   a: resized",
        "  missing   head: new",
        "  left out  decoder.0, decoder.1, decoder.2, decoder.3 and 2 more: the decoder",
    ]
