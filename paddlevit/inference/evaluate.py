"""Scores of a classifier on labelled pictures.

Shapes: n pictures, B batch, V views of a picture, C image channels, H W image height and width, K classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle

from paddlevit.config import Config
from paddlevit.data import ImageDataset
from paddlevit.data.labels import read_real_labels, real_accuracy, subset_places
from paddlevit.data.transforms import VIEWS, ViewsTransform
from paddlevit.inference.predictor import Predictor, same_shapes, softmax
from paddlevit.inference.source import Classifier, NetworkClassifier
from paddlevit.inference.tables import check_confusion_path, format_class_table, write_confusion
from paddlevit.training.answers import confusion_matrix
from paddlevit.training.build import build_eval_loader
from paddlevit.training.callbacks import evaluate
from paddlevit.training.metrics import ClassificationScores, build_scores
from paddlevit.training.trainer import Trainer

SHARES = ("top1", "top5", "f1", "exact")


def evaluate_classifier(
    classifier: Classifier,
    loader: Iterable[Sequence[paddle.Tensor]],
    class_names: list[str],
    task: str = "classes",
) -> dict[str, float]:
    """The scores of a task: of classes, mean loss, top-1 and top-5 accuracy.

    A network is evaluated by `paddle.Model.evaluate`, an export batch by batch through its own engine.

    Args:
        classifier: Made by `open_classifier`.
        loader: Made by `build_batches`.
        class_names: Of the data, which must be the classifier's.
        task: classes, multi_label or regression.

    Returns:
        The figures by name, as in `paddlevit.training.metrics`.

    Raises:
        ValueError: The data has other classes than the classifier.
    """
    check_classes(classifier, class_names)
    scores = build_scores(task)
    if isinstance(classifier, NetworkClassifier):
        trainer = Trainer(classifier.network, classifier.model._inputs)
        trainer.prepare(loss=paddle.nn.CrossEntropyLoss(), metrics=scores)
        return evaluate(trainer, loader)
    for images, labels in loader:
        logits = paddle.to_tensor(logits_of(classifier, images.numpy()))
        scores.update(scores.compute(logits, labels).numpy())
    return dict(zip(scores.names, scores.accumulate()))


def logits_of(classifier: Classifier, images: np.ndarray) -> np.ndarray:
    """[B, K]; the logarithms of an export's probabilities, which differ from its logits by one number per picture."""
    outputs = classifier.outputs(images)
    return outputs["logits"] if "logits" in outputs else _log(outputs["probabilities"])


def check_classes(classifier: Classifier, class_names: Sequence[str]) -> None:
    """Refuse data whose classes are not those of the classifier, in the same order."""
    if list(class_names) != list(classifier.class_names):
        raise ValueError(
            f"The data has {len(class_names)} classes ({', '.join(class_names[:3])}, ...), the classifier"
            f" {len(classifier.class_names)} ({', '.join(classifier.class_names[:3])}, ...); they must be the same;"
            " --subset takes data that has only some of them."
        )


@dataclass(frozen=True)
class AnswerOptions:
    """What else than the scores is asked for."""

    tta: str | None = None
    """Views whose probabilities are averaged: flip or ten_crop."""
    subset: bool = False
    """The data have only some of the classifier's classes, and it may answer only these."""
    real: str | None = None
    """File with ImageNet's reassessed labels."""
    per_class: bool = False
    """List every class."""
    confusion: Path | None = None
    """Where the confusion matrix goes, .csv or .png."""


@dataclass(frozen=True)
class Evaluation:
    """What a classifier said to every picture."""

    scores: dict[str, float]
    """loss, top1 and top5."""
    labels: np.ndarray
    """int64 [n]."""
    predictions: np.ndarray
    """int64 [n], the likeliest class of each picture."""


def report(config: Config, classifier: Classifier, val_set: ImageDataset, options: AnswerOptions) -> str:
    """Evaluate, write what goes into files, and say the rest.

    Args:
        config: Of the data.
        classifier: Made by `open_classifier`.
        val_set: Of `build_datasets`.
        options: What is wanted.

    Returns:
        Lines for people.

    Raises:
        ValueError: The data has other classes than the classifier; or pictures are not found in options.real.
        ImportError: A PNG is wanted and matplotlib is not installed.
    """
    names = val_set.class_names
    if options.subset:
        places = subset_places(classifier.class_names, names)
    else:
        places = None
        check_classes(classifier, names)
    if options.confusion is not None:
        check_confusion_path(options.confusion)
    real = read_real_labels(options.real, _paths(val_set, options.real)) if options.real is not None else []
    if max((label for labels in real for label in labels), default=0) >= len(names):
        raise ValueError(f"{options.real} has labels beyond the {len(names)} classes of the data.")
    found = evaluate_answers(classifier, build_batches(config, classifier, val_set, options.tta), places)
    lines = [format_scores(len(val_set), found.scores)]
    if real:
        counted = sum(bool(labels) for labels in real)
        lines.append(f"ReaL: {counted} pictures  top1 {100 * real_accuracy(found.predictions, real):.2f} %")
    matrix = confusion_matrix(found.labels, found.predictions, len(names))
    if options.per_class:
        lines.append(format_class_table(matrix, names))
    if options.confusion is not None:
        write_confusion(options.confusion, matrix, names)
        lines.append(f"confusion matrix: {options.confusion}")
    return "\n".join(lines)


def evaluate_answers(
    classifier: Classifier, loader: Iterable[Sequence[paddle.Tensor]], places: np.ndarray | None = None
) -> Evaluation:
    """Scores, and every single answer; for several views of each picture, of the mean of their probabilities.

    Args:
        classifier: Made by `open_classifier`.
        loader: Batches of (images, labels), where images are [B, C, H, W], or [B, V, C, H, W] from a ViewsTransform.
        places: int64 [K], the classifier's classes that may be answered, in the order of the labels; None is all.

    Returns:
        Scores, labels and answers; both of the latter count within `places`.
    """
    scores = ClassificationScores()
    truth, answers = [], []
    for images, labels in loader:
        logits = _logits(classifier, images.numpy(), places)
        scores.update(scores.compute(paddle.to_tensor(logits), labels).numpy())
        truth.append(labels.numpy())
        answers.append(logits.argmax(axis=-1))
    return Evaluation(dict(zip(scores.names, scores.accumulate())), np.concatenate(truth), np.concatenate(answers))


def _logits(classifier: Classifier, images: np.ndarray, places: np.ndarray | None) -> np.ndarray:
    """[B, C, H, W] or [B, V, C, H, W] -> [B, K]."""
    views = images.shape[1] if images.ndim == 5 else 1
    if images.ndim == 5:
        images = images.reshape((-1, *images.shape[2:]))  # [B * V, C, H, W]
    logits = logits_of(classifier, images)  # [B * V, K]
    if places is not None:
        logits = logits[:, places]
    if views == 1:
        return logits
    mean = softmax(logits).reshape((-1, views, logits.shape[-1])).mean(axis=1)  # [B, K]
    return _log(mean)


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def build_batches(
    config: Config, classifier: Classifier, dataset: ImageDataset, tta: str | None = None
) -> Iterable[Sequence[paddle.Tensor]]:
    """Evaluation batches as a classifier takes them; with views, of fewer pictures, so that they take no more memory.

    Args:
        config: Of the data.
        classifier: Made by `open_classifier`.
        dataset: Of `build_datasets`.
        tta: Views of each picture: flip or ten_crop.

    Returns:
        Batches of (images, labels): float32 [B, C, H, W], [B, V, C, H, W] with V views, or uint8 [B, H, W, C] for an
        export that prepares pictures itself.

    Raises:
        ValueError: Views for such an export.
    """
    if isinstance(classifier, Predictor) and classifier.info.input.dtype == "uint8":
        if tta is not None:
            raise ValueError(f"--tta {tta} prepares views, but {classifier.folder} prepares whole pictures itself.")
        return _whole_pictures(classifier, dataset)
    if tta is None:
        return build_eval_loader(config, dataset)
    transform = ViewsTransform(dataset.transform.preprocessing, tta)
    data = config.data
    smaller = max(1, (data.eval_batch_size or data.batch_size) // VIEWS[tta])
    config = dataclasses.replace(config, data=dataclasses.replace(data, eval_batch_size=smaller))
    return build_eval_loader(config, ImageDataset(dataset.source, transform, dataset.seed, dataset.bad_image))


def _whole_pictures(classifier: Predictor, dataset: ImageDataset) -> Iterator[Sequence[paddle.Tensor]]:
    """Bytes [B, H, W, C] and labels; neighbours of one size together."""
    for start in range(0, len(dataset), classifier.batch_size):
        places = range(start, min(start + classifier.batch_size, len(dataset)))
        for batch in same_shapes([classifier.preprocess(dataset.source.image(index)) for index in places]):
            yield paddle.to_tensor(batch), paddle.to_tensor(dataset.labels[start : start + len(batch)])
            start += len(batch)


def _paths(dataset: ImageDataset, real: str) -> Sequence[str]:
    if dataset.paths is None:
        raise ValueError(f"{real} finds labels by the names of files, and these data are not files.")
    return dataset.paths


def format_scores(pictures: int, scores: dict[str, float]) -> str:
    """Scores in one line; shares in per cent."""
    texts = [
        f"{name} {100 * value:.2f} %" if name in SHARES else f"{name} {value:.4f}" for name, value in scores.items()
    ]
    return "  ".join([f"{pictures} pictures", *texts])
