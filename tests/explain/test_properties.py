"""Positions, filters, distances and dense features against values known beforehand."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevit.explain import (
    attention_distance,
    attention_weights,
    dense_features,
    feature_components,
    patch_filters,
    patch_similarity,
    position_similarity,
    token_norms,
)
from paddlevit.models.vit import VisualTransformer
from tests.explain.families import FAMILIES, PLAIN, batch, build


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.startswith("swin")])
def test_positions_of_every_family(name):
    rows, columns = FAMILIES[name][1]
    similarity = position_similarity(build(name))
    assert similarity.shape == (rows, columns, rows, columns)
    flat = similarity.reshape(rows * columns, rows * columns)
    np.testing.assert_allclose(np.diag(flat), 1.0, atol=1e-5)
    np.testing.assert_allclose(flat, flat.T, atol=1e-6)
    assert np.abs(flat).max() <= 1 + 1e-5


def test_positions_are_cosines_of_the_patches_rows():
    model = build("deit distilled")
    table = model.patch_embedding.position_embedding.numpy()[0, 2:]  # after class and distillation token
    a, b = table[1 * 6 + 2], table[3 * 6 + 5]
    expected = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    assert position_similarity(model)[1, 2, 3, 5] == pytest.approx(expected, abs=1e-6)


def test_swin_has_no_positions():
    with pytest.raises(ValueError, match="SwinTransformer adds no position embedding"):
        position_similarity(build("swin"))


@pytest.mark.parametrize("name", FAMILIES)
def test_filters_of_every_family(name):
    components, shares = patch_filters(build(name), count=5)
    channels = 1 if name.startswith("article") else 3
    assert components.shape[:2] == (5, channels)
    flat = components.reshape(5, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(5), atol=1e-4)
    assert (np.diff(shares) <= 0).all()
    assert 0 < shares.sum() < 1


def test_filters_find_the_two_that_were_put_in():
    rng = np.random.default_rng(0)
    patterns = np.linalg.qr(rng.normal(size=(3 * 8 * 8, 2)))[0].T  # orthogonal
    amounts = rng.normal(size=(32, 2)) * [3.0, 1.0]
    amounts -= amounts.mean(axis=0)
    amounts = np.linalg.qr(amounts)[0] * [3.0, 1.0]
    model = VisualTransformer(**PLAIN)
    weight = model.patch_embedding.patch_embedding.weight
    weight.set_value((amounts @ patterns + 0.7).reshape(32, 3, 8, 8).astype(np.float32))
    components, shares = patch_filters(model, count=2)
    np.testing.assert_allclose(np.abs(components.reshape(2, -1) @ patterns.T), np.eye(2), atol=1e-3)
    np.testing.assert_allclose(shares, [0.9, 0.1], atol=1e-3)
    assert all(component.flat[np.abs(component).argmax()] > 0 for component in components)


def test_filters_of_nothing_are_refused():
    with pytest.raises(ValueError, match="count is 0; it must be at least 1"):
        patch_filters(build("vit"), count=0)
    with pytest.raises(ValueError, match="Linear has no convolution or Unfold that sees pixels"):
        patch_filters(nn.Linear(2, 2))


def test_distance_of_even_attention_is_the_mean_distance_of_all_pairs():
    model = VisualTransformer(pool="average", **PLAIN)
    for layer in model.encoder.layers:
        layer.attn.qkv.weight.set_value(paddle.zeros_like(layer.attn.qkv.weight))
    row, column = np.divmod(np.arange(24), 6)
    pairs = np.hypot(8 * (row[:, None] - row), 8 * (column[:, None] - column))  # patches of 8 x 8 pixels
    distances = attention_distance(model, batch("vit average"))
    assert distances.shape == (2, 4)
    np.testing.assert_allclose(distances, pairs.mean(), rtol=1e-5)


@pytest.mark.parametrize("name", ["vit", "registers", "swin", "siglip"])
def test_distance_is_the_weighted_distance_of_the_full_matrix(name):
    model, x = build(name), batch(name)
    ours = attention_distance(model, x)
    layers = [layer for layer in attention_weights(model, x) if layer.name != "attention_pool"]
    assert len(ours) == len(layers)
    for distances, layer in zip(ours, layers):
        rows, columns = layer.grid
        row, column = np.divmod(np.arange(rows * columns), columns)
        height, width = x.shape[2] / rows, x.shape[3] / columns
        pairs = np.hypot(height * (row[:, None] - row), width * (column[:, None] - column))
        patches = layer.weights[:, :, layer.num_prefix :, layer.num_prefix :]
        expected = (patches * pairs).sum(axis=-1).mean(axis=(0, 2))
        np.testing.assert_allclose(distances[: len(expected)], expected, rtol=1e-5)
        assert np.isnan(distances[len(expected) :]).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_dense_features_of_every_family(name):
    model, x = build(name), batch(name)
    rows, columns = FAMILIES[name][1]
    features = dense_features(model, x)
    assert features.shape[:3] == (2, rows, columns)
    assert model.training
    model.eval()
    expected = model.feature_maps(x, [-1])[0].transpose([0, 2, 3, 1]).numpy()
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    assert not np.allclose(dense_features(model, x, 0).mean(), features.mean())
    np.testing.assert_allclose(token_norms(model, x), np.sqrt((features**2).sum(axis=-1)), rtol=1e-5)
    assert feature_components(model, x).shape == (2, rows, columns, 3)
    assert patch_similarity(model, x, (0, 0)).shape == (2, rows, columns)


class Given(nn.Layer):
    """Its features are its input."""

    def feature_maps(self, x, layers):
        return [x for _ in layers]


def test_components_separate_what_differs_whatever_its_length():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, (2, 5, 4))
    directions = np.linalg.qr(rng.normal(size=(16, 2)))[0].T
    features = directions[kinds] + 0.01 * rng.normal(size=(2, 5, 4, 16))
    features[0, 0, 0] *= 1000.0  # an outlier of the same direction
    first = feature_components(Given(), paddle.to_tensor(features.transpose(0, 3, 1, 2).astype(np.float32)))[..., 0]
    assert first.min() == 0
    assert first.max() == 1
    means = sorted((first[kinds == 0].mean(), first[kinds == 1].mean()))
    assert means[0] < 0.1
    assert means[1] > 0.9
    one = feature_components(Given(), paddle.to_tensor(features.transpose(0, 3, 1, 2).astype(np.float32)), count=1)
    np.testing.assert_allclose(one[..., 0], first)


def test_similarity_is_the_cosine_with_the_patch_under_the_point():
    features = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)
    picture = paddle.to_tensor(features.transpose(0, 3, 1, 2))  # each pixel is a patch
    ours = patch_similarity(Given(), picture, (3, 1))  # x, y
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    np.testing.assert_allclose(ours, unit @ unit[0, 1, 3], atol=1e-6)
    assert ours[0, 1, 3] == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match="point is 4,1; the network's input is 4 pixels wide and 3 high"):
        patch_similarity(Given(), picture, (4, 1))


def test_point_is_scaled_to_the_grid():
    model, x = build("vit"), batch("vit")  # 32 x 48 pixels, 4 x 6 patches
    for point, patch in (((0, 0), (0, 0)), ((47, 31), (3, 5)), ((15, 8), (1, 1))):
        similarity = patch_similarity(model, x, point)[0]
        assert np.unravel_index(similarity.argmax(), (4, 6)) == patch


def test_the_layer_is_chosen():
    model, x = build("vit"), batch("vit")
    for function in (token_norms, feature_components, lambda *args, layer: patch_similarity(*args, (0, 0), layer)):
        first, last, default = (function(model, x, **chosen) for chosen in ({"layer": 0}, {"layer": -1}, {"layer": 1}))
        assert not np.allclose(first, last)
        np.testing.assert_array_equal(last, default)
