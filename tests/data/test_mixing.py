"""Mixup and CutMix: pixels and targets are mixed in the same proportion, with the stated chances."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit.config import AugmentConfig
from paddlevit.data import Mixing, build_mixing
from paddlevit.data.mixing import soft_targets

K = 6


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _batch(size: int, side: int = 16) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Picture i is filled with the value i, so that a pixel tells where it came from; its class is i."""
    images = np.arange(size, dtype=np.float32)[:, None, None, None] + np.zeros((1, 3, side, side), np.float32)
    return paddle.to_tensor(images), paddle.arange(size, dtype="int64") % K


@pytest.mark.parametrize("mode", ["batch", "pair", "element"])
@pytest.mark.parametrize("size", [1, 4, 5, 6])
@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_pixels_and_targets_agree(mode, size, mixup, cutmix):
    """The mean of a mixed picture tells the share of each source, which must be the target's."""
    mixing = Mixing(K, mixup=mixup, cutmix=cutmix, mode=mode)
    for seed in range(10):
        images, labels = _batch(size)
        mixed, targets = mixing(images, labels, _rng(seed))
        assert mixed.shape == images.shape
        assert list(targets.shape) == [size, K]
        mixed, targets = mixed.numpy(), targets.numpy()
        assert np.allclose(targets.sum(axis=1), 1, atol=1e-6)
        for i in range(size):
            other = size - 1 - i
            if other % K == i % K:
                assert targets[i, i] == pytest.approx(1.0)
                continue
            share = targets[i, i]
            assert mixed[i].mean() == pytest.approx(share * i + (1 - share) * other, abs=1e-4)


def test_modes_draw_once_per_batch_pair_or_element():
    shares = {}
    for mode in ("batch", "pair", "element"):
        share, weight = Mixing(K, mixup=1.0, mode=mode).draw(5, (8, 8), _rng())
        shares[mode] = share[:, 0]
        assert weight.shape == (len(share), 1, 1, 1)
    assert [len(share) for share in shares.values()] == [1, 5, 5]
    assert np.array_equal(shares["pair"], shares["pair"][::-1])
    assert len(set(shares["pair"].tolist())) == 3
    assert len(set(shares["element"].tolist())) == 5


def test_cutmix_moves_a_box_and_counts_what_is_visible():
    mixing = Mixing(K, cutmix=1.0)
    shares = []
    for seed in range(200):
        images, labels = _batch(2)
        mixed, targets = mixing(images, labels, _rng(seed))
        foreign = mixed.numpy()[0, 0] == 1.0
        rows, columns = np.flatnonzero(foreign.any(axis=1)), np.flatnonzero(foreign.any(axis=0))
        assert foreign.sum() == len(rows) * len(columns)
        assert set(np.unique(mixed.numpy())) <= {0.0, 1.0}
        assert targets.numpy()[0, 0] == pytest.approx(1 - foreign.mean(), abs=1e-6)
        shares.append(1 - foreign.mean())
    # The box is uniform in area and often overlaps the edge: more than half of a picture stays on average.
    assert 0.55 < np.mean(shares) < 0.75


def test_mixup_follows_its_distribution():
    for alpha in (0.2, 1.0):
        mixing = Mixing(K, mixup=alpha, mode="element")
        share = mixing.draw(4000, (4, 4), _rng())[0]
        assert abs(share.mean() - 0.5) < 0.02
        assert abs(share.var() - 0.25 / (2 * alpha + 1)) < 0.01  # variance of Beta(alpha, alpha)


def test_probabilities():
    never = Mixing(K, mixup=1.0, cutmix=1.0, probability=0.0)
    images, labels = _batch(4)
    mixed, targets = never(images, labels, _rng())
    assert np.array_equal(mixed.numpy(), images.numpy())
    assert np.array_equal(targets.numpy(), np.eye(4, K))
    sometimes = Mixing(K, mixup=1.0, cutmix=1.0, probability=0.3, switch_probability=0.75, mode="element")
    share, weight = sometimes.draw(4000, (4, 4), _rng())
    mixed_rows = share[:, 0] < 1
    assert abs(mixed_rows.mean() - 0.3) < 0.05  # a box may also round to nothing
    blends = np.array([len(np.unique(row)) == 1 and 0 < row.flat[0] < 1 for row in weight])
    assert abs(blends.mean() - 0.3 * 0.25) < 0.015


def test_all_randomness_comes_from_the_generator():
    mixing = Mixing(K, mixup=0.8, cutmix=1.0, mode="element")
    images, labels = _batch(4)
    first = mixing(images, labels, _rng(3))
    paddle.seed(9)
    np.random.seed(9)
    again, other = mixing(images, labels, _rng(3)), mixing(images, labels, _rng(4))
    assert np.array_equal(first[0].numpy(), again[0].numpy())
    assert np.array_equal(first[1].numpy(), again[1].numpy())
    assert not np.array_equal(first[1].numpy(), other[1].numpy())


def test_label_smoothing():
    targets = soft_targets(paddle.to_tensor([2]), 4, 0.1).numpy()
    assert np.allclose(targets, [[0.025, 0.025, 0.925, 0.025]])
    marks = soft_targets(paddle.to_tensor([[1.0, 0.0, 1.0]]), 3, 0.1).numpy()
    assert np.allclose(marks, [[0.95, 0.05, 0.95]])
    smoothed = Mixing(4, mixup=1.0, label_smoothing=0.1)
    images, labels = _batch(2)
    target = smoothed(images, labels, _rng())[1].numpy()
    assert target.min() == pytest.approx(0.025)
    assert np.allclose(target.sum(axis=1), 1)


def test_several_marks_and_values_are_mixed_too():
    images = _batch(2)[0]
    marks = paddle.to_tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    target = Mixing(3, mixup=1.0)(images, marks, _rng())[1].numpy()
    assert 0 < target[0, 0] < 1
    assert target[0, 0] + target[1, 0] == pytest.approx(1)
    assert np.allclose(target[:, 1:], [[0, 1], [0, 1]])


def test_built_from_a_configuration():
    assert build_mixing(AugmentConfig(), 10, 0.1) is None
    augment = AugmentConfig(mixup=0.8, cutmix=0.5, mix_probability=0.9, mix_switch=0.4, mix_mode="pair")
    assert build_mixing(augment, 10, 0.1) == Mixing(10, 0.8, 0.5, 0.9, 0.4, "pair", 0.1)
    assert build_mixing(AugmentConfig(cutmix=1.0), 10) == Mixing(10, cutmix=1.0)
