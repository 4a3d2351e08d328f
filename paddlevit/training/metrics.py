"""Evaluation figures that are means over pictures, not over batches.

`paddle.Model.evaluate` reports the loss of the last batch; these add up sums, and divide at the end.

Shapes: B batch, K classes.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle.nn import functional


class Scores(paddle.metric.Metric):
    """Sums over all pictures since the last reset, the first of which is their number.

    A subclass says in `compute` what is added up, and in `figures` what people read.
    """

    names: tuple[str, ...] = ()
    """Of the figures; the first is a loss."""
    main: str = ""
    """The figure that decides which weights are best; higher is better."""
    counts_hits = False
    """Whether `hits` means anything."""
    num_sums = 0

    def __init__(self) -> None:
        super().__init__()
        self.totals = np.zeros(self.num_sums)
        self.finished = np.zeros(self.num_sums)

    def update(self, sums: np.ndarray) -> list[float]:
        """Add the sums of one batch."""
        self.totals = self.totals + np.asarray(sums, dtype=np.float64)
        return self.accumulate()

    def accumulate(self) -> list[float]:
        """The figures so far, in the order of `names`."""
        return self.figures(self.totals)

    def reset(self) -> None:
        """Start again; what was counted so far stays in `finished`, because paddle.Model resets before it returns."""
        self.finished, self.totals = self.totals, np.zeros(self.num_sums)

    def name(self) -> list[str]:
        return [f"mean_{name}" if name == "loss" else name for name in self.names]

    def figures(self, totals: np.ndarray) -> list[float]:
        """The figures of these sums; by default, means over pictures."""
        return (totals[1:] / max(totals[0], 1.0)).tolist()

    @staticmethod
    def hits(logits: paddle.Tensor, targets: paddle.Tensor) -> paddle.Tensor:
        """How many pictures of a batch are classified right; of a mixed one, its larger part counts.

        Args:
            logits: float [B, K].
            targets: int64 [B], or float [B, K] as mixing makes them.
        """
        mixed = targets.dtype in (paddle.float32, paddle.float64)
        return (logits.argmax(axis=-1) == (targets.argmax(axis=-1) if mixed else targets.reshape([-1]))).sum()


class ClassificationScores(Scores):
    """Mean cross-entropy, top-1 and top-5 accuracy."""

    names, main, counts_hits, num_sums = ("loss", "top1", "top5"), "top1", True, 4

    def compute(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Sums over a batch.

        Args:
            logits: float [B, K].
            labels: int64 [B].

        Returns:
            float32 [4]: pictures, loss, top-1 hits, top-5 hits.
        """
        labels = labels.reshape([-1, 1])
        best = paddle.topk(logits, min(5, logits.shape[-1]))[1]  # [B, 5]
        hits = (best == labels).astype("float32")
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        return paddle.stack([_count(logits), loss.reshape([]), hits[:, 0].sum(), hits.sum()])


class MultiLabelScores(Scores):
    """Mean binary cross-entropy, F1 over all marks, and the share of pictures with every mark right."""

    names, main, num_sums = ("loss", "f1", "exact"), "f1", 6

    def compute(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Sums over a batch.

        Args:
            logits: float [B, K]; a mark is given above 0.
            labels: float32 [B, K], 1 or 0.

        Returns:
            float32 [6]: pictures, loss, marks rightly given, wrongly given, missed, pictures all right.
        """
        given = (logits > 0).astype("float32")  # [B, K]
        loss = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(axis=-1).sum()
        right, wrong = (given * labels).sum(), (given * (1 - labels)).sum()
        exact = (given == labels).all(axis=-1).astype("float32").sum()
        return paddle.stack([_count(logits), loss, right, wrong, ((1 - given) * labels).sum(), exact])

    def figures(self, totals: np.ndarray) -> list[float]:
        """Loss, F1, share of pictures all right."""
        pictures, loss, right, wrong, missed, exact = totals.tolist()
        return [loss / max(pictures, 1.0), 2 * right / max(2 * right + wrong + missed, 1.0), exact / max(pictures, 1.0)]


class RegressionScores(Scores):
    """Mean squared and absolute error, and the share of the variance explained."""

    names, main, num_sums = ("loss", "absolute_error", "r2"), "r2", 5

    def compute(self, logits: paddle.Tensor, labels: paddle.Tensor) -> paddle.Tensor:
        """Sums over a batch.

        Args:
            logits: float [B, K], the predicted values.
            labels: float32 [B, K], the true ones.

        Returns:
            float64 [5]: pictures, squared errors, absolute errors, values, squared values; the last four means over K.
        """
        logits, labels = logits.astype("float64"), labels.astype("float64")  # squares of large values differ little
        error = logits - labels
        terms = [error**2, error.abs(), labels, labels**2]
        return paddle.stack([_count(logits), *(term.mean(axis=-1).sum() for term in terms)])

    def figures(self, totals: np.ndarray) -> list[float]:
        """Mean squared error, mean absolute error, 1 - squared error / variance."""
        pictures = max(totals[0], 1.0)
        squared, absolute, mean, mean_of_squares = (totals[1:] / pictures).tolist()
        variance = max(mean_of_squares - mean**2, 1e-12)
        return [squared, absolute, 1.0 - squared / variance]


def _count(logits: paddle.Tensor) -> paddle.Tensor:
    return paddle.full([], logits.shape[0], logits.dtype)


def build_scores(task: str) -> Scores:
    """The scores of a task: classes, multi_label or regression."""
    return {"classes": ClassificationScores, "multi_label": MultiLabelScores, "regression": RegressionScores}[task]()
