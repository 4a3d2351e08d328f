"""What a trained classifier answers to every picture, and which mistakes it makes.

Shapes: n pictures, K classes.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional


@dataclass(frozen=True, order=True)
class Mistake:
    """A picture classified wrongly."""

    loss: float
    """Cross-entropy: how sure the network was of something else."""
    index: int
    """Place of the picture in the dataset."""
    label: int = field(compare=False)
    """Its class."""
    answer: int = field(compare=False)
    """The class that it was taken for."""
    probability: float = field(compare=False)
    """The network's probability of that answer."""
    image: np.ndarray = field(compare=False, repr=False)
    """[C, H, W] as the network saw it."""


@dataclass(frozen=True)
class Answers:
    """All answers to a dataset in its own order."""

    labels: np.ndarray
    """int64 [n]."""
    predictions: np.ndarray
    """int64 [n]."""
    worst: list[Mistake]
    """The mistakes with the highest loss, worst first."""


def collect_answers(network: nn.Layer, loader: paddle.io.DataLoader, num_worst: int = 24) -> Answers:
    """Run a classifier over every batch.

    Args:
        network: In any mode; it is put in evaluation mode.
        loader: Batches of (images, labels) of one process, in order.
        num_worst: How many mistakes to keep.
    """
    network.eval()
    worst: list[Mistake] = []
    labels, predictions, first = [], [], 0
    for images, batch_labels in loader:
        with paddle.no_grad():
            logits = network(images)
            probabilities = functional.softmax(logits)
            losses = functional.cross_entropy(logits, batch_labels, reduction="none").reshape([-1]).numpy()
        answers, truth = logits.argmax(axis=-1).numpy(), batch_labels.numpy()
        for place in np.flatnonzero(answers != truth):
            loss, index = float(losses[place]), first + int(place)
            if len(worst) == num_worst and loss <= worst[0].loss:
                continue
            answer = int(answers[place])
            probability = float(probabilities[int(place), answer])
            mistake = Mistake(loss, index, int(truth[place]), answer, probability, images[int(place)].numpy())
            (heapq.heappush if len(worst) < num_worst else heapq.heapreplace)(worst, mistake)
        labels.append(truth)
        predictions.append(answers)
        first += len(truth)
    return Answers(np.concatenate(labels), np.concatenate(predictions), sorted(worst, reverse=True))


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """How many pictures of each class were taken for which.

    Args:
        labels: int64 [n].
        predictions: int64 [n].
        num_classes: K.

    Returns:
        int64 [K, K], true classes in rows.
    """
    return np.bincount(labels * num_classes + predictions, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class ClassScores:
    """Figures of every class, float64 [K]; 0 where they are not defined."""

    pictures: np.ndarray
    """Pictures of the class."""
    precision: np.ndarray
    """Share of its answers that are right."""
    recall: np.ndarray
    """Share of its pictures that are found."""
    f1: np.ndarray
    """Harmonic mean of the two."""


def class_scores(matrix: np.ndarray) -> ClassScores:
    """The figures of every class from a confusion matrix."""
    right, pictures, answers = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    precision, recall = right / np.maximum(answers, 1), right / np.maximum(pictures, 1)
    return ClassScores(pictures, precision, recall, 2 * right / np.maximum(pictures + answers, 1))


def most_confused(matrix: np.ndarray, count: int = 20) -> list[tuple[int, int, int]]:
    """The commonest mistakes: class, what it was taken for, how often."""
    wrong = matrix - np.diag(np.diag(matrix))
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [(int(place) // len(wrong), int(place) % len(wrong)) for place in order]
    return [(label, answer, int(wrong[label, answer])) for label, answer in pairs if wrong[label, answer]]
