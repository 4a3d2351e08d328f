"""How tensors of other shapes are made to fit: positions, patches, channels, classifiers, windows."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit.models.deit import DistilledVisualTransformer
from paddlevit.models.foundation import FoundationTransformer
from paddlevit.models.swin import SwinTransformer
from paddlevit.models.swin_v2 import SwinTransformerV2
from paddlevit.models.vit import VisualTransformer
from paddlevit.weights import load_weights, resize, save_weights
from paddlevit.weights.checkpoint import Checkpoint, write_checkpoint
from tests.golden.fill import fill
from tests.weights.test_load import PATCHES, POSITIONS, build, fresh, timm_state, values


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


OBLONG = [
    # Counts that are squares with or without the class token: 36, 15 + 1, 14 + 2, 15 without any.
    (VisualTransformer, (32, 72), {}),
    (VisualTransformer, (24, 40), {}),
    (DistilledVisualTransformer, (16, 56), {}),
    (FoundationTransformer, (24, 40), {"layer_scale": 1.0, "num_registers": 2, "class_token": "plain"}),
    (FoundationTransformer, (24, 40), {"layer_scale": 1.0, "num_registers": 2}),
    (FoundationTransformer, (24, 40), {"layer_scale": 1.0}),
    (VisualTransformer, (32, 72), {"pool": "average"}),
]


@pytest.mark.parametrize("to", ["paddlevit", "timm", "hf"])
@pytest.mark.parametrize(("kind", "size", "options"), OBLONG)
def test_positions_of_the_models_own_number_are_its_own(kind, size, options, to, tmp_path):
    options = {**options, "image_size": size, "num_classes": 0 if kind is FoundationTransformer else 5}
    source, model = build(kind, **options), fresh(kind, **options)
    if to == "hf" and options.get("pool"):
        return
    save_weights(source, tmp_path / "out.safetensors", to)
    load_weights(model, tmp_path / "out.safetensors")
    moved = "num_registers" in options and options.get("class_token") != "plain" and to == "timm"  # into the token
    for name, array in values(source).items():
        if not (moved and name in (POSITIONS, "patch_embedding.class_token")):
            np.testing.assert_array_equal(values(model)[name], array, err_msg=name)
    x = paddle.to_tensor(fill("picture", [2, 3, *size]))
    np.testing.assert_allclose(model(x)[0].numpy(), source(x)[0].numpy(), rtol=1e-5, atol=1e-6)


def test_source_grid_says_what_the_numbers_cannot(tmp_path):
    """6 x 6 and 4 x 9 are both 36: taken as the model's, with a note."""
    source, model = build(image_size=48), fresh(image_size=(32, 72))
    state = timm_state(source, tmp_path)
    report = load_weights(model, state)
    assert report.notes == ["positions taken as 4 x 9 as the model has; source_grid=(6, 6) resizes them"]
    report = load_weights(model, state, source_grid=(6, 6))
    expected = resize.resize_positions(values(source)[POSITIONS], (6, 6), (4, 9), 1)
    np.testing.assert_array_equal(values(model)[POSITIONS], expected)
    assert report.adapted == {POSITIONS: "6 x 6 positions resized to 4 x 9"}
    assert not report.notes
    model = fresh(image_size=(16, 72))
    report = load_weights(model, timm_state(build(image_size=(32, 72)), tmp_path), source_grid=(4, 9))
    assert report.adapted == {POSITIONS: "4 x 9 positions resized to 2 x 9"}
    model = fresh(image_size=(32, 72))
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


@pytest.mark.parametrize(
    ("size", "map_size"),
    [
        ((64, 64), None),
        ((48, 48), None),  # maps of 12 and 6: padding to 8 at the end or before the first 2 is the same
        ((56, 64), "7 x 8 in windows of 4 x 4"),  # of 14 x 16 the windows are the same
        ((32, 64), "4 x 8 in windows of 4 x 4"),
    ],
)
@pytest.mark.parametrize("kind", [SwinTransformer, SwinTransformerV2])
def test_a_note_where_timms_swin_shifts_in_another_way(kind, size, map_size, tmp_path):
    state = timm_state(build(kind, image_size=size), tmp_path)
    notes = load_weights(fresh(kind, image_size=size), state).notes
    if map_size is None:
        assert not notes
    else:
        assert map_size in notes[0]
        assert "its logits differ at this picture size" in notes[0]
    assert not load_weights(fresh(kind, image_size=size), values(build(kind, image_size=size))).notes


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
