"""Layers that families share, against NumPy and their formulas."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit.layers import DropPath, Mlp, QuickGELU, drop_path, set_classifier, sinusoid_table, to_pair


def test_drop_path_keeps_the_expectation():
    out = drop_path(paddle.ones([20_000, 1, 2]), 0.25).numpy()
    np.testing.assert_array_equal(out[:, 0, 0], out[:, 0, 1])  # whole samples
    assert set(np.unique(out)) == {0.0, np.float32(1 / 0.75)}
    assert abs(out.mean() - 1) < 0.02


def test_drop_path_rests_in_evaluation():
    layer = DropPath(0.9)
    layer.eval()
    x = paddle.randn([4, 3])
    assert layer(x) is x
    layer.train()
    assert not np.array_equal(layer(x).numpy(), x.numpy())


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_drop_path_refuses_what_is_no_probability(probability):
    with pytest.raises(ValueError, match=f"drop_path is {probability}; it must be at least 0 and below 1"):
        DropPath(probability)


def test_quick_gelu():
    x = np.linspace(-4, 4, 9, dtype=np.float32)
    expected = x / (1 + np.exp(-1.702 * x))
    np.testing.assert_allclose(QuickGELU()(paddle.to_tensor(x)).numpy(), expected, rtol=1e-5, atol=1e-7)


def test_mlp_hidden_width_and_dropout():
    mlp = Mlp(8, 2.5, dropout=0.5)
    assert mlp.fc1.weight.shape == [8, 20]
    mlp.train()
    assert (mlp(paddle.ones([4, 3, 8])).numpy() == 0).any()


def test_sinusoid_table():
    table = sinusoid_table(50, 6)[0]
    for position in (0, 1, 49):
        for column in range(6):
            angle = position / 10000 ** (2 * (column // 2) / 6)
            expected = np.sin(angle) if column % 2 == 0 else np.cos(angle)
            assert table[position, column] == pytest.approx(expected, abs=1e-6)


def test_pairs():
    assert to_pair(3, "x") == (3, 3)
    assert to_pair([3, 4], "x") == (3, 4)
    for bad in (0, (1, 2, 3), (1.5, 2), -1):
        with pytest.raises(ValueError, match="patch_size is .* must be a positive whole number or two"):
            to_pair(bad, "patch_size")


def test_a_classifier_of_other_weights():
    model = paddle.nn.Layer()
    model.num_features = 400
    set_classifier(model, 50, name="head", init_std=0.02)
    assert model.head.weight.shape == [400, 50]
    assert model.head.weight.numpy().std() == pytest.approx(0.02, rel=0.05)
    assert model.num_classes == 50
