"""What training minimises.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import paddle
from paddle.nn import functional

from paddlevit.config import Config, ConfigError, DistillConfig, TrainConfig

Outputs = Any
"""[B, K] logits, or a tuple of them from networks with two heads."""


def cross_entropy(
    logits: paddle.Tensor, targets: paddle.Tensor, class_weights: paddle.Tensor | None = None
) -> paddle.Tensor:
    """Mean cross-entropy.

    Args:
        logits: float [B, K].
        targets: int64 [B] class numbers, or float [B, K] probabilities.
        class_weights: float [K]; the mean is then weighted by them.

    Returns:
        float [].
    """
    soft = targets.ndim == logits.ndim
    if class_weights is None:
        return functional.cross_entropy(logits, targets, soft_label=soft)
    shares = targets if soft else functional.one_hot(targets, logits.shape[-1])
    shares = shares * class_weights  # [B, K]
    return -(shares * functional.log_softmax(logits)).sum() / shares.sum()


def focal(
    logits: paddle.Tensor, targets: paddle.Tensor, class_weights: paddle.Tensor | None = None, gamma: float = 2.0
) -> paddle.Tensor:
    """Mean of (1 - p) ** gamma times the cross-entropy, over the softmax (Lin et al. 2017, equation 4).

    Args:
        logits: float [B, K].
        targets: int64 [B] class numbers, or float [B, K] probabilities.
        class_weights: float [K], the equation's alpha.
        gamma: How much what is already right counts less.

    Returns:
        float [].
    """
    if targets.ndim != logits.ndim:
        targets = functional.one_hot(targets, logits.shape[-1])
    log_probability = functional.log_softmax(logits)  # [B, K]
    rest = (1.0 - log_probability.exp()).clip(min=1e-7)  # at 0, the derivative of rest ** gamma is infinite below 1
    terms = targets * rest**gamma * log_probability
    if class_weights is not None:
        terms = terms * class_weights
    return -terms.sum(axis=-1).mean()


def binary_cross_entropy(
    logits: paddle.Tensor,
    targets: paddle.Tensor,
    class_weights: paddle.Tensor | None = None,
    threshold: float | None = None,
    add_classes: bool = False,
) -> paddle.Tensor:
    """Mean cross-entropy of each class by itself.

    Args:
        logits: float [B, K].
        targets: int64 [B] class numbers, or float [B, K] in 0..1.
        class_weights: float [K].
        threshold: Targets above it become 1, the others 0.
        add_classes: The classes' sum instead of their mean.

    Returns:
        float [].
    """
    if targets.ndim != logits.ndim:
        targets = functional.one_hot(targets, logits.shape[-1])
    if threshold is not None:
        targets = targets > threshold
    # Not Paddle's own: the gradient of 3.3.1 is off by 1 where a logit is exactly 0, as all of a new classifier's are.
    losses = functional.softplus(logits) - logits * targets.astype(logits.dtype)  # [B, K]
    if class_weights is not None:
        losses = losses * class_weights
    return losses.sum(axis=-1).mean() if add_classes else losses.mean()


def distillation(logits: paddle.Tensor, answers: paddle.Tensor, kind: str, temperature: float = 1.0) -> paddle.Tensor:
    """How far logits are from a teacher's (DeiT, section 4, equations 2 and 3).

    Args:
        logits: float [B, K].
        answers: The teacher's logits, float [B, K].
        kind: `hard` is the cross-entropy with the teacher's best class; `soft` the Kullback-Leibler divergence of the
            softmax of both, divided by the temperature, times its square.
        temperature: Of soft.

    Returns:
        float [], the mean over the batch.
    """
    if kind == "hard":
        return functional.cross_entropy(logits, answers.argmax(axis=-1))
    teacher = functional.log_softmax(answers / temperature)
    student = functional.log_softmax(logits / temperature)
    return (teacher.exp() * (teacher - student)).sum(axis=-1).mean() * temperature**2


@dataclass(frozen=True)
class Loss:
    """The loss of a configuration, from what the network gives, the targets and a teacher's answers to one number.

    A network with two heads has labels for the first and the teacher for the second; without a teacher both have the
    labels.
    """

    base: Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]
    """Of logits and targets."""
    distill: Optional[DistillConfig] = None
    """How a teacher's answers count."""

    def __call__(self, outputs: Outputs, targets: paddle.Tensor, answers: paddle.Tensor | None = None) -> paddle.Tensor:
        """float []."""
        heads = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        if answers is None or self.distill is None:
            return paddle.add_n([self.base(head, targets) for head in heads]) / len(heads)
        taught = distillation(heads[-1], answers, self.distill.kind, self.distill.temperature)
        return self.base(heads[0], targets) * (1.0 - self.distill.alpha) + taught * self.distill.alpha


def class_weights(config: TrainConfig, labels: np.ndarray, num_classes: int) -> paddle.Tensor | None:
    """The weight of each class.

    Args:
        config: Says how.
        labels: Of the training data: [n] int64, or [n, K] marks.
        num_classes: K.

    Returns:
        float32 [K]; None for equal weights. Balanced ones have mean 1 over the classes that have pictures; the others'
        are 1.

    Raises:
        ConfigError: Not one weight per class.
    """
    if config.class_weights is None:
        return None
    if config.class_weights == "balanced":
        counts = np.bincount(labels, minlength=num_classes) if labels.ndim == 1 else labels.sum(axis=0)
        present = counts > 0
        weights = np.where(present, 1.0 / np.maximum(counts, 1), 0.0)
        weights = np.where(present, weights / weights[present].mean(), 1.0)
    else:
        weights = np.asarray(config.class_weights)
    if len(weights) != num_classes:
        raise ConfigError(f"train.class_weights has {len(weights)} numbers; the data has {num_classes} classes.")
    return paddle.to_tensor(weights.astype(np.float32))


def build_loss(config: Config, labels: np.ndarray, num_classes: int) -> Loss:
    """The loss of a configuration.

    Args:
        config: The experiment.
        labels: Of the training data.
        num_classes: K.

    Raises:
        ConfigError: A loss, or a change of targets or weights, that does not fit the data's task.
    """
    train = config.train
    fitting = {"classes": ("cross_entropy", "bce", "focal"), "multi_label": ("bce",), "regression": ("mse",)}
    task = config.data.task
    if train.loss not in fitting[task]:
        raise ConfigError(f"train.loss is {train.loss}; data.task {task} needs {' or '.join(fitting[task])}.")
    _check_targets(config, num_classes)
    weights = class_weights(train, labels, num_classes)

    def base(logits: paddle.Tensor, targets: paddle.Tensor) -> paddle.Tensor:
        if train.loss == "bce":
            return binary_cross_entropy(logits, targets, weights, train.bce_threshold, train.bce_sum)
        if train.loss == "focal":
            return focal(logits, targets, weights, train.focal_gamma)
        if train.loss == "mse":
            return functional.mse_loss(logits, targets.astype(logits.dtype))
        return cross_entropy(logits, targets, weights)

    return Loss(base, config.distill if config.distill.teacher else None)


def _check_targets(config: Config, num_classes: int) -> None:
    """Raise ConfigError for keys that would change the targets into something else than was meant."""
    train, task = config.train, config.data.task
    if config.distill.teacher and task != "classes":
        raise ConfigError(f"distill.teacher teaches one class a picture; data.task {task} has no use for it.")
    for key in ("label_smoothing", "class_weights"):
        if task == "regression" and getattr(train, key):
            raise ConfigError(
                f"train.{key} is {getattr(train, key)}; data.task regression has no classes, leave it out."
            )
    zero = train.label_smoothing * (1.0 / num_classes if task == "classes" else 0.5)
    if train.loss == "bce" and train.bce_threshold is not None and train.bce_threshold < zero:
        raise ConfigError(
            f"train.bce_threshold is {train.bce_threshold}; train.label_smoothing lifts every target to at least"
            f" {zero:.3g}, so that all would become 1: smooth less or take a higher threshold."
        )
