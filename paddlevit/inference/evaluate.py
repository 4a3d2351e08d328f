"""Scores of a classifier on labelled pictures."""

from __future__ import annotations

import paddle

from paddlevit.inference.source import Classifier, NetworkClassifier
from paddlevit.training.callbacks import evaluate
from paddlevit.training.metrics import ClassificationScores
from paddlevit.training.trainer import Trainer


def evaluate_classifier(
    classifier: Classifier, loader: paddle.io.DataLoader, class_names: list[str]
) -> dict[str, float]:
    """Mean loss, top-1 and top-5 accuracy.

    A network is evaluated by `paddle.Model.evaluate`, an export batch by batch through its own engine.

    Args:
        classifier: Made by `open_classifier`.
        loader: Batches of (images, labels) prepared as the classifier expects.
        class_names: Of the data, which must be the classifier's.

    Returns:
        loss, top1 and top5.

    Raises:
        ValueError: The data has other classes than the classifier.
    """
    if list(class_names) != list(classifier.class_names):
        raise ValueError(
            f"The data has {len(class_names)} classes ({', '.join(class_names[:3])}, ...), the classifier"
            f" {len(classifier.class_names)} ({', '.join(classifier.class_names[:3])}, ...); they must be the same."
        )
    if isinstance(classifier, NetworkClassifier):
        trainer = Trainer(classifier.network, classifier.model._inputs)
        trainer.prepare(loss=paddle.nn.CrossEntropyLoss(), metrics=ClassificationScores())
        return evaluate(trainer, loader)
    scores = ClassificationScores()
    for images, labels in loader:
        logits = paddle.to_tensor(classifier.logits(images.numpy()))
        scores.update(scores.compute(logits, labels).numpy())
    return dict(zip(("loss", "top1", "top5"), scores.accumulate()))
