from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddlevit.inference.folding import (
    ScaleShift,
    batch_norm_as_scale_shift,
    fold_norm,
    fold_output_scale,
    fold_query_scale,
    join_classifiers,
    linear_of,
    split_queries,
)
from paddlevit.layers import Identity
from tests.golden.fill import fill
from tests.inference.conftest import refill, run

X = fill("x", (2, 7, 12))


def norm_of(kind: str) -> nn.Layer:
    norm = nn.LayerNorm(12, epsilon=1e-3) if kind == "layer" else nn.BatchNorm1D(12, epsilon=1e-2, data_format="NLC")
    refill(norm)
    return norm


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(in_features, out_features, bias_attr=None if bias else False)
    refill(layer)
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_fold_norm(kind, bias) -> None:
    norm, projection = norm_of(kind), linear(12, 5, bias)
    expected = run(lambda x: projection(norm(x)), X)
    rest, folded = fold_norm(norm, projection)
    np.testing.assert_allclose(run(lambda x: folded(rest(x)), X), expected, atol=1e-5)
    assert isinstance(rest, nn.LayerNorm if kind == "layer" else Identity)
    assert not list(rest.parameters())


def test_fold_norm_leaves_other_layers_and_bare_norms_alone() -> None:
    projection = linear(12, 5)
    for norm in (Identity(), nn.LayerNorm(12, weight_attr=False, bias_attr=False)):
        assert fold_norm(norm, projection) == (norm, projection)


def test_batch_norm_as_scale_shift() -> None:
    norm = norm_of("batch")
    simple = batch_norm_as_scale_shift(norm)
    assert isinstance(simple, ScaleShift)
    np.testing.assert_allclose(run(simple, X), run(norm, X), atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_fold_query_scale(bias) -> None:
    qkv = linear(12, 36, bias)
    folded = fold_query_scale(qkv, 0.3)
    expected = run(qkv, X) * np.repeat([0.3, 1, 1], 12).astype(np.float32)
    np.testing.assert_allclose(run(folded, X), expected, atol=1e-5)
    assert (folded.bias is None) == (not bias)


@pytest.mark.parametrize("bias", [True, False])
def test_split_queries(bias) -> None:
    qkv = linear(12, 36, bias)
    queries, keys_values = split_queries(qkv)
    both = np.concatenate([run(queries, X), run(keys_values, X)], axis=-1)
    np.testing.assert_allclose(both, run(qkv, X), atol=1e-5)
    assert (queries.bias is None) == (keys_values.bias is None) == (not bias)


@pytest.mark.parametrize("bias", [True, False])
def test_fold_output_scale(bias) -> None:
    projection, scale = linear(12, 5, bias), fill("gamma", (5,))
    np.testing.assert_allclose(run(fold_output_scale(projection, scale), X), run(projection, X) * scale, atol=1e-5)


def test_join_classifiers() -> None:
    first, second = linear(12, 5), linear(12, 5)
    second.weight.set_value(second.weight.numpy()[::-1].copy())
    tokens = X[:, :2]
    expected = (run(first, tokens[:, 0]) + run(second, tokens[:, 1])) / 2
    np.testing.assert_allclose(run(join_classifiers(first, second), tokens.reshape(2, -1)), expected, atol=1e-5)


def test_linear_of() -> None:
    weight = fill("w.weight", (3, 4))
    layer = linear_of(weight.astype(np.float64), None)
    assert layer.bias is None
    assert layer.weight.dtype == paddle.float32
    np.testing.assert_array_equal(layer.weight.numpy(), weight)
