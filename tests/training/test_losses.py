"""Losses against NumPy."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit.config import ConfigError, DistillConfig, TrainConfig
from paddlevit.data.mixing import soft_targets
from paddlevit.training.losses import (
    Loss,
    binary_cross_entropy,
    build_loss,
    class_weights,
    cross_entropy,
    distillation,
    focal,
)
from tests.training.toy import toy_config

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((6, 4)).astype(np.float32) * 2
LABELS = np.array([0, 3, 1, 1, 2, 0])
ONE_HOT = np.eye(4, dtype=np.float32)[LABELS]
SOFT = RNG.dirichlet(np.ones(4), 6).astype(np.float32)
WEIGHTS = np.array([0.5, 1.0, 2.0, 3.0], np.float32)


def tensor(array):
    return paddle.to_tensor(array)


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(("targets", "shares"), [(LABELS, ONE_HOT), (SOFT, SOFT)], ids=["hard", "soft"])
def test_cross_entropy(targets, shares):
    expected = -(shares * log_softmax(LOGITS)).sum(-1).mean()
    assert float(cross_entropy(tensor(LOGITS), tensor(targets))) == pytest.approx(expected, rel=1e-5)
    weighted = shares * WEIGHTS
    expected = -(weighted * log_softmax(LOGITS)).sum() / weighted.sum()
    ours = cross_entropy(tensor(LOGITS), tensor(targets), tensor(WEIGHTS))
    assert float(ours) == pytest.approx(expected, rel=1e-5)


def test_weighted_cross_entropy_of_labels_is_paddles():
    ours = cross_entropy(tensor(LOGITS), tensor(LABELS), tensor(WEIGHTS))
    theirs = paddle.nn.functional.cross_entropy(tensor(LOGITS), tensor(LABELS), weight=tensor(WEIGHTS))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize(("targets", "shares"), [(LABELS, ONE_HOT), (SOFT, SOFT)], ids=["hard", "soft"])
def test_focal(targets, shares):
    log_probability = log_softmax(LOGITS)
    terms = -shares * (1 - np.exp(log_probability)) ** 1.5 * log_probability
    ours = focal(tensor(LOGITS), tensor(targets), gamma=1.5)
    assert float(ours) == pytest.approx(terms.sum(-1).mean(), rel=1e-5)
    ours = focal(tensor(LOGITS), tensor(targets), tensor(WEIGHTS), gamma=1.5)
    assert float(ours) == pytest.approx((terms * WEIGHTS).sum(-1).mean(), rel=1e-5)
    plain = cross_entropy(tensor(LOGITS), tensor(targets))
    assert float(focal(tensor(LOGITS), tensor(targets), gamma=0.0)) == pytest.approx(float(plain), rel=1e-5)


@pytest.mark.parametrize(("targets", "marks"), [(LABELS, ONE_HOT), (SOFT, SOFT)], ids=["hard", "soft"])
def test_binary_cross_entropy(targets, marks):
    def terms(marks):
        return -(marks * np.log(sigmoid(LOGITS)) + (1 - marks) * np.log(1 - sigmoid(LOGITS)))

    x = tensor(LOGITS)
    assert float(binary_cross_entropy(x, tensor(targets))) == pytest.approx(terms(marks).mean(), rel=1e-5)
    summed = binary_cross_entropy(x, tensor(targets), add_classes=True)
    assert float(summed) == pytest.approx(terms(marks).sum(-1).mean(), rel=1e-5)
    sharp = binary_cross_entropy(x, tensor(targets), threshold=0.3)
    assert float(sharp) == pytest.approx(terms((marks > 0.3).astype(float)).mean(), rel=1e-5)
    weighted = binary_cross_entropy(x, tensor(targets), tensor(WEIGHTS))
    assert float(weighted) == pytest.approx((terms(marks) * WEIGHTS).mean(), rel=1e-5)


def gradient(loss, logits):
    x = paddle.to_tensor(logits, stop_gradient=False)
    loss(x).backward()
    return x.grad.numpy()


def test_binary_cross_entropy_and_its_gradient_from_zero_to_the_largest_logits():
    row = np.concatenate([[0.0, -0.0, 1e-7, 100.0, -100.0], np.linspace(-32, 32, 129)]).astype(np.float32)
    logits = np.tile(row, (3, 1))  # [3, K]
    marks = np.repeat(np.array([[0.0], [1.0], [0.3]], np.float32), len(row), axis=1)
    x = logits.astype(np.float64)
    expected = (np.maximum(x, 0) - x * marks + np.log1p(np.exp(-np.abs(x)))).sum(-1).mean()
    assert float(binary_cross_entropy(tensor(logits), tensor(marks), add_classes=True)) == pytest.approx(expected)
    slope = gradient(lambda x: binary_cross_entropy(x, tensor(marks), add_classes=True) * 3, logits)
    np.testing.assert_allclose(slope, sigmoid(x) - marks, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_of_a_certain_network_has_a_gradient(gamma):
    logits = np.array([[60.0, 0, -5], [0, 60, -5], [1, 2, 3]], np.float32)
    labels = tensor(np.zeros(3, np.int64))
    slope = gradient(lambda x: focal(x, labels, gamma=gamma), logits)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(slope[:2], [[0, 0, 0], [-1 / 3, 1 / 3, 0]], atol=1e-5)
    if gamma == 0:
        np.testing.assert_allclose(slope, gradient(lambda x: cross_entropy(x, labels), logits), atol=1e-6)


def test_distillation():
    answers = RNG.standard_normal((6, 4)).astype(np.float32)
    hard = -log_softmax(LOGITS)[np.arange(6), answers.argmax(-1)].mean()
    assert float(distillation(tensor(LOGITS), tensor(answers), "hard")) == pytest.approx(hard, rel=1e-5)
    teacher, student = log_softmax(answers / 3), log_softmax(LOGITS / 3)
    soft = (np.exp(teacher) * (teacher - student)).sum(-1).mean() * 9
    assert float(distillation(tensor(LOGITS), tensor(answers), "soft", 3.0)) == pytest.approx(soft, rel=1e-4)
    assert float(distillation(tensor(answers), tensor(answers), "soft", 3.0)) == pytest.approx(0, abs=1e-6)


def test_the_teacher_has_the_second_head_and_labels_the_first():
    answers = RNG.standard_normal((6, 4)).astype(np.float32)
    first, second, labels = tensor(LOGITS), tensor(LOGITS[::-1].copy()), tensor(LABELS)
    loss = Loss(cross_entropy, DistillConfig(teacher="run", kind="hard", alpha=0.3))
    base = float(cross_entropy(first, labels))
    both = 0.7 * base + 0.3 * float(distillation(second, tensor(answers), "hard"))
    assert float(loss((first, second), labels, tensor(answers))) == pytest.approx(both, rel=1e-5)
    one = 0.7 * base + 0.3 * float(distillation(first, tensor(answers), "hard"))
    assert float(loss(first, labels, tensor(answers))) == pytest.approx(one, rel=1e-5)
    mean = (base + float(cross_entropy(second, labels))) / 2
    assert float(Loss(cross_entropy)((first, second), labels)) == pytest.approx(mean, rel=1e-5)


def test_balanced_class_weights():
    weights = class_weights(TrainConfig(class_weights="balanced"), LABELS, 4).numpy()
    np.testing.assert_allclose(weights, np.array([1 / 2, 1 / 2, 1, 1]) / 0.75, rtol=1e-6)
    absent = class_weights(TrainConfig(class_weights="balanced"), np.repeat([0, 1], 100), 3).numpy()
    np.testing.assert_allclose(absent, 1, rtol=1e-6)
    marks = np.array([[1, 1], [0, 1], [0, 1]], np.float32)
    weights = class_weights(TrainConfig(class_weights="balanced"), marks, 2).numpy()
    np.testing.assert_allclose(weights, [1.5, 0.5], rtol=1e-6)
    with pytest.raises(ConfigError, match="train.class_weights has 2 numbers; the data has 4 classes"):
        class_weights(TrainConfig(class_weights=(1.0, 2.0)), LABELS, 4)


def test_a_loss_has_to_fit_the_task():
    with pytest.raises(ConfigError, match="train.loss is mse; data.task classes needs cross_entropy or bce or focal"):
        build_loss(toy_config(train={"loss": "mse"}), LABELS, 4)
    multi_label = {"dataset": "list", "task": "multi_label"}
    with pytest.raises(ConfigError, match="train.loss is cross_entropy; data.task multi_label needs bce"):
        build_loss(toy_config(data=multi_label), ONE_HOT, 4)
    values = {"dataset": "list", "task": "regression"}
    regression = build_loss(toy_config(data=values, train={"loss": "mse", "label_smoothing": 0.0}), SOFT, 4)
    assert float(regression(tensor(LOGITS), tensor(SOFT))) == pytest.approx(((LOGITS - SOFT) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("task", "sections", "message"),
    [
        (
            "regression",
            {"train": {"label_smoothing": 0.1}},
            "train.label_smoothing is 0.1; data.task regression has no",
        ),
        (
            "regression",
            {"train": {"class_weights": "balanced"}},
            "train.class_weights is balanced; data.task regression",
        ),
        ("regression", {"distill": {"teacher": "run"}}, "distill.teacher teaches one class a picture; data.task regre"),
        (
            "multi_label",
            {"distill": {"teacher": "run"}},
            "distill.teacher teaches one class a picture; data.task multi",
        ),
        ("multi_label", {"train": {"label_smoothing": 0.1, "bce_threshold": 0.04}}, "to at least 0.05, so that all"),
        ("classes", {"train": {"loss": "bce", "label_smoothing": 0.1, "bce_threshold": 0.0}}, "to at least 0.025, so"),
    ],
)
def test_keys_that_a_task_has_no_use_for_are_refused(task, sections, message):
    loss = {"regression": "mse", "multi_label": "bce", "classes": "cross_entropy"}[task]
    train = {"loss": loss, "label_smoothing": 0.0, **sections.get("train", {})}
    config = toy_config(**{**sections, "data": {"dataset": "list", "task": task}, "train": train})
    with pytest.raises(ConfigError, match=message):
        build_loss(config, LABELS if task == "classes" else ONE_HOT, 4)


def test_smoothed_targets_sum_to_one():
    targets = soft_targets(tensor(LABELS), 4, 0.2).numpy()
    np.testing.assert_allclose(targets.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(targets[0], [0.85, 0.05, 0.05, 0.05], rtol=1e-6)
