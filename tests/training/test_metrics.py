"""Figures over all pictures, whatever the batches."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit.data import EpochSampler
from paddlevit.training.answers import class_scores, confusion_matrix, most_confused
from paddlevit.training.callbacks import pictures_of_process
from paddlevit.training.metrics import build_scores

RNG = np.random.default_rng(1)
N, K = 23, 7
LOGITS = RNG.standard_normal((N, K)).astype(np.float32)


def in_batches(scores, labels):
    for start in range(0, N, 5):
        logits, part = LOGITS[start : start + 5], labels[start : start + 5]
        scores.update(scores.compute(paddle.to_tensor(logits), paddle.to_tensor(part)).numpy())
    result = dict(zip(scores.names, scores.accumulate()))
    scores.reset()
    assert dict(zip(scores.names, scores.figures(scores.finished))) == result
    assert not scores.totals.any()
    return result


def test_classes():
    labels = RNG.integers(0, K, N)
    result = in_batches(build_scores("classes"), labels)
    log_probability = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    ranks = (-LOGITS).argsort(-1)
    assert result["loss"] == pytest.approx(-log_probability[np.arange(N), labels].mean(), rel=1e-5)
    assert result["top1"] == pytest.approx((ranks[:, 0] == labels).mean())
    assert result["top5"] == pytest.approx((ranks[:, :5] == labels[:, None]).any(-1).mean())


def test_of_a_mixed_picture_the_larger_part_counts():
    larger, smaller = RNG.integers(0, K, N), RNG.integers(0, K, N)
    larger[:9] = LOGITS[:9].argmax(-1)
    smaller[9:] = LOGITS[9:].argmax(-1)
    expected = (LOGITS.argmax(-1) == larger).sum()
    mixed = (0.6 * np.eye(K)[larger] + 0.4 * np.eye(K)[smaller]).astype(np.float32)
    hits = build_scores("classes").hits
    assert 9 <= hits(paddle.to_tensor(LOGITS), paddle.to_tensor(mixed)) == expected < N
    assert hits(paddle.to_tensor(LOGITS), paddle.to_tensor(larger)) == expected


def test_multi_label():
    labels = (RNG.random((N, K)) < 0.4).astype(np.float32)
    labels[3] = LOGITS[3] > 0
    result = in_batches(build_scores("multi_label"), labels)
    given = LOGITS > 0
    right = (given & (labels == 1)).sum()
    precision, recall = right / given.sum(), right / labels.sum()
    assert result["f1"] == pytest.approx(2 * precision * recall / (precision + recall), rel=1e-5)
    assert result["exact"] == pytest.approx((given == (labels == 1)).all(-1).mean())
    probability = 1 / (1 + np.exp(-LOGITS))
    terms = labels * np.log(probability) + (1 - labels) * np.log(1 - probability)
    assert result["loss"] == pytest.approx(-terms.mean(), rel=1e-5)


def test_regression():
    labels = LOGITS + RNG.standard_normal((N, K)).astype(np.float32) * 0.3
    result = in_batches(build_scores("regression"), labels)
    error = LOGITS - labels
    assert result["loss"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert result["absolute_error"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    assert result["r2"] == pytest.approx(1 - (error**2).sum() / ((labels - labels.mean()) ** 2).sum(), rel=1e-4)


def test_the_share_of_the_variance_explained_of_large_values():
    labels = (1e5 + 10 * RNG.standard_normal((N, K))).astype(np.float32)
    scores = build_scores("regression")
    predicted = labels + 3 * RNG.standard_normal((N, K)).astype(np.float32)
    scores.update(scores.compute(paddle.to_tensor(predicted), paddle.to_tensor(labels)).numpy())
    error, spread = (predicted - labels).astype(np.float64), labels - labels.mean(dtype=np.float64)
    assert scores.accumulate()[2] == pytest.approx(1 - (error**2).sum() / (spread**2).sum(), abs=1e-4)


def test_the_confusion_matrix_and_what_follows_from_it():
    labels, predictions = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 1])
    matrix = confusion_matrix(labels, predictions, 4)
    assert matrix.tolist() == [[1, 2, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    scores = class_scores(matrix)
    np.testing.assert_allclose(scores.precision, [1 / 2, 1 / 4, 0, 0])
    np.testing.assert_allclose(scores.recall, [1 / 3, 1 / 2, 0, 0])
    np.testing.assert_allclose(scores.f1, [2 / 5, 2 / 6, 0, 0])
    assert scores.pictures.tolist() == [3, 2, 1, 0]
    assert most_confused(matrix, 2) == [(0, 1, 2), (1, 0, 1)]
    assert len(most_confused(matrix)) == 3


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [1, 5, 7, 8, 9, 11, 12, 13, 24])
def test_every_picture_is_evaluated_once_over_all_processes(length, world_size):
    seen: list[int] = []
    for rank in range(world_size):
        sampler = EpochSampler(length, 3, rank=rank, world_size=world_size)
        mine = [key.index for batch in sampler for key in batch]
        counted = pictures_of_process(sampler)
        seen += mine if counted is None else mine[:counted]
    assert sorted(seen) == list(range(length))
