"""The article's network: its faults stay mended, its options do what they say."""

from __future__ import annotations

import inspect

import numpy as np
import paddle
import pytest

from paddlevit import create_model
from paddlevit.layers import linear_drop_path, sinusoid_table
from paddlevit.models.vit import Attention, Encoder, EncoderLayer, PatchEmbedding, VisualTransformer

TOY = dict(image_size=(8, 12), patch_size=4, in_channels=2, num_classes=5, embed_dim=16, depth=3, num_heads=4)


def toy(**options):
    paddle.seed(7)
    model = VisualTransformer(**{**TOY, **options})
    _fill(model)
    model.eval()
    return model


def _fill(model):
    """Replace every parameter by noise, so that no zero initialisation hides an effect."""
    rng = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.set_value(rng.normal(0, 0.3, parameter.shape).astype("float32"))


def picture(batch=2):
    return paddle.to_tensor(np.random.default_rng(1).normal(size=(batch, 2, 8, 12)).astype("float32"))


def numpy_vit(model, x):
    """The paper's equations 1 to 4 in float64, from the model's parameters."""
    p = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    batch, channels, height, width = x.shape
    rows, columns, side, heads = height // 4, width // 4, 4, 4
    patches = x.reshape(batch, channels, rows, side, columns, side).transpose(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(batch, rows * columns, -1)
    kernel = p["patch_embedding.patch_embedding.weight"].reshape(16, -1).T
    tokens = patches @ kernel + p["patch_embedding.patch_embedding.bias"]
    tokens = np.concatenate([np.repeat(p["patch_embedding.class_token"], batch, 0), tokens], 1)
    tokens = tokens + p["patch_embedding.position_embedding"]

    def norm(z, name):
        z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
        return z * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(z, name):
        return z @ p[f"{name}.weight"] + p[f"{name}.bias"]

    def gelu(z):
        from math import erf

        return 0.5 * z * (1 + np.vectorize(erf)(z / np.sqrt(2)))

    for i in range(3):
        name = f"encoder.layers.{i}"
        q, k, v = np.split(linear(norm(tokens, f"{name}.attn_norm"), f"{name}.attn.qkv"), 3, -1)
        out = np.empty_like(q)
        for head in range(heads):
            part = slice(head * 4, head * 4 + 4)
            scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / np.sqrt(4)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[..., part] = weights / weights.sum(-1, keepdims=True) @ v[..., part]
        tokens = tokens + linear(out, f"{name}.attn.proj")
        hidden = gelu(linear(norm(tokens, f"{name}.mlp_norm"), f"{name}.mlp.fc1"))
        tokens = tokens + linear(hidden, f"{name}.mlp.fc2")
    return linear(norm(tokens, "encoder.norm")[:, 0], "classifier")


def test_equals_the_papers_equations_in_numpy():
    model, x = toy(), picture()
    expected = numpy_vit(model, x.numpy().astype(np.float64))
    actual = model(x).numpy()
    assert np.linalg.norm(actual - expected) / np.linalg.norm(expected) < 1e-5


def test_parameters_of_the_papers_base():
    with paddle.LazyGuard():
        model = VisualTransformer()
    assert sum(int(np.prod(p.shape)) for p in model.parameters()) == 86_567_656
    assert model.encoder.layers[0].attn_norm._epsilon == 1e-6


def test_the_articles_names_are_the_keys():
    keys = set(toy(depth=1).state_dict())
    layer = "encoder.layers.0."
    expected = {"patch_embedding.class_token", "patch_embedding.position_embedding"}
    for name in ("patch_embedding.patch_embedding", "encoder.norm", "classifier"):
        expected |= {f"{name}.weight", f"{name}.bias"}
    for name in ("attn_norm", "attn.qkv", "attn.proj", "mlp_norm", "mlp.fc1", "mlp.fc2"):
        expected |= {f"{layer}{name}.weight", f"{layer}{name}.bias"}
    assert keys == expected


def test_the_articles_call_runs_summary(capsys):
    vit = VisualTransformer(depth=3, num_heads=8)
    table = paddle.summary(vit, (4, 3, 224, 224))
    printed = capsys.readouterr().out
    assert "[4, 197, 768]" in printed
    assert "[4, 1000]" in printed
    assert table["total_params"] == sum(int(np.prod(p.shape)) for p in vit.parameters())


def test_nothing_is_printed_and_logits_are_returned(capsys):
    assert toy()(picture()).shape == [2, 5]
    assert capsys.readouterr().out == ""


def test_the_encoder_gets_tokens_not_channels():
    model = toy()
    seen = []
    handle = model.encoder.register_forward_pre_hook(lambda layer, inputs: seen.append(list(inputs[0].shape)))
    model(picture(3))
    handle.remove()
    assert seen == [[3, 1 + 2 * 3, 16]]


def test_the_encoder_builds_every_layer_as_configured():
    encoder = Encoder(24, 4, 0.3, num_heads=6, qkv_bias=False, mlp_ratio=2.0, dropout=0.1, attention_dropout=0.2)
    assert len(encoder.layers) == 4
    for index, layer in enumerate(encoder.layers):
        assert layer.attn.num_heads == 6
        assert layer.attn.qkv.bias is None
        assert layer.attn.qkv.weight.shape == [24, 72]
        assert layer.mlp.fc1.weight.shape == [24, 48]
        assert (layer.mlp.dropout.p, layer.attn.dropout.p, layer.attn.attention_dropout.p) == (0.1, 0.1, 0.2)
        assert layer.drop_path.probability == pytest.approx(0.1 * index)


def test_drop_path_rises_linearly():
    assert linear_drop_path(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert linear_drop_path([0.1, 0.1], 2) == [0.1, 0.1]
    with pytest.raises(ValueError, match="drop_path has 2 values for 3 layers"):
        linear_drop_path([0.1, 0.1], 3)


def test_tokens_get_the_embedding_dropout():
    embedding = PatchEmbedding(8, 4, 1, 400, dropout=0.5)
    _fill(embedding)
    embedding.train()
    dropped = float((embedding(paddle.ones([1, 1, 8, 8])) == 0).astype("float32").mean())
    assert 0.45 < dropped < 0.55


CHANGES = {
    "image_size": (8, 8),
    "patch_size": 2,
    "in_channels": 1,
    "num_classes": 4,
    "embed_dim": 20,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "qkv_bias": False,
    "dropout": 0.5,
    "attention_dropout": 0.5,
    "drop_path": 0.5,
    "qk_scale": 0.1,
    "pool": "average",
    "position": "sinusoidal",
    "position_merge": "concat",
    "norm": "batch",
    "norm_order": "post",
}


@pytest.mark.parametrize("keyword", list(inspect.signature(VisualTransformer).parameters))
def test_every_keyword_changes_something(keyword):
    if keyword == "use_checkpoint":
        pytest.skip("changes memory only; test_recomputing_gives_the_same_gradients covers it")
    base, other = toy(), toy(**{keyword: CHANGES[keyword]})
    shapes = [{name: list(t.shape) for name, t in model.state_dict().items()} for model in (base, other)]
    if shapes[0] != shapes[1]:
        return
    base.train()
    other.train()
    outputs = []
    for model in (base, other):
        paddle.seed(3)
        x = picture() if keyword not in ("image_size", "in_channels") else None
        outputs.append(model(x).numpy())
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def test_no_positions_makes_the_average_blind_to_order():
    model = toy(position="none", pool="average")
    x = picture()
    swapped = paddle.concat([x[:, :, 4:], x[:, :, :4]], axis=2)
    np.testing.assert_allclose(model(x).numpy(), model(swapped).numpy(), atol=1e-5)
    assert np.abs((toy(pool="average")(x) - toy(pool="average")(swapped)).numpy()).max() > 1e-3


def test_sinusoidal_positions_are_fixed():
    model = toy(position="sinusoidal")
    assert "patch_embedding.position_embedding" not in model.state_dict()
    np.testing.assert_array_equal(model.patch_embedding.position_embedding.numpy(), sinusoid_table(7, 16))


def test_post_norm_normalises_the_sum():
    layer = EncoderLayer(16, 4, norm_order="post")
    layer.eval()
    out = layer(paddle.randn([2, 7, 16])).numpy()
    np.testing.assert_allclose(out.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(-1), 1, atol=1e-3)


def test_batch_norm_normalises_over_batch_and_tokens():
    layer = EncoderLayer(16, 4, norm="batch")
    layer.train()
    out = layer.attn_norm(paddle.randn([8, 7, 16]) * 3 + 1).numpy()
    np.testing.assert_allclose(out.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 1)), 1, atol=1e-2)


def test_attention_scale():
    assert Attention(16, 4).scales == 0.5
    assert Attention(16, 4, qk_scale=2.0).scales == 2.0


def test_recomputing_gives_the_same_gradients():
    gradients = []
    for use_checkpoint in (False, True):
        model = toy(use_checkpoint=use_checkpoint, dropout=0.2, drop_path=0.3)
        model.train()
        paddle.seed(5)
        model(picture()).square().sum().backward()
        gradients.append({name: p.grad.numpy() for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradient, gradients[1][name], rtol=1e-5, atol=1e-6)


def test_feature_maps_are_the_layers_outputs():
    model, x = toy(), picture()
    maps = model.feature_maps(x)
    assert [m.shape for m in maps] == [[2, 16, 2, 3]] * 3
    tokens = model.forward_features(x)[:, 1:]
    last = model.encoder.norm(maps[-1].flatten(2).transpose([0, 2, 1]))
    np.testing.assert_allclose(last.numpy(), tokens.numpy(), atol=1e-5)
    np.testing.assert_array_equal(model.feature_maps(x, [-1])[0].numpy(), maps[2].numpy())
    with pytest.raises(ValueError, match=r"layers is \[3\]; this encoder has 3 layers, 0 to 2."):
        model.feature_maps(x, [3])


def test_no_classes_gives_features():
    model = toy(num_classes=0)
    np.testing.assert_array_equal(model(picture()).numpy(), model.forward_features(picture())[:, 0].numpy())
    model.reset_classifier(3)
    assert model(picture()).shape == [2, 3]
    with pytest.raises(ValueError, match="num_classes is -1"):
        model.reset_classifier(-1)


INITIAL_STD = {
    "patch_embedding.patch_embedding.weight": (3 * 16 * 16) ** -0.5,
    "patch_embedding.patch_embedding.bias": 0.0,
    "patch_embedding.class_token": 0.0,
    "patch_embedding.position_embedding": 0.02,
    "encoder.layers.0.attn.qkv.weight": (6 / (2 * 384)) ** 0.5 / 3**0.5,  # Xavier of each D x D matrix
    "encoder.layers.0.attn.qkv.bias": 0.0,
    "encoder.layers.0.attn.proj.weight": (6 / (2 * 384)) ** 0.5 / 3**0.5,
    "encoder.layers.0.mlp.fc1.weight": (6 / (384 * 5)) ** 0.5 / 3**0.5,
    "encoder.layers.0.mlp.fc1.bias": 1e-6,
    "encoder.layers.0.mlp.fc2.weight": (6 / (384 * 5)) ** 0.5 / 3**0.5,
    "encoder.layers.0.mlp.fc2.bias": 1e-6,
    "classifier.weight": 0.0,
    "classifier.bias": 0.0,
}


def test_initialisation_is_the_papers():
    state = create_model("vit_small_patch16_224", depth=1).state_dict()
    for name, std in INITIAL_STD.items():
        values = state[name].numpy()
        assert values.std() == pytest.approx(std, rel=0.1, abs=1e-12), name
        assert abs(values.mean()) <= 4 * std / values.size**0.5, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 10}, r"image_size \(10, 10\) is not a multiple of patch_size \(4, 4\)"),
        ({"num_heads": 3}, "embed_dim 16 is not a multiple of num_heads 3"),
        ({"pool": "max"}, "pool is 'max'; it must be one of token, average"),
        ({"position": "learnt"}, r"position is 'learnt'.* Did you mean \"learned\"\?"),
        ({"position_merge": "sum"}, "position_merge is 'sum'; it must be one of add, concat"),
        ({"norm": "group"}, "norm is 'group'; it must be one of layer, batch"),
        ({"norm_order": "both"}, "norm_order is 'both'; it must be one of pre, post"),
        ({"image_size": (8, 12, 3)}, r"image_size is \(8, 12, 3\); it must be a positive whole number or two"),
        ({"drop_path": 1.0}, "drop_path is 1.0; it must be at least 0 and below 1"),
        ({"embed_dim": 15, "num_heads": 3, "position_merge": "concat"}, "embed_dim is 15; .* needs an even number"),
    ],
)
def test_impossible_sizes_and_unknown_choices(options, message):
    with pytest.raises(ValueError, match=message):
        VisualTransformer(**{**TOY, **options})


def test_a_picture_of_another_size_is_refused():
    with pytest.raises(
        ValueError, match=r"The input has shape \[1, 3, 8, 12\]; this model was built for \[batch, 2, 8"
    ):
        toy()(paddle.zeros([1, 3, 8, 12]))


def test_paddle_saves_it_with_open_sizes(tmp_path):
    """The picture's size is not known then, and not checked."""
    model, path = toy(), str(tmp_path / "model")
    paddle.jit.save(model, path, input_spec=[paddle.static.InputSpec([None, 2, None, None], "float32")])
    saved = paddle.jit.load(path)(picture())
    np.testing.assert_allclose(saved.numpy(), model(picture()).numpy(), atol=1e-5)
