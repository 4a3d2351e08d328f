"""Attribution against hand-derived values, and on a model that has learned to look at one patch."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevit.explain import (
    attention_rollout,
    attention_weights,
    class_attention,
    grad_cam,
    gradient_rollout,
    occlusion,
    rollout,
)
from paddlevit.models.deit import DataEfficientTransformer
from paddlevit.models.vit import VisualTransformer
from tests.explain.families import FAMILIES, PLAIN, SIZES, batch, build

MAPS = {
    "class attention": lambda model, x, target: class_attention(model, x).mean(axis=1),
    "rollout": lambda model, x, target: attention_rollout(model, x),
    "gradient rollout": gradient_rollout,
    "grad-cam": grad_cam,
    "occlusion": occlusion,
}


def random_attention(layers: int = 3, heads: int = 4, tokens: int = 7) -> list[np.ndarray]:
    scores = np.random.default_rng(0).normal(size=(layers, 2, heads, tokens, tokens))
    return list(np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True))


class Toy(nn.Layer):
    """One head of attention whose logits can be differentiated by hand: one query u, a mean over tokens, a matrix W."""

    def __init__(self, grid: tuple[int, int], u: np.ndarray, w: np.ndarray):
        super().__init__()
        self.attn = ToyAttention(u)
        self.attn.grid_size = grid
        self.w = paddle.to_tensor(w, dtype="float32")  # [D, K]

    def forward(self, x):
        tokens = x.flatten(2).transpose([0, 2, 1])  # [B, N, D], the channels of each pixel
        return paddle.matmul(self.attn(tokens).mean(axis=1), self.w)


class ToyAttention(nn.Layer):
    def __init__(self, u: np.ndarray):
        super().__init__()
        self.u = paddle.to_tensor(u, dtype="float32")  # [D]
        self.softmax = nn.Softmax(axis=-1)

    def forward(self, x):
        scores = paddle.matmul(x, self.u).unsqueeze(1).unsqueeze(1)  # [B, 1, 1, N]
        attn = self.softmax(scores.expand([-1, 1, x.shape[1], -1]))  # [B, 1, N, N]
        return paddle.matmul(attn, x.unsqueeze(1)).squeeze(1)


def toy(seed: int = 0):
    """Model, picture and, by NumPy: tokens [B, N, D], attention [B, N], W."""
    rng = np.random.default_rng(seed)
    u, w = rng.normal(size=5), rng.normal(size=(5, 3))
    picture = rng.normal(size=(2, 5, 2, 3)).astype(np.float32)
    tokens = picture.reshape(2, 5, 6).transpose(0, 2, 1).astype(np.float64)
    attention = np.exp(tokens @ u)
    return Toy((2, 3), u, w), paddle.to_tensor(picture), tokens, attention / attention.sum(axis=1, keepdims=True), u, w


@pytest.mark.parametrize("target", [0, 2])
def test_grad_cam_is_the_hand_derived_gradient(target):
    model, x, tokens, a, u, w = toy()
    weight = w[:, target]
    # logit = sum_j a_j (w . x_j) with a = softmax(u . x), so d logit / d x_j = a_j w + a_j (w . x_j - logit) u.
    values = tokens @ weight  # [B, N]
    logit = (a * values).sum(axis=1, keepdims=True)
    gradient = a[..., None] * weight + (a * (values - logit))[..., None] * u  # [B, N, D]
    expected = np.maximum(np.einsum("bnd,bd->bn", tokens, gradient.mean(axis=1)), 0.0).reshape(2, 2, 3)
    np.testing.assert_allclose(grad_cam(model, x, target), expected, rtol=1e-4, atol=1e-6)
    assert expected.max() > 0.01


def test_gradient_rollout_is_the_hand_derived_gradient():
    model, x, tokens, a, _, w = toy(seed=1)
    # logit = 1 / N sum_ij A_ij (w . x_j): the gradient of A_ij is (w . x_j) / N, the same for every row i.
    helpful = np.maximum(a * (tokens @ w[:, 1]) / 6, 0.0)
    expected = 1 / 6 + helpful  # the mean of the rows of I + C
    np.testing.assert_allclose(gradient_rollout(model, x, 1), expected.reshape(2, 2, 3), rtol=1e-5)
    assert np.ptp(expected) > 0.01


def test_occlusion_of_a_linear_model_is_its_weighted_pixels():
    rng = np.random.default_rng(0)
    weight, picture = rng.normal(size=(3 * 6 * 9, 4)).astype(np.float32), rng.normal(size=(2, 3, 6, 9))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 9, 4))
    model[1].weight.set_value(weight)
    x = paddle.to_tensor(picture.astype(np.float32))
    products = [picture[i] * weight[:, label].reshape(3, 6, 9) for i, label in enumerate((1, 3))]
    drops = occlusion(model, x, [1, 3], patch_size=3, batch_size=4)
    expected = [product.reshape(3, 2, 3, 3, 3).sum(axis=(0, 2, 4)) for product in products]
    np.testing.assert_allclose(drops, expected, rtol=1e-3, atol=1e-5)
    cut = occlusion(model, x, [1, 3], patch_size=4)  # which divides neither 6 nor 9: the last squares are smaller
    assert cut.shape == (2, 2, 3)
    np.testing.assert_allclose(cut[0, 1, 2], products[0][:, 4:, 8:].sum(), rtol=1e-3)
    assert occlusion(model, paddle.zeros([1, 3, 6, 9])).shape == (1, 6, 9)  # a seventh of 6 pixels is one


def test_rollout_of_identities_is_the_identity():
    for fusion in ("mean", "max", "min"):
        result = rollout([np.tile(np.eye(5), (2, 3, 1, 1))] * 4, fusion)
        np.testing.assert_allclose(result, np.tile(np.eye(5), (2, 1, 1)), atol=1e-12)


def test_rollout_rows_sum_to_one():
    for fusion in ("mean", "max", "min"):
        np.testing.assert_allclose(rollout(random_attention(), fusion).sum(axis=-1), 1.0, atol=1e-6)


def test_rollout_of_two_layers_by_hand():
    first, second = np.array([[0.2, 0.8], [0.6, 0.4]]), np.array([[1.0, 0.0], [0.5, 0.5]])
    # Half of each is the shortcut: [[.6, .4], [.3, .7]] and [[1, 0], [.25, .75]].
    expected = [[0.6, 0.4], [0.25 * 0.6 + 0.75 * 0.3, 0.25 * 0.4 + 0.75 * 0.7]]
    np.testing.assert_allclose(rollout([first[None, None], second[None, None]])[0], expected, atol=1e-12)


def test_head_fusion_changes_the_rollout():
    results = [rollout(random_attention(), fusion) for fusion in ("mean", "max", "min")]
    assert not np.allclose(results[0], results[1])
    assert not np.allclose(results[0], results[2])
    with pytest.raises(ValueError, match="head_fusion is 'median'; it must be one of mean, max, min"):
        rollout(random_attention(), "median")


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_the_map_is_the_class_tokens_row(fusion):
    model, x = build("registers"), batch("registers")
    full = rollout([layer.weights for layer in attention_weights(model, x)], fusion)
    expected = full[:, 0, 4:].reshape(2, 4, 6)  # after class token and three registers
    np.testing.assert_allclose(attention_rollout(model, x, fusion), expected, atol=1e-6)


def test_the_map_of_an_average_is_the_mean_of_all_rows():
    model, x = build("vit average"), batch("vit average")
    full = rollout([layer.weights for layer in attention_weights(model, x)])
    np.testing.assert_allclose(attention_rollout(model, x), full.mean(axis=1).reshape(2, 4, 6), atol=1e-6)


def test_the_map_of_a_distilled_model_is_the_mean_of_two_rows():
    model, x = build("deit distilled"), batch("deit distilled")
    full = rollout([layer.weights for layer in attention_weights(model, x)])
    np.testing.assert_allclose(attention_rollout(model, x), full[:, :2, 2:].mean(axis=1).reshape(2, 4, 6), atol=1e-6)


def test_the_map_of_a_learned_query_starts_at_its_attention():
    model, x = build("siglip registers"), batch("siglip registers")
    *layers, pool = attention_weights(model, x)
    full = rollout([layer.weights for layer in layers])
    query = np.pad(pool.weights.mean(axis=1)[:, 0], ((0, 0), (2, 0)))  # it does not look at the registers
    expected = np.einsum("bn,bnm->bm", query, full)[:, 2:].reshape(2, 4, 6)
    np.testing.assert_allclose(attention_rollout(model, x), expected, atol=1e-6)


def test_the_map_of_swin_goes_through_the_merging():
    model, x = build("swin"), batch("swin")
    layers = [layer.weights for layer in attention_weights(model, x)]
    first, second = rollout(layers[:2]), rollout(layers[2:])  # of 8 x 16 tokens and, merged, 4 x 8
    merging = np.zeros((4, 8, 8, 16))
    for row in range(8):
        for column in range(16):
            merging[row // 2, column // 2, row, column] = 1 / 4
    full = second @ merging.reshape(32, 128) @ first
    np.testing.assert_allclose(attention_rollout(model, x), full.mean(axis=1).reshape(2, 8, 16), atol=1e-6)


def test_rollout_loses_nothing_on_the_way():
    for name in ("vit average", "swin", "swin padded", "swin v2", "siglip"):
        np.testing.assert_allclose(attention_rollout(build(name), batch(name)).sum(axis=(1, 2)), 1.0, atol=1e-6)


@pytest.mark.parametrize("layer", [0, -1])
def test_class_attention_is_the_class_tokens_row(layer):
    model, x = build("deit 3"), batch("deit 3")
    (full,) = attention_weights(model, x, [layer])
    expected = full.weights[:, :, 0, 1:].reshape(2, 4, 4, 6)
    np.testing.assert_allclose(class_attention(model, x, layer), expected, atol=1e-7)


def test_class_attention_of_a_learned_query_is_its_row():
    model, x = build("siglip"), batch("siglip")
    (pool,) = attention_weights(model, x, [-1])
    np.testing.assert_allclose(class_attention(model, x), pool.weights.reshape(2, 4, 4, 6), atol=1e-7)


def test_class_attention_keeps_the_fewest_patches_of_a_mass():
    model, x = build("vit"), batch("vit")
    full, kept = (class_attention(model, x, mass=mass).reshape(8, 24) for mass in (1.0, 0.6))
    for before, after in zip(full, kept):
        strongest = np.sort(before)[::-1]
        count = int((after > 0).sum())
        assert strongest[:count].sum() >= 0.6 * before.sum() > strongest[: count - 1].sum()
        np.testing.assert_array_equal(np.sort(after)[::-1][:count], strongest[:count])
    with pytest.raises(ValueError, match="mass is 0; it must be above 0 and at most 1"):
        class_attention(model, x, mass=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_map_of_every_family(name):
    model, x = build(name), batch(name)
    rows, columns = FAMILIES[name][1]
    for method, function in MAPS.items():
        maps = function(model, x, 1)
        finest = method in ("rollout", "gradient rollout") and name.startswith("swin")
        if method == "occlusion":
            side = round(min(SIZES.get(name, (32, 48))) / 7)
            assert maps.shape == (2, *(-(-size // side) for size in x.shape[2:]))
        elif finest:
            assert maps.shape[0] == 2
            assert maps.shape[1] in (2 * rows, 2 * rows - 1)
        else:
            assert maps.shape == (2, rows, columns)
        assert np.isfinite(maps).all()
        if method != "grad-cam":  # which may be nothing where nothing raises the score
            assert np.ptp(maps) > 0
        alone = function(model, x[1:], 1)
        np.testing.assert_allclose(maps[1], alone[0], rtol=1e-3, atol=1e-5 * max(1.0, np.abs(maps).max()))
    assert model.training
    assert not any(layer._forward_post_hooks for layer in model.sublayers(include_self=True))


def test_target_chooses_the_class():
    model, x = build("vit"), batch("vit")
    model.eval()
    predicted = model(x).argmax(axis=1).numpy().tolist()
    for function in (gradient_rollout, grad_cam, occlusion):
        np.testing.assert_array_equal(function(model, x), function(model, x, predicted))
        assert not np.allclose(function(model, x, 0), function(model, x, 1))
        mixed = function(model, x, [0, 1])
        np.testing.assert_allclose(mixed[0], function(model, x, 0)[0], atol=1e-5)
        np.testing.assert_allclose(mixed[1], function(model, x, 1)[1], atol=1e-5)
    with pytest.raises(ValueError, match="target is 5; this model has 5 classes, 0 to 4"):
        grad_cam(model, x, 5)
    with pytest.raises(ValueError, match="target has 3 classes for 2 pictures"):
        grad_cam(model, x, [0, 1, 2])


def test_grad_cam_of_another_layer():
    model, x = build("vit"), batch("vit")
    assert not np.allclose(grad_cam(model, x, 0, layer=0), grad_cam(model, x, 0))
    with pytest.raises(ValueError, match=r"layers is \[2\]; this model has 2 attention layers"):
        grad_cam(model, x, layer=2)


def test_frozen_parameters_and_gradients_stay_as_they_are():
    model, x = build("vit"), batch("vit")
    expected = grad_cam(model, x, 0)
    for parameter in model.parameters():
        parameter.stop_gradient = True
    np.testing.assert_allclose(grad_cam(model, x, 0), expected, atol=1e-7)
    assert x.stop_gradient
    assert all(parameter.grad is None for parameter in build("vit").parameters())


def test_a_constant_picture_gives_a_constant_grad_cam():
    model = VisualTransformer(position="none", **PLAIN)
    maps = grad_cam(model, paddle.full([1, 3, 32, 48], 0.7), 0)
    np.testing.assert_allclose(maps, maps[0, 0, 0], atol=1e-6)


def informative_pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise of 4 x 6 patches; in class 1, one of them has stripes. Pictures, classes, row and column of the patch."""
    rng = np.random.default_rng(seed)
    pictures = rng.normal(0, 0.3, (count, 3, 32, 48)).astype(np.float32)
    labels, places = rng.integers(0, 2, count), np.stack([rng.integers(0, 4, count), rng.integers(0, 6, count)], axis=1)
    stripes = np.where(np.arange(8) % 4 < 2, 1.0, -1.0).astype(np.float32)
    for i in np.flatnonzero(labels):
        row, column = places[i]
        pictures[i, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] += stripes
    return pictures, labels, places


@pytest.fixture(scope="module")
def trained():
    """A model that tells pictures with a striped patch from those without, and 30 of the former."""
    paddle.seed(0)
    options = {**PLAIN, "num_heads": 2, "num_classes": 2}
    model = DataEfficientTransformer(dropout=0.1, attention_dropout=0.2, **options)
    pictures, labels, _ = informative_pictures(256, seed=0)
    optimizer = paddle.optimizer.AdamW(2e-3, parameters=model.parameters(), weight_decay=0.05)
    order = np.random.default_rng(0)
    for _ in range(60):
        chosen = order.integers(0, 256, 32)
        logits = model(paddle.to_tensor(pictures[chosen]))
        loss = nn.functional.cross_entropy(logits, paddle.to_tensor(labels[chosen]))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    model.eval()
    pictures, labels, places = informative_pictures(64, seed=1)
    predicted = model(paddle.to_tensor(pictures)).argmax(axis=1).numpy()
    assert (predicted == labels).mean() > 0.95
    return model, paddle.to_tensor(pictures[labels == 1]), places[labels == 1]


@pytest.mark.parametrize("method", MAPS)
def test_the_peak_is_at_the_informative_patch(trained, method):
    model, x, places = trained
    maps = occlusion(model, x, 1, patch_size=8) if method == "occlusion" else MAPS[method](model, x, 1)
    assert maps.shape[1:] == (4, 6)
    peaks = np.stack(np.unravel_index(maps.reshape(len(maps), -1).argmax(axis=1), (4, 6)), axis=1)
    assert (peaks == places).all(axis=1).mean() >= 0.95
