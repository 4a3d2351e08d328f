"""The vectors that a classifier classifies, and how well they serve without it.

Shapes: n pictures, B batch, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import paddle
from paddle import nn

from paddlevit.config import Config
from paddlevit.data import ImageDataset, eval_transform
from paddlevit.hooks import watch
from paddlevit.inference.evaluate import build_batches
from paddlevit.inference.graph import find_classifier
from paddlevit.inference.predictor import Predictor
from paddlevit.inference.source import Classifier, NetworkClassifier
from paddlevit.models.deit import DistilledVisualTransformer

TEMPERATURE = 0.07
CELLS = 1 << 24
PROBE_RATE = 1e-2
PROBE_EPOCHS = 50
PROBE_UPDATES = 500
PROBE_BATCH = 256


def report(
    config: Config,
    classifier: Classifier,
    train_set: ImageDataset,
    val_set: ImageDataset,
    file: Path | None = None,
    neighbours: int | None = None,
    linear_probe: bool = False,
) -> str:
    """Extract features of the evaluation data, and see how well they serve when those of the training data are known.

    Args:
        config: Of the data.
        classifier: Made by `open_classifier`; its classes do not matter.
        train_set: Of `build_datasets`; its pictures are prepared as for evaluation.
        val_set: Likewise.
        file: Where the features of the evaluation data go, as .npz.
        neighbours: How many nearest pictures vote; None does without.
        linear_probe: Whether a linear classifier is trained.

    Returns:
        Lines for people.

    Raises:
        ValueError: An export without features.
    """
    names, plain = val_set.class_names, eval_transform(classifier.preprocessing)
    asked, labels = extract_features(classifier, build_batches(config, classifier, val_set))
    lines = [f"{len(labels)} pictures  {asked.shape[1]} features"]
    if file is not None:
        save_features(file, asked, labels, names, val_set.paths)
        lines[0] += f" in {file}"
    if neighbours is not None or linear_probe:
        known_set = ImageDataset(train_set.source, plain, train_set.seed, train_set.bad_image)
        known, known_labels = extract_features(classifier, build_batches(config, classifier, known_set))
    if neighbours is not None:
        scores = knn_scores(known, known_labels, asked, len(names), neighbours)
        lines.append(_accuracies(f"{neighbours}-NN", scores, labels))
    if linear_probe:
        scores = linear_scores(known, known_labels, asked, len(names), config.run.seed)
        lines.append(_accuracies("linear probe", scores, labels))
    return "\n".join(lines)


def extract_features(
    classifier: Classifier, loader: Iterable[Sequence[paddle.Tensor]]
) -> tuple[np.ndarray, np.ndarray]:
    """What the classifying layer gets of every picture; of a distilled DeiT, the mean of both tokens.

    Args:
        classifier: Made by `open_classifier`; an export needs to have been made with features.
        loader: Made by `build_batches`.

    Returns:
        float32 [n, D], and the labels.

    Raises:
        ValueError: An export without features.
    """
    if isinstance(classifier, NetworkClassifier):
        pairs = list(_of_network(classifier, loader))
    else:
        pairs = list(_of_export(cast(Predictor, classifier), loader))
    return np.concatenate([features for features, _ in pairs]), np.concatenate([labels for _, labels in pairs])


def _of_network(
    classifier: NetworkClassifier, loader: Iterable[Sequence[paddle.Tensor]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    owner, name = find_classifier(classifier.network)
    heads = [getattr(owner, name)]
    if isinstance(classifier.network, DistilledVisualTransformer):
        heads.append(classifier.network.classifier_distillation)
    seen: list[np.ndarray] = []
    with watch(
        classifier.network, {head: lambda layer, inputs, output: seen.append(inputs[0].numpy()) for head in heads}
    ):
        for images, labels in loader:
            seen.clear()
            classifier.logits(images.numpy())
            yield np.mean(seen, axis=0), labels.numpy()  # [B, D]


def _of_export(
    classifier: Predictor, loader: Iterable[Sequence[paddle.Tensor]]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if "features" not in classifier.info.outputs:
        raise ValueError(
            f"{classifier.folder} gives no features; give the run instead, or export it with export_model's features."
        )
    for images, labels in loader:
        yield classifier.outputs(images.numpy())["features"], labels.numpy()


def save_features(
    path: Path, features: np.ndarray, labels: np.ndarray, class_names: Sequence[str], paths: Sequence[str] | None
) -> None:
    """Write features, labels, class_names and, where there are files, paths into one .npz that `numpy.load` reads."""
    arrays: dict[str, Any] = {"features": features, "labels": labels, "class_names": np.array(list(class_names))}
    if paths is not None:
        arrays["paths"] = np.array(list(paths))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def knn_scores(
    known: np.ndarray, known_labels: np.ndarray, asked: np.ndarray, num_classes: int, neighbours: int
) -> np.ndarray:
    """Votes of the nearest known pictures, weighted by how near they are, as in DINO (Caron et al. 2021).

    Each of the `neighbours` with the highest cosine similarity s votes for its class with the weight exp(s / 0.07).

    Args:
        known: float32 [n, D], of the pictures whose labels are known.
        known_labels: int64 [n].
        asked: float32 [m, D].
        num_classes: K.
        neighbours: How many vote; more than n are n.

    Returns:
        float32 [m, K].
    """
    known, asked = _unit(known), _unit(asked)
    neighbours = min(neighbours, len(known))
    votes = np.zeros((len(asked), num_classes), np.float32)
    step = max(1, CELLS // len(known))  # so many rows of similarities at a time
    for first in range(0, len(asked), step):
        similarity = asked[first : first + step] @ known.T  # [rows, n]
        nearest = np.argpartition(-similarity, neighbours - 1, axis=1)[:, :neighbours]  # [rows, neighbours]
        weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / TEMPERATURE)
        rows = np.arange(first, first + len(similarity))[:, None]
        np.add.at(votes, (rows, known_labels[nearest]), weights)
    return votes


def linear_scores(
    known: np.ndarray, known_labels: np.ndarray, asked: np.ndarray, num_classes: int, seed: int = 0
) -> np.ndarray:
    """Logits of a linear classifier that is trained on features of which each has been given mean 0 and variance 1.

    Cross-entropy, Adam with a cosine from 0.01 to 0, 50 epochs in batches of 256 or more epochs until there are
    500 updates, by `paddle.Model.fit`.

    Args:
        known: float32 [n, D], to train on.
        known_labels: int64 [n].
        asked: float32 [m, D].
        num_classes: K.
        seed: Of the order of training.

    Returns:
        float32 [m, K].
    """
    mean, std = known.mean(axis=0), known.std(axis=0)
    std = np.where(std > 0, std, 1.0).astype(np.float32)
    head = nn.Linear(
        known.shape[1], num_classes, weight_attr=paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
    )
    batch = min(PROBE_BATCH, len(known))
    per_epoch = -(-len(known) // batch)
    epochs = max(PROBE_EPOCHS, -(-PROBE_UPDATES // per_epoch))
    rate = paddle.optimizer.lr.CosineAnnealingDecay(PROBE_RATE, epochs * per_epoch)
    model = paddle.Model(head, paddle.static.InputSpec([None, known.shape[1]], "float32", "features"))
    model.prepare(paddle.optimizer.Adam(rate, parameters=head.parameters()), nn.CrossEntropyLoss())
    batches = paddle.io.DataLoader(_Batches((known - mean) / std, known_labels, batch, epochs, seed), batch_size=None)
    model.fit(batches, epochs=1, verbose=0)
    return model.predict_batch([(asked - mean) / std])[0]


class _Batches(paddle.io.IterableDataset):
    """Features and labels of all epochs, each in another order, a whole batch at a time."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, batch_size: int, epochs: int, seed: int) -> None:
        super().__init__()
        self.features, self.labels, self.batch_size = features, labels, batch_size
        self.epochs, self.seed = epochs, seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        generator = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            order = generator.permutation(len(self.labels))
            for first in range(0, len(order), self.batch_size):
                places = order[first : first + self.batch_size]
                yield self.features[places], self.labels[places]


def _accuracies(title: str, scores: np.ndarray, labels: np.ndarray) -> str:
    """Top-1 and top-5 accuracy of scores [m, K]."""
    hits = np.argsort(-scores, axis=1, kind="stable")[:, :5] == labels[:, None]  # [m, 5]
    return f"{title}: top1 {100 * hits[:, 0].mean():.2f} %  top5 {100 * hits.any(axis=1).mean():.2f} %"


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
