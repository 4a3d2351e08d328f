"""Questions asked of every model by name."""

from __future__ import annotations

import csv
import inspect
import json

import numpy as np
import paddle
import pytest

from paddlevit.complexity import count_multiply_adds
from paddlevit.models import MODELS, create_model, input_spec, list_models
from paddlevit.models.options import check_options
from tests.models.checks import GOLDEN, multiply_adds, our_row


def read_table(name):
    """Rows of a tab-separated table by model."""
    return {row["model"]: row for row in csv.DictReader((GOLDEN / name).read_text().splitlines(), delimiter="\t")}


TIMM, COUNTED = read_table("timm_models.tsv"), read_table("param_counts.tsv")

# One small network of every class, through its public name.
SMALL = {
    "vit_tiny_patch16_224": dict(image_size=32, depth=2),
    "deit_tiny_patch16_224": dict(image_size=32, depth=2),
    "deit_tiny_distilled_patch16_224": dict(image_size=32, depth=2),
    "deit3_small_patch16_224": dict(image_size=32, depth=2),
    "vit_small_patch14_reg4_dinov2": dict(image_size=28, depth=2, num_classes=5),
    "vit_base_patch32_clip_224": dict(image_size=64, depth=1),
    "vit_base_patch16_siglip_224": dict(image_size=32, depth=1, num_classes=5),
    "swin_tiny_patch4_window7_224": dict(image_size=56, depths=(1, 1, 1, 1)),
    "swinv2_tiny_window8_256": dict(image_size=64, depths=(1, 1, 1, 1)),
    "t2t_vit_7": dict(image_size=32, depth=2),
    "t2t_vit_t_14": dict(image_size=32, depth=2),
    "explained_vit": dict(depth=2),
    "explained_t2t_vit": dict(image_size=(60, 100), depth=2),
}

BUILDS = sorted({spec.build for spec in MODELS.values()}, key=lambda build: build.__name__)


def small(name):
    return create_model(name, **SMALL[name])


def batch(model, count=2):
    preprocessing = model.preprocessing
    return paddle.randn([count, preprocessing.channels, *preprocessing.image_size])


@pytest.mark.parametrize("name", [name for name in MODELS if name in COUNTED])
def test_parameters_and_data_settings_are_timms(name):
    assert our_row(name) == COUNTED[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name in TIMM and float(TIMM[name]["GMACs"]) > 0])
def test_multiply_adds_are_timms(name):
    size, classes = int(TIMM[name]["img"]), int(COUNTED[name]["num_classes"])
    ours = sum(multiply_adds(name, num_classes=classes, image_size=size).values()) / 1e9
    assert ours == pytest.approx(float(TIMM[name]["GMACs"]), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_multiply_adds_of_one_block_tell_those_of_all(name):
    depth = {"depths": (2, 1, 3, 2)} if "depths" in SMALL[name] else {"depth": 3}
    model = create_model(name, **{**SMALL[name], **depth})
    shape = [1, model.preprocessing.channels, *model.preprocessing.image_size]
    assert sum(multiply_adds(name, **{**SMALL[name], **depth}).values()) == count_multiply_adds(model, shape)


def test_every_class_is_among_the_small_ones():
    assert {MODELS[name].build for name in SMALL} == {spec.build for spec in MODELS.values()}


@pytest.mark.parametrize("name", SMALL)
def test_paddle_summary(name, capsys):
    model = small(name)
    paddle.summary(model, tuple(batch(model).shape))
    assert "Total params" in capsys.readouterr().out


@pytest.mark.parametrize("name", SMALL)
def test_paddle_model_fits_without_our_help(name):
    network = small(name)
    images = batch(network, 4).numpy()
    outputs = network.num_classes

    class Pictures(paddle.io.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return images[index], np.array([index % outputs])

    def loss(*arguments):
        *logits, label = arguments  # a distilled network gives two
        return sum(paddle.nn.functional.cross_entropy(each, label) for each in logits)

    model = paddle.Model(network, input_spec(network))
    before = {key: value.numpy().copy() for key, value in network.state_dict().items()}
    model.prepare(paddle.optimizer.SGD(0.1, network.parameters()), loss)
    model.fit(Pictures(), batch_size=2, epochs=1, verbose=0)
    assert any((before[key] != value.numpy()).any() for key, value in network.state_dict().items()) or outputs == 1


@pytest.mark.parametrize("name", SMALL)
def test_state_dict_round_trip(name):
    first, second = small(name), small(name)
    for parameter in first.parameters():
        parameter.set_value(paddle.randn(parameter.shape))
    second.set_state_dict(first.state_dict())
    first.eval()
    second.eval()
    x = batch(first)
    np.testing.assert_array_equal(first(x).numpy(), second(x).numpy())


@pytest.mark.parametrize("name", SMALL)
def test_another_classifier(name):
    model = small(name)
    model.reset_classifier(3)
    assert (model.num_classes, model.model_options["num_classes"]) == (3, 3)
    model.eval()
    assert list(model(batch(model)).shape) == [2, 3]
    model.reset_classifier(0)
    assert list(model(batch(model)).shape) == [2, model.num_features]


@pytest.mark.parametrize("name", SMALL)
def test_feature_maps_and_head(name):
    model = small(name)
    model.eval()
    x = batch(model)
    maps = model.feature_maps(x)
    assert all(features.ndim == 4 and features.shape[0] == 2 for features in maps)
    np.testing.assert_array_equal(model.feature_maps(x, [-1])[0].numpy(), maps[-1].numpy())
    np.testing.assert_allclose(
        model.forward_head(model.forward_features(x)).numpy(), model(x).numpy(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", SMALL)
def test_layer_indices_rise_with_depth(name):
    model = small(name)
    indices = {key: model.layer_index(key) for key, _ in model.named_parameters()}
    assert min(indices.values()) == 0
    assert set(range(max(indices.values()) + 1)) == set(indices.values())
    assert model.no_weight_decay() <= set(model.state_dict()) | {"patch_embedding.position_embedding"}


@pytest.mark.parametrize("name", SMALL)
def test_another_number_of_channels(name):
    model = create_model(name, in_channels=2, **SMALL[name])
    model.eval()
    assert model.preprocessing.channels == 2
    assert list(model(batch(model)).shape) == [2, model.num_classes]


def test_names_are_listed_in_natural_order():
    assert list_models("vit_tiny_*") == ["vit_tiny_patch16_224", "vit_tiny_patch16_384"]
    base = list_models("vit_base_patch*_224")
    assert base.index("vit_base_patch8_224") < base.index("vit_base_patch16_224") < base.index("vit_base_patch32_224")
    assert list_models("no_such*") == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "vit_tyny_patch16_224",
            {},
            r"There is no model 'vit_tyny_patch16_224'. Did you mean \"vit_tiny_patch16_224\"",
        ),
        ("resnet50", {}, r"There is no model 'resnet50'."),
        ("vit_tiny_patch16_224", {"drop_pth": 0.1}, r"has no option 'drop_pth'. Did you mean \"drop_path\""),
        ("vit_tiny_patch16_224", {"img_size": 32}, "has no option 'img_size'; here it is called 'image_size'"),
        ("swin_tiny_patch4_window7_224", {"pool": "token"}, "swin_tiny_patch4_window7_224 has no option 'pool'"),
        ("vit_tiny_patch16_224", {"image_size": 100}, r"image_size \(100, 100\) is not a multiple"),
        (
            "vit_tiny_patch16_224",
            {"depth": "abc"},
            r"depth of vit_tiny_patch16_224 is 'abc' \(str\); it must be a whole",
        ),
        ("vit_tiny_patch16_224", {"depth": 6.0}, r"is 6.0 \(float\); it must be a whole number, at least 1\."),
        ("vit_tiny_patch16_224", {"depth": True}, r"depth of .* is True \(bool\)"),
        ("vit_tiny_patch16_224", {"depth": 0}, r"depth of .* is 0 \(int\); it must be a whole number, at least 1\."),
        ("vit_tiny_patch16_224", {"num_heads": -4}, "num_heads of .* at least 1"),
        ("vit_tiny_patch16_224", {"embed_dim": 64.0}, "embed_dim of"),
        ("vit_tiny_patch16_224", {"mlp_ratio": 0}, r"mlp_ratio of .*; it must be a number above 0\."),
        ("vit_tiny_patch16_224", {"qk_scale": float("nan")}, r"qk_scale of .* is nan \(float\); it must be a number"),
        ("vit_tiny_patch16_224", {"qkv_bias": 1}, r"qkv_bias of .*; it must be true or false\."),
        ("vit_tiny_patch16_224", {"pool": 1}, r"pool of .* it must be text\."),
        (
            "vit_tiny_patch16_224",
            {"drop_path": [0.1, "a"]},
            "a number or a list, each a number, at least 0 and",
        ),
        ("vit_tiny_patch16_224", {"dropout": 1}, r"dropout of .*, at least 0 and below 1\."),
        ("vit_tiny_patch16_224", {"num_classes": "10"}, r"num_classes of .* '10' \(str\); .* at least 0\."),
        (
            "vit_tiny_patch16_224",
            {"image_size": 32.0},
            r"image_size of .* is 32.0 \(float\); it must be",
        ),
        ("vit_tiny_patch16_224", {"image_size": (32, 32, 32)}, "positive whole number or two of them"),
        ("vit_tiny_patch16_224", {"in_channels": 0}, "in_channels of .* at least 1"),
        (
            "swin_tiny_patch4_window7_224",
            {"depths": []},
            r"depths of .* is \[\] \(list\); it must be a list",
        ),
        ("swin_tiny_patch4_window7_224", {"depths": 2}, "depths of"),
        (
            "swin_tiny_patch4_window7_224",
            {"num_heads": (1, 2, 0, 4)},
            "num_heads of .* or a list, each a whole",
        ),
    ],
)
def test_mistakes(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_model(name, **options)


def test_numbers_of_numpy_are_numbers():
    sizes = dict(num_classes=np.int32(3), image_size=np.array([32, 48]), depth=np.int64(2), drop_path=np.float32(0.25))
    model = create_model("vit_tiny_patch16_224", **sizes, mlp_ratio=np.float64(2), norm=None)
    plain = {"num_classes": 3, "image_size": (32, 48), "depth": 2, "drop_path": 0.25, "mlp_ratio": 2.0}
    assert model.model_options == plain
    assert json.loads(json.dumps(model.model_options))["depth"] == 2
    swin = create_model("swin_tiny_patch4_window7_224", depths=np.array([1, 1, 1, 1]), window_size=np.int64(7))
    assert swin.model_options == {"depths": (1, 1, 1, 1), "window_size": 7}


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
def test_every_option_is_of_a_kind_that_is_checked(build):
    for key, parameter in inspect.signature(build).parameters.items():
        with pytest.raises(ValueError, match=f"{key} of toy is <object object"):
            check_options("toy", build, {key: object()})
        if parameter.default is not None:
            assert check_options("toy", build, {key: parameter.default}) == {key: parameter.default}


def test_a_model_remembers_how_it_was_made():
    model = create_model("vit_tiny_patch16_224", num_classes=3, image_size=32, in_channels=1, depth=1)
    assert model.model_name == "vit_tiny_patch16_224"
    assert model.model_options == {"num_classes": 3, "image_size": (32, 32), "in_channels": 1, "depth": 1}
    assert model.preprocessing.image_size == (32, 32)
    assert model.preprocessing.mean == (0.5,)
