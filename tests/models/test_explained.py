"""The explained Vision Transformers: the numbers of the article's walk-through, and what was mended."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevit.complexity import count_multiply_adds, count_parameters
from paddlevit.layers import Identity
from paddlevit.models import create_model, get_spec
from paddlevit.models.explained import (
    MODELS,
    Attention,
    Encoding,
    NeuralNet,
    Patch_Tokenization,
    T2T_ViT,
    Tokens2Token,
    TokenTransformer,
    ViT_Backbone,
    ViT_Model,
    get_sinusoid_encoding,
)
from tests.models import checks

TOY = dict(image_size=(8, 12), patch_size=4, in_channels=2, num_classes=5, embed_dim=16, depth=2, num_heads=4)
T2T_TOY = dict(
    image_size=(16, 24), in_channels=2, num_classes=5, embed_dim=16, depth=2, softsplit_kernels=(7, 3, 3), token_dim=8
)
BUILDS = [(ViT_Model, TOY), (T2T_ViT, T2T_TOY)]


def mountains() -> np.ndarray:
    """A picture of 60 x 100 pixels from 0 to 1, in place of the article's painting."""
    picture = checks.pictures(1, (60, 100), 1).numpy()[0, 0]
    return (picture - picture.min()) / (picture.max() - picture.min())


def outputs(layer: nn.Layer, seen: list) -> None:
    """Keep the shapes of what goes into a layer and comes out of it."""
    layer.register_forward_post_hook(lambda _, inputs, output: seen.append((inputs[0].shape, output.shape)))


# Image tokenization


def test_picture_becomes_15_tokens_of_length_400():
    picture = mountains()
    tokenize = Patch_Tokenization(img_size=(1, 60, 100), patch_size=20, token_len=768)
    x = paddle.to_tensor(picture[None, None])
    tokens = tokenize.split(x).transpose([0, 2, 1])
    assert tokens.shape == [1, 15, 400]
    rows = picture.reshape(3, 20, 5, 20).transpose(0, 2, 1, 3).reshape(15, 400)
    np.testing.assert_array_equal(tokens[0].numpy(), rows)
    np.testing.assert_array_equal(tokens[0, 11].numpy(), picture[40:60, 20:40].reshape(400))  # the article's patch 12
    assert tokenize(x).shape == [1, 15, 768]
    np.testing.assert_allclose(tokenize(x).numpy(), tokenize.project(tokens).numpy(), atol=1e-5)
    assert tokenize.num_tokens == 15
    assert isinstance(tokenize.num_tokens, int)
    assert tokenize.grid_size == (3, 5)


def test_tokenization_is_a_convolution():
    tokenize = checks.fill_by_name(Patch_Tokenization((3, 8, 12), 4, 10))
    x = checks.pictures(2, (8, 12))
    kernel = tokenize.project.weight.t().reshape([10, 3, 4, 4])
    expected = nn.functional.conv2d(x, kernel, tokenize.project.bias, stride=4).flatten(2).transpose([0, 2, 1])
    np.testing.assert_allclose(tokenize(x).numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("img_size", [(1, 61, 100), (1, 60, 110)])
def test_patches_must_fill_the_picture(img_size):
    with pytest.raises(ValueError, match=r"image_size \(6\d, 1\d0\) is not a multiple of patch_size \(20, 20\)"):
        Patch_Tokenization(img_size, 20)


# Token processing


def test_sinusoid_encoding_has_the_published_sums():
    table = get_sinusoid_encoding(num_tokens=176, token_len=768)
    assert table.shape == [1, 176, 768]
    assert table.numpy().sum(dtype=np.float64) == pytest.approx(44161.64, abs=0.01)
    np.testing.assert_allclose(table[0, 1, :4].numpy(), [0.8415, 0.5403, 0.8284, 0.5601], atol=5e-5)
    assert get_sinusoid_encoding(15, 400).numpy().sum(dtype=np.float64) == pytest.approx(2754.778, abs=0.001)


def test_token_processing_puts_the_prediction_token_first():
    backbone = ViT_Backbone(num_tokens=175, token_len=768, depth=0, num_classes=1)
    x = paddle.rand([13, 175, 768])
    backbone.cls_token.set_value(paddle.zeros([1, 1, 768]))
    tokens = backbone.token_processing(x)
    assert tokens.shape == [13, 176, 768]
    positions = get_sinusoid_encoding(176, 768)
    np.testing.assert_array_equal(tokens[5, 0].numpy(), positions[0, 0].numpy())
    np.testing.assert_array_equal(tokens[:, 1:].numpy(), (x + positions[:, 1:]).numpy())


def test_positions_are_frozen_and_saved():
    model = ViT_Model(**TOY)
    assert model.backbone.pos_embed.stop_gradient
    assert "backbone.pos_embed" in model.state_dict()
    np.testing.assert_array_equal(model.backbone.pos_embed.numpy(), get_sinusoid_encoding(7, 16).numpy())


# Attention


@pytest.mark.parametrize(("num_heads", "head_dim"), [(1, 64), (4, 16)])
def test_attention_of_49_channels_to_64(num_heads, head_dim):
    attention, seen = Attention(dim=49, chan=64, num_heads=num_heads), []
    outputs(attention.softmax, seen)
    split = attention.qkv(paddle.rand([13, 100, 49])).reshape([13, 100, 3 * num_heads, attention.head_dim])
    assert split.transpose([0, 2, 1, 3]).chunk(3, axis=1)[0].shape == [13, num_heads, 100, head_dim]
    assert attention(paddle.rand([13, 100, 49])).shape == [13, 100, 64]
    assert seen == [([13, num_heads, 100, 100], [13, num_heads, 100, 100])]
    assert attention.scale == head_dim**-0.5
    assert attention.multiply_adds(paddle.rand([13, 100, 49])) == 13 * 2 * 100 * 100 * 64


@pytest.mark.parametrize("qk_scale", [None, 0.3, 0.0])
def test_attention_equals_its_definition(qk_scale):
    attention = checks.fill_by_name(Attention(6, 8, num_heads=2, qkv_bias=True, qk_scale=qk_scale))
    x = np.random.default_rng(0).standard_normal((3, 5, 6))
    p = {name: value.numpy().astype(np.float64) for name, value in attention.state_dict().items()}
    q, k, v = np.split(x @ p["qkv.weight"] + p["qkv.bias"], 3, -1)
    out = np.empty_like(v)
    for part in (slice(0, 4), slice(4, 8)):
        scores = q[..., part] @ k[..., part].transpose(0, 2, 1) * (0.5 if qk_scale is None else qk_scale)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[..., part] = weights / weights.sum(-1, keepdims=True) @ v[..., part]
    expected = v + out @ p["proj.weight"] + p["proj.bias"]  # the values skip the attention
    assert checks.relative_error(attention(paddle.to_tensor(x.astype("float32"))).numpy(), expected) < 1e-5


def test_swapped_tokens_swap_the_published_integers():
    """The article draws whole Q, K and V, leaves the softmax out, and swaps two tokens."""
    np.random.seed(21)
    qkv = [np.random.randint(1, 20, (4, 9)) for _ in range(3)]
    attention, seen = Attention(dim=27, chan=9, qk_scale=1.0), []
    attention.qkv.weight.set_value(paddle.eye(27))
    attention.proj.weight.set_value(paddle.eye(9))
    attention.softmax = Identity()
    attention.softmax.register_forward_post_hook(lambda _, inputs, output: seen.append(output.numpy()[0, 0]))
    x = paddle.to_tensor(np.concatenate(qkv, 1)[None].astype("float32"))
    weighted = (attention(x) - x[:, :, 18:]).numpy()[0]
    assert seen[0][0].tolist() == [1111, 1014, 895, 1003]
    assert weighted[0].tolist() == [43995, 27017, 56011, 50518, 13848, 18755, 36562, 30251, 42139]
    order = [2, 1, 0, 3]
    swapped = (attention(x[:, order]) - x[:, order, 18:]).numpy()[0]
    np.testing.assert_array_equal(seen[1], seen[0][order][:, order])
    np.testing.assert_array_equal(swapped, weighted[order])


def test_only_positions_tell_a_scrambled_picture_apart():
    np.random.seed(21)
    order = np.random.permutation(15)
    assert order.tolist() == [14, 5, 7, 10, 6, 1, 2, 12, 3, 13, 11, 0, 4, 8, 9]
    picture = mountains()
    patches = picture.reshape(3, 20, 5, 20).transpose(0, 2, 1, 3).reshape(15, 20, 20)
    scrambled = patches[order].reshape(3, 5, 20, 20).transpose(0, 2, 1, 3).reshape(60, 100)
    both = paddle.to_tensor(np.stack([picture, scrambled])[:, None])

    model = checks.fill_by_name(ViT_Model(embed_dim=32, depth=2))
    tokens = model.patch_tokens(both).numpy()
    np.testing.assert_array_equal(tokens[1], tokens[0][order])
    with_positions = model(both).numpy()
    assert abs(with_positions[0] - with_positions[1]) > 1e-3
    model.backbone.pos_embed.set_value(paddle.zeros([1, 16, 32]))
    without = model(both).numpy()
    assert without[0] == pytest.approx(without[1], abs=1e-5)


# Encoding block and neural net


def test_encoding_block_step_by_step():
    block = Encoding(dim=768, num_heads=4, hidden_chan_mul=1.5)
    x = paddle.rand([13, 176, 768])
    y = x + block.attn(block.norm1(x))
    z = y + block.neuralnet(block.norm2(y))
    assert y.shape == z.shape == [13, 176, 768]
    assert block.neuralnet.fc1.weight.shape == [768, 1152]
    np.testing.assert_allclose(block(x).numpy(), z.numpy(), atol=1e-6)


def test_encoding_block_takes_other_activations_and_normalisations():
    x = checks.pictures(1, (5, 8), 1).squeeze(1)
    plain = checks.fill_by_name(Encoding(8))(x)
    assert not (checks.fill_by_name(Encoding(8, act_layer=nn.ReLU))(x) == plain).all()
    unnormalised = Encoding(8, norm_layer=lambda dim: Identity())
    assert not (checks.fill_by_name(unnormalised)(x) == plain).all()
    assert plain.shape == [1, 5, 8]


def test_neural_net_changes_the_length_of_a_token():
    x = paddle.rand([2, 3, 6])
    net = NeuralNet(6)
    assert [net.fc1.weight.shape, net.fc2.weight.shape] == [[6, 6], [6, 6]]
    net = NeuralNet(6, hidden_chan=7, out_chan=8, act_layer=nn.ReLU)
    assert net(x).shape == [2, 3, 8]
    np.testing.assert_allclose(net(x).numpy(), net.fc2(nn.functional.relu(net.fc1(x))).numpy(), atol=1e-6)


# Prediction processing


def test_prediction_is_made_from_the_prediction_token():
    backbone = checks.fill_by_name(ViT_Backbone(num_tokens=175, token_len=768, depth=0, num_classes=1))
    x = paddle.rand([1, 175, 768])
    tokens = backbone.forward_features(x)
    assert tokens.shape == [1, 176, 768]
    prediction_token = backbone.norm(backbone.token_processing(x))[:, 0]
    assert prediction_token.shape == [1, 768]
    prediction = backbone(x)
    assert prediction.shape == [1, 1]
    np.testing.assert_allclose(prediction.numpy(), backbone.head(prediction_token).numpy(), atol=1e-5)


# Tokens to token


def test_soft_split_of_20():
    module = Tokens2Token((1, 60, 100), softsplit_kernels=(20, 3, 3), token_chan=8, token_len=16)
    x = mountains()
    tokens = module.soft_split0(paddle.to_tensor(x[None, None]))
    assert tokens.shape == [1, 400, 60]
    assert module.grid_sizes[0] == (6, 10)
    padded = np.pad(x, 5)
    assert padded.shape == (70, 110)
    np.testing.assert_array_equal(tokens[0, :, 13].numpy(), padded[10:30, 30:50].reshape(400))  # row 1, column 3


def test_tokens_to_token_step_by_step():
    module, seen = Tokens2Token((1, 400, 100), softsplit_kernels=(7, 3, 3), token_chan=64, token_len=768), []
    for layer in (module.transformer1, module.transformer2, module.project):
        outputs(layer, seen)
    assert module(paddle.rand([1, 1, 400, 100])).shape == [1, 175, 768]
    assert seen == [
        ([1, 2500, 49], [1, 2500, 64]),
        ([1, 650, 576], [1, 650, 64]),
        ([1, 175, 576], [1, 175, 768]),
    ]
    assert module.grid_sizes == [(100, 25), (50, 13), (25, 7)]
    assert module.num_tokens == 175


def test_token_transformer_has_no_shortcut_around_its_attention():
    layer, x = checks.fill_by_name(TokenTransformer(6, 4, hidden_chan_mul=2.0, num_heads=2)), paddle.rand([2, 5, 6])
    attended = layer.attn(layer.norm1(x))
    expected = attended + layer.neuralnet(layer.norm2(attended))
    assert layer.neuralnet.fc1.weight.shape == [4, 8]
    np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), atol=1e-6)


# The models


@pytest.mark.parametrize(
    "name",
    [
        "explained_vit-num_classes=10",
        "explained_t2t_vit-num_classes=10-depth=2",
        "explained_t2t_vit-img_size=60x100-num_classes=10",
    ],
)
def test_predictions_equal_the_articles_code(name):
    assert checks.golden_error(name, renamed=()) < 1e-5


@pytest.mark.parametrize(
    ("name", "total", "num_tokens"), [("explained_vit", 85_350_145, 15), ("explained_t2t_vit", 85_963_075, 216)]
)
def test_published_parameter_totals(name, total, num_tokens):
    with paddle.LazyGuard():
        model = create_model(name)
    assert count_parameters(model) == total
    assert getattr(model, model.tokens_name).num_tokens == num_tokens
    assert count_parameters(model) - count_parameters(model, trainable_only=True) == (num_tokens + 1) * 768


def test_walk_through():
    model = create_model("explained_vit", embed_dim=32, depth=2)
    assert model(paddle.to_tensor(mountains()[None, None])).shape == [1, 1]
    assert isinstance(model, ViT_Model)
    assert set(MODELS) == {"explained_vit", "explained_t2t_vit"}


@pytest.mark.parametrize(("name", "size"), [("explained_vit", (60, 100)), ("explained_t2t_vit", (1700, 500))])
def test_pictures_are_used_as_they_are(name, size):
    preprocessing = get_spec(name).preprocessing
    assert (preprocessing.image_size, preprocessing.crop_pct, preprocessing.crop_mode) == (size, 1.0, "squash")
    assert (preprocessing.mean, preprocessing.std) == ((0.0,), (1.0,))


def test_multiply_adds():
    dim, tokens = 16, 7
    linear = 6 * 32 * dim + 2 * tokens * (4 * dim * dim + 2 * dim * 4 * dim) + dim * 5
    assert count_multiply_adds(ViT_Model(**TOY), [1, 2, 8, 12]) == linear + 2 * 2 * tokens**2 * dim


@pytest.mark.parametrize(("build", "options"), BUILDS)
def test_initialization(build, options):
    for name, parameter in build(**{**options, "embed_dim": 96, "qkv_bias": True}).named_parameters():
        value = parameter.numpy()
        if parameter.stop_gradient:
            continue
        if "norm" in name:
            assert (value == (1.0 if name.endswith("weight") else 0.0)).all(), name
        elif name.endswith("bias"):
            assert (value == 0.0).all(), name
        else:
            assert value.std() == pytest.approx(0.02, rel=0.25 if value.size < 200 else 0.1), name


@pytest.mark.parametrize(("build", "options"), BUILDS)
def test_every_trainable_parameter_learns(build, options):
    model = build(**options)
    x = checks.pictures(2, options["image_size"], 2)
    assert checks.without_gradient(model, x) == [f"{model.backbone_name}.pos_embed"]


@pytest.mark.parametrize(("build", "options"), BUILDS)
def test_evaluation_is_independent_of_the_batch(build, options):
    assert checks.batch_dependence(build(**options), checks.pictures(3, options["image_size"], 2)) < 1e-5


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("image_size", (16, 12)),
        ("patch_size", 2),
        ("in_channels", 1),
        ("num_classes", 7),
        ("embed_dim", 32),
        ("depth", 3),
        ("num_heads", 2),
        ("mlp_ratio", 2.0),
        ("qkv_bias", True),
        ("qk_scale", 0.1),
        ("qk_scale", 0.0),
    ],
)
def test_every_keyword_of_the_vit_changes_something(keyword, value):
    options = {**TOY, keyword: value}
    changed = checks.observe(ViT_Model(**options), checks.pictures(2, options["image_size"], options["in_channels"]))
    assert changed != checks.observe(ViT_Model(**TOY), checks.pictures(2, (8, 12), 2))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("image_size", (32, 24)),
        ("in_channels", 1),
        ("num_classes", 7),
        ("embed_dim", 32),
        ("depth", 3),
        ("num_heads", 2),
        ("mlp_ratio", 2.0),
        ("qkv_bias", True),
        ("qk_scale", 0.1),
        ("softsplit_kernels", [5, 3, 3]),
        ("softsplit_kernels", [7, 3, 2]),
        ("token_dim", 16),
        ("token_mlp_ratio", 2.0),
    ],
)
def test_every_keyword_of_the_t2t_vit_changes_something(keyword, value):
    options = {**T2T_TOY, keyword: value}
    changed = checks.observe(T2T_ViT(**options), checks.pictures(2, options["image_size"], options["in_channels"]))
    assert changed != checks.observe(T2T_ViT(**T2T_TOY), checks.pictures(2, (16, 24), 2))


@pytest.mark.parametrize(("build", "options", "grid"), [(ViT_Model, TOY, [2, 3]), (T2T_ViT, T2T_TOY, [1, 2])])
def test_feature_maps_are_the_image_tokens(build, options, grid):
    model, x = checks.fill_by_name(build(**options)), checks.pictures(2, options["image_size"], 2)
    first, last = model.feature_maps(x, [0, -1])
    assert first.shape == last.shape == [2, 16, *grid]
    tokens = getattr(model, model.backbone_name).norm(last.flatten(2).transpose([0, 2, 1]))
    np.testing.assert_allclose(tokens.numpy(), model.forward_features(x)[:, 1:].numpy(), atol=1e-5)
    assert len(model.feature_maps(x)) == 2
    with pytest.raises(ValueError, match=r"layers is \[2\]"):
        model.feature_maps(x, [2])


@pytest.mark.parametrize(("build", "options"), BUILDS)
def test_reset_classifier(build, options):
    model, x = build(**options), checks.pictures(2, options["image_size"], 2)
    np.testing.assert_allclose(model(x).numpy(), model.forward_head(model.forward_features(x)).numpy(), atol=1e-6)
    model.reset_classifier(80)
    head = getattr(model, model.backbone_name).head
    assert model.num_classes == 80
    assert head.weight.shape == [16, 80]
    assert float(head.weight.std()) == pytest.approx(0.02, rel=0.1)
    model.reset_classifier(0)
    assert model.num_classes == 0
    assert model(x).shape == [2, model.num_features]


@pytest.mark.parametrize(("build", "options"), BUILDS)
def test_groups_of_parameters(build, options):
    model = build(**options)
    names, backbone = [name for name, _ in model.named_parameters()], model.backbone_name
    assert model.no_weight_decay() == {f"{backbone}.cls_token"} <= set(names)
    depths = {name: model.layer_index(name) for name in names}
    assert depths[f"{backbone}.cls_token"] == depths[f"{model.tokens_name}.project.weight"] == 0
    assert {depth for name, depth in depths.items() if name.startswith(model.tokens_name)} == {0}
    assert [depths[f"{backbone}.blocks.{i}.neuralnet.fc1.weight"] for i in (0, 1)] == [1, 2]
    assert depths[f"{backbone}.norm.weight"] == depths[f"{backbone}.head.weight"] == 3


def test_impossible_sizes():
    with pytest.raises(ValueError, match="chan 16 is not a multiple of num_heads 3"):
        ViT_Model(**{**TOY, "num_heads": 3})
    with pytest.raises(ValueError, match=r"\[2, 2, 8, 8\]; this model was built for \[batch, 2, 8, 12\]"):
        ViT_Model(**TOY)(checks.pictures(2, 8, 2))
    with pytest.raises(ValueError, match=r"\[2, 1, 16, 24\]; this model was built for \[batch, 2, 16, 24\]"):
        T2T_ViT(**T2T_TOY)(checks.pictures(2, (16, 24), 1))
    with pytest.raises(ValueError, match=r"softsplit_kernels is \(7, 3\); it must be three positive whole numbers"):
        T2T_ViT(**{**T2T_TOY, "softsplit_kernels": (7, 3)})
    with pytest.raises(ValueError, match=r"image_size \(16, 24\) is too small for softsplit_kernels \(99, 3, 3\)"):
        T2T_ViT(**{**T2T_TOY, "softsplit_kernels": (99, 3, 3)})


@pytest.mark.parametrize(("build", "options"), BUILDS)
def test_exported_equals_eager(build, options, tmp_path):
    assert max(checks.export_errors(build(**options), tmp_path, options["image_size"], 2)) < 1e-5
