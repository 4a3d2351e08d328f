"""DeiT III, DINOv2, CLIP, SigLIP and the networks whose patches are averaged."""

from __future__ import annotations

import re

import numpy as np
import paddle
import pytest

from paddlevit.layers import Identity
from paddlevit.models import create_model, get_spec
from paddlevit.models.foundation import MODELS, FoundationTransformer
from paddlevit.models.foundation_layers import AttentionPool, FoundationEmbedding, LayerScale, SwiGLU, TanhGELU
from tests.models import checks

TOY = dict(image_size=16, patch_size=8, num_classes=5, embed_dim=32, depth=2, num_heads=4)
VARIANTS = {
    "deit3": dict(layer_scale=1e-4, class_token="plain", constant_drop_path=True),
    "dinov2": dict(layer_scale=1e-5),
    "dinov2_reg4": dict(layer_scale=1e-5, class_token="plain", num_registers=4),
    "dinov2_giant": dict(layer_scale=1e-5, mlp="swiglu", mlp_ratio=8 / 3),
    "clip": dict(pre_norm=True, epsilon=1e-5),
    "clip_quickgelu": dict(pre_norm=True, epsilon=1e-5, mlp="quick_gelu"),
    "siglip": dict(class_token="absent", pool="attention", mlp="gelu_tanh"),
    "siglip_gap": dict(class_token="absent", pool="average", image_size=20, crop_border=True),
    "mae": dict(pool="average", fc_norm=True),
    "reg4_gap": dict(class_token="absent", num_registers=4, pool="average", fc_norm=True, layer_scale=1e-5),
}


def build(variant: str, **options) -> FoundationTransformer:
    return FoundationTransformer(**{**TOY, **VARIANTS[variant], **options})


def size_of(variant: str) -> int:
    return VARIANTS[variant].get("image_size", TOY["image_size"])


each_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.mark.parametrize(
    "name",
    [
        "deit3_small_patch16_224",
        "deit3_medium_patch16_224",
        "deit3_base_patch16_224",
        "vit_small_patch14_dinov2-img_size=224",
        "vit_small_patch14_reg4_dinov2-img_size=224",
        "vit_base_patch14_reg4_dinov2-img_size=224",
        "vit_giant_patch14_reg4_dinov2-img_size=56-depth=2",
        "vit_xsmall_patch16_clip_224",
        "vit_base_patch32_clip_224",
        "vit_base_patch32_clip_quickgelu_224",
        "vit_base_patch16_siglip_224",
        "vit_base_patch32_siglip_256",
        "vit_base_patch16_siglip_gap_224",
        "vit_so400m_patch14_siglip_gap_384-depth=1",
        "vit_wee_patch16_reg1_gap_256",
    ],
)
def test_logits_equal_timm(name):
    assert checks.golden_error(name) < 1e-5


def test_every_name_of_timm_is_there():
    lines = (checks.GOLDEN / "param_counts.tsv").read_text().splitlines()
    names = {line.split("\t")[0] for line in lines}
    assert {name for name in names if re.match(r"deit3_|vit_.*(dinov2|clip|siglip)", name)} <= set(MODELS)


def test_pictures_that_are_squashed():
    squashed = {name for name in MODELS if get_spec(name).preprocessing.crop_mode == "squash"}
    assert squashed == {
        "vit_base_patch16_clip_384",
        "vit_large_patch14_clip_336",
        "vit_huge_patch14_clip_336",
        "vit_gigantic_patch14_clip_378",
    }


def test_initialization():
    paddle.seed(0)
    options = dict(layer_scale=1e-5, num_registers=64, embed_dim=128, image_size=64, num_classes=100, mlp="swiglu")
    model = FoundationTransformer(**{**TOY, **options, "pool": "attention"})
    for name, parameter in model.named_parameters():
        value = parameter.numpy()
        if "norm" in name:
            assert (value == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif name.endswith("gamma"):
            np.testing.assert_array_equal(value, np.float32(1e-5))
        elif name.endswith("bias"):
            assert (value == 0.0).all(), name
        elif name == "attention_pool.latent":
            assert value.std() == pytest.approx(128**-0.5, rel=0.2)
        elif name != "patch_embedding.patch_embedding.weight":
            assert value.std() == pytest.approx(0.02, rel=0.2 if value.size < 200 else 0.05), name


@each_variant
def test_lazy_parameters_can_be_initialized_later(variant):
    with paddle.LazyGuard():
        model = build(variant)
    for parameter in model.parameters():
        parameter.initialize()
    model.eval()
    assert np.isfinite(model(checks.pictures(2, size_of(variant))).numpy()).all()


@each_variant
def test_shapes(variant):
    model = build(variant)
    model.eval()
    x = checks.pictures(2, size_of(variant))
    num_prefix = model.patch_embedding.num_prefix
    tokens = model.forward_features(x)
    assert tokens.shape == [2, num_prefix + 4, 32]
    assert model(x).shape == model.forward_head(tokens).shape == [2, 5]
    assert model.num_features == 32
    model.reset_classifier(0)
    assert isinstance(model.classifier, Identity)
    assert model(x).shape == [2, 32]
    model.reset_classifier(50)
    assert model(x).shape == [2, 50]
    assert model.num_classes == 50
    assert float(model.classifier.weight.std()) == pytest.approx(0.02, rel=0.1)


@each_variant
def test_feature_maps_are_the_patches(variant):
    model = checks.fill_by_name(build(variant))
    model.eval()
    x = checks.pictures(2, size_of(variant))
    first, last = model.feature_maps(x, [0, -1])
    assert first.shape == last.shape == [2, 32, 2, 2]
    patches = model.encoder.norm(last.flatten(2).transpose([0, 2, 1]))
    expected = model.forward_features(x)[:, model.patch_embedding.num_prefix :]
    np.testing.assert_allclose(patches.numpy(), expected.numpy(), atol=1e-5)
    with pytest.raises(ValueError, match=r"layers is \[5\]; this encoder has 2 layers"):
        model.feature_maps(x, [5])


@each_variant
def test_every_parameter_learns(variant):
    assert checks.without_gradient(build(variant), checks.pictures(2, size_of(variant))) == []


@each_variant
def test_evaluation_is_independent_of_the_batch(variant):
    model = build(variant, dropout=0.5, attention_dropout=0.5, drop_path=0.5)
    assert checks.batch_dependence(model, checks.pictures(3, size_of(variant))) < 1e-5


@each_variant
def test_exported_equals_eager(variant, tmp_path):
    size = size_of(variant)
    assert max(checks.export_errors(build(variant), tmp_path, (size, size))) < 1e-5


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("image_size", (16, 24)),
        ("patch_size", 4),
        ("in_channels", 1),
        ("num_classes", 7),
        ("embed_dim", 48),
        ("depth", 3),
        ("num_heads", 2),
        ("mlp_ratio", 2.0),
        ("mlp", "gelu_tanh"),
        ("mlp", "quick_gelu"),
        ("mlp", "swiglu"),
        ("layer_scale", 1e-5),
        ("pre_norm", True),
        ("epsilon", 1e-3),
        ("class_token", "plain"),
        ("num_registers", 2),
        ("pool", "average"),
        ("pool", "attention"),
        ("dropout", 0.5),
        ("attention_dropout", 0.5),
        ("drop_path", 0.9),
    ],
)
def test_every_keyword_changes_something(keyword, value):
    options = {**TOY, keyword: value}
    size, channels = options["image_size"], options.get("in_channels", 3)
    changed = checks.observe(FoundationTransformer(**options), checks.pictures(4, size, channels))
    assert changed != checks.observe(FoundationTransformer(**TOY), checks.pictures(4, 16))


def test_equal_keywords_change_nothing():
    x = checks.pictures(4, 16)
    options = dict(dropout=0.1, attention_dropout=0.1, drop_path=0.5)
    first = checks.observe(FoundationTransformer(**TOY, **options), x)
    assert first == checks.observe(FoundationTransformer(**TOY, **options), x)


def test_norm_after_the_average():
    options = {**TOY, "pool": "average", "num_registers": 2}
    before = checks.fill_by_name(FoundationTransformer(**options))
    after = checks.fill_by_name(FoundationTransformer(**options, fc_norm=True))
    norm = paddle.nn.LayerNorm(32, epsilon=1e-6)
    norm.set_state_dict(after.fc_norm.state_dict())
    x = checks.pictures(2, 16)
    for model in (before, after):
        model.eval()
    tokens = after.forward_features(x)  # class token, two registers, patches
    expected = after.classifier(norm(tokens[:, 3:].mean(axis=1)))
    np.testing.assert_allclose(after(x).numpy(), expected.numpy(), atol=1e-5)
    assert isinstance(after.encoder.norm, Identity)
    expected = before.classifier(before.forward_features(x)[:, 3:].mean(axis=1))
    np.testing.assert_allclose(before(x).numpy(), expected.numpy(), atol=1e-5)
    assert isinstance(before.fc_norm, Identity)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (dict(drop_path=0.2), [0.0, 0.1, 0.2]),
        (dict(drop_path=0.2, constant_drop_path=True), [0.2, 0.2, 0.2]),
        (dict(drop_path=[0.3, 0.0, 0.1], constant_drop_path=True), [0.3, 0.0, 0.1]),
    ],
)
def test_drop_path_of_each_layer(options, expected):
    model = FoundationTransformer(**{**TOY, "depth": 3}, **options)
    assert [layer.drop_path.probability for layer in model.encoder.layers] == pytest.approx(expected)


def test_deit3_drops_every_layer_alike():
    model = create_model("deit3_small_patch16_224", image_size=32, drop_path=0.05)
    assert {layer.drop_path.probability for layer in model.encoder.layers} == {0.05}


def test_tokens_and_their_positions():
    """Class, registers, patches; only the patches and a positioned class token have positions."""
    embeddings = {}
    for class_token in ("positioned", "plain", "absent"):
        embedding = FoundationEmbedding(16, 8, 3, 32, class_token=class_token, num_registers=2)
        embedding.set_state_dict(
            {key: np.zeros(value.shape, np.float32) for key, value in embedding.named_parameters()}
        )
        for value, name in enumerate(("class_token", "register_tokens"), start=1):
            if getattr(embedding, name) is not None:
                getattr(embedding, name).set_value(np.full(getattr(embedding, name).shape, value, np.float32))
        count = embedding.position_embedding.shape[1]
        rows = np.arange(10, 10 * count + 1, 10, dtype=np.float32).reshape([1, count, 1])
        embedding.position_embedding.set_value(np.tile(rows, [1, 1, 32]))
        embeddings[class_token] = embedding(checks.pictures(1, 16)).numpy()[0, :, 0].tolist()
    assert embeddings == {
        "positioned": [11, 2, 2, 20, 30, 40, 50],
        "plain": [1, 2, 2, 10, 20, 30, 40],
        "absent": [2, 2, 10, 20, 30, 40],
    }


def test_border_is_ignored_only_on_demand():
    options = {**TOY, "image_size": (20, 30)}
    with pytest.raises(ValueError, match=r"image_size \(20, 30\) is not a multiple of patch_size \(8, 8\)"):
        FoundationTransformer(**options)
    model = checks.fill_by_name(FoundationTransformer(**options, crop_border=True))
    model.eval()
    x = checks.pictures(2, (20, 30))
    assert model.patch_embedding.grid_size == (2, 3)
    inside = checks.fill_by_name(FoundationTransformer(**{**TOY, "image_size": (16, 24)}))
    inside.eval()
    np.testing.assert_allclose(model(x).numpy(), inside(x[:, :, :16, :24]).numpy(), atol=1e-5)


def test_tanh_gelu():
    x = paddle.linspace(-8, 8, 1001)
    expected = paddle.nn.functional.gelu(x, approximate=True)
    np.testing.assert_allclose(TanhGELU()(x).numpy(), expected.numpy(), atol=2e-6)
    assert float((TanhGELU()(x) - paddle.nn.functional.gelu(x)).abs().max()) > 1e-4


def test_swiglu_against_numpy():
    layer = checks.fill_by_name(SwiGLU(24, 8 / 3))
    x = checks.pictures(1, (5, 24))[:, 0]  # [1, 5, 24]
    both = x.numpy() @ layer.fc1.weight.numpy() + layer.fc1.bias.numpy()
    gate, value = both[..., :64], both[..., 64:]
    expected = (gate / (1 + np.exp(-gate)) * value) @ layer.fc2.weight.numpy() + layer.fc2.bias.numpy()
    np.testing.assert_allclose(layer(x).numpy(), expected, atol=1e-5)


def test_layer_scale_is_shown_to_start_small():
    x = checks.pictures(1, 8)
    np.testing.assert_allclose(LayerScale(8, 0.25)(x).numpy(), x.numpy() / 4)


def test_attention_pool_shows_its_weights_and_counts_its_products():
    pool = checks.fill_by_name(AttentionPool(32, 4, 4.0, "gelu", 1e-6))
    x = checks.pictures(3, (7, 32))[:, 0]  # [3, 7, 32]
    weights = []
    pool.softmax.register_forward_post_hook(lambda layer, inputs, output: weights.append(output))
    assert pool(x).shape == [3, 32]
    assert weights[0].shape == [3, 4, 1, 7]
    np.testing.assert_allclose(weights[0].sum(axis=-1).numpy(), 1.0, atol=1e-5)
    # Per picture: 7 scores and 7 weighted values, each of 32 features.
    assert pool.multiply_adds(x) == 3 * (7 * 32 + 7 * 32)


def test_groups_of_parameters():
    model = FoundationTransformer(**TOY, layer_scale=1e-5, pre_norm=True, num_registers=2, pool="attention")
    parameters = dict(model.named_parameters())
    assert model.no_weight_decay() == {
        "patch_embedding.class_token",
        "patch_embedding.register_tokens",
        "patch_embedding.position_embedding",
        "attention_pool.latent",
    }
    assert build("siglip_gap").no_weight_decay() == {"patch_embedding.position_embedding"}
    depths = {name: model.layer_index(name) for name in parameters}
    assert depths["patch_embedding.register_tokens"] == depths["pre_norm.weight"] == 0
    assert depths["encoder.layers.0.attn_scale.gamma"] == 1
    assert depths["encoder.layers.1.mlp_scale.gamma"] == 2
    assert depths["encoder.norm.weight"] == depths["attention_pool.q.weight"] == depths["classifier.bias"] == 3


def test_clip_has_no_bias_under_its_norm():
    assert "patch_embedding.patch_embedding.bias" not in build("clip").state_dict()
    assert "patch_embedding.patch_embedding.bias" in build("dinov2").state_dict()


def test_checkpointing_recomputes_every_layer_and_changes_no_gradient():
    model = FoundationTransformer(**TOY, layer_scale=1e-5, use_checkpoint=True)
    assert model.encoder.use_checkpoint
    again, difference = checks.checkpoint_effect(model, checks.pictures(2, 16))
    assert again == 2
    assert difference < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(mlp="gleu"), r"mlp is 'gleu'; it must be one of gelu, gelu_tanh, quick_gelu, swiglu. Did you mean"),
        (dict(pool="max"), r"pool is 'max'; it must be one of token, average, attention"),
        (dict(class_token="none"), r"class_token is 'none'; it must be one of positioned, plain, absent"),
        (dict(class_token="absent"), r"pool is 'token' but class_token is 'absent'; use pool 'average' or 'attention'"),
        (dict(fc_norm=True), r"fc_norm is True with pool 'token'; it goes with pool 'average' only"),
        (dict(num_registers=-1), r"num_registers is -1; it must be 0 or more"),
        (dict(num_heads=5), r"embed_dim 32 is not a multiple of num_heads 5"),
        (dict(drop_path=[0.1]), r"drop_path has 1 values for 2 layers"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        FoundationTransformer(**{**TOY, **options})


def test_wrong_picture():
    with pytest.raises(ValueError, match=r"\[2, 1, 16, 16\]; this model was built for \[batch, 3, 16, 16\]"):
        FoundationTransformer(**TOY)(checks.pictures(2, 16, 1))
