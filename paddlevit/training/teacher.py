"""The answers of a trained network, for distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import paddle
from paddle.nn import functional

from paddlevit.config import ConfigError
from paddlevit.preprocessing import Preprocessing


class Classifier(Protocol):
    """What can teach: a network, or an export through its engine."""

    class_names: Sequence[str]
    preprocessing: Preprocessing

    def logits(self, images: np.ndarray) -> np.ndarray:
        """float32 [B, C, H, W] -> float32 [B, K]."""


class Teacher:
    """Answers to pictures that were prepared for the student.

    Args:
        classifier: Who answers; if it has a `network`, that is called without the way through NumPy.
        student: The student's preprocessing.
        class_names: The student's.

    Raises:
        ConfigError: Other classes or channels than the student's.
    """

    def __init__(self, classifier: Classifier, student: Preprocessing, class_names: Sequence[str]) -> None:
        if list(classifier.class_names) != list(class_names):
            raise ConfigError(
                f"distill.teacher knows {len(classifier.class_names)} classes"
                f" ({', '.join(classifier.class_names[:3])}, ...), the data has {len(class_names)}"
                f" ({', '.join(class_names[:3])}, ...); they must be the same."
            )
        own = classifier.preprocessing
        if own.channels != student.channels:
            raise ConfigError(f"distill.teacher takes {own.channels} channels, the student {student.channels}.")
        self.classifier, self.image_size = classifier, own.image_size
        mean, std, own_mean, own_std = (
            np.asarray(values, np.float32).reshape(1, -1, 1, 1)
            for values in (student.mean, student.std, own.mean, own.std)
        )
        # (pixels - own mean) / own std, from pixels = x * std + mean.
        self.factor, self.shift = paddle.to_tensor(std / own_std), paddle.to_tensor((mean - own_mean) / own_std)

    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        """float [B, C, H, W] as the student sees them -> float32 [B, K]."""
        with paddle.no_grad():
            images = images.astype("float32") * self.factor + self.shift
            if tuple(images.shape[2:]) != tuple(self.image_size):
                images = functional.interpolate(images, self.image_size, mode="bicubic")
            network = getattr(self.classifier, "network", None)
            if network is not None:
                return network(images)
            return paddle.to_tensor(self.classifier.logits(images.numpy()))
