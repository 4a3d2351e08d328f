"""`paddle.Model` with the steps that a Vision Transformer's training needs.

`fit` and `evaluate` are Paddle's own; only `train_batch` and `eval_batch` are replaced, because Paddle's version sums
accumulated gradients instead of averaging them, trains on after a non-finite loss, and moves the learning rate with
every batch instead of every update.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import paddle
from paddle import nn

from paddlevit.training.amp import LossScaler, autocast
from paddlevit.training.ema import ExponentialMovingAverage
from paddlevit.training.fast_cpu import fast_gradients
from paddlevit.training.losses import Loss
from paddlevit.training.metrics import ClassificationScores, Scores


@dataclass
class Progress:
    """How far a run has come; with weights and optimizer state it is all that resuming needs."""

    epoch: int = 0
    """Epoch under way, from 0."""
    batch: int = 0
    """Batches of that epoch already trained on, by each process."""
    update: int = 0
    """Optimizer steps since the start."""
    skipped_updates: int = 0
    """Of these, how many were left out because gradients overflowed in half precision."""
    loss_sum: float = 0.0
    """Sum of the epoch's losses, weighted by pictures."""
    hits: int = 0
    """Pictures of the epoch classified right while training."""
    pictures: int = 0
    """Pictures of the epoch trained on."""
    best_score: float = float("-inf")
    """Best evaluation so far."""
    loss_scale: Optional[float] = None
    """Factor on the loss in fp16."""
    good_updates: int = 0
    """Updates since that factor changed."""

    def next_epoch(self) -> None:
        """Close the epoch under way."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum, self.hits, self.pictures = 0.0, 0, 0


class NonFiniteLoss(ValueError):
    """The loss became infinite or not a number."""


@dataclass(frozen=True)
class Steps:
    """How a Trainer makes its steps."""

    rate: Callable[[int], float]
    """Learning rate of an update by its number, if all epochs had as many as this one."""
    batches_per_epoch: int
    """Batches that one epoch gives each process."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one update."""
    seed: int = 0
    """Of dropout, drop path and mixing."""
    mixing: Optional[Callable] = None
    """From (images, labels, generator) to mixed images and soft targets."""
    teacher: Optional[Callable[[paddle.Tensor], paddle.Tensor]] = None
    """From images to logits that are learned besides the labels."""
    amp: str = "off"
    """Half precision of products: fp16, bf16 or off."""
    at_rest: Sequence[nn.Layer] = ()
    """Layers that stay in evaluation mode."""
    fast_cpu: bool = False
    """Use the faster gradients of fast_cpu.py."""

    @property
    def updates_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-self.batches_per_epoch // self.accumulate)


class Trainer(paddle.Model):
    """A network under training.

    Args:
        network: Any of our models, or any Layer from [B, C, H, W] to [B, K].
        inputs: What the network takes, as for `paddle.Model`; exports need it.
    """

    def __init__(self, network: nn.Layer, inputs: paddle.static.InputSpec | None = None) -> None:
        super().__init__(network, inputs)
        self.progress = Progress()
        self.learning_rate = 0.0
        self.rate_factor = 1.0
        self.eval_left: int | None = None
        """Pictures that evaluation still counts; those after them only fill up the last batch of several processes."""
        environment = paddle.distributed.ParallelEnv()
        self.rank, self.num_processes = environment.rank, environment.nranks

    def setup(
        self,
        optimizer: paddle.optimizer.Optimizer,
        loss: Loss,
        steps: Steps,
        scores: Scores | None = None,
        ema_decay: float | None = None,
    ) -> Trainer:
        """What `paddle.Model.prepare` does, and what it has no place for.

        Args:
            optimizer: Made by `build_optimizer`.
            loss: From the network's output and the targets to one number.
            steps: How steps are made.
            scores: What evaluation adds up; None is `ClassificationScores`.
            ema_decay: Share of the running average of the weights that an update keeps; None keeps no average.

        Returns:
            Itself.
        """
        self.steps = steps
        self.ema = None if ema_decay is None else ExponentialMovingAverage(self.network, ema_decay)
        self.prepare(optimizer, loss, scores or ClassificationScores())
        if steps.amp == "fp16":
            self.progress.loss_scale = LossScaler().scale
        return self

    @property
    def scores(self) -> Scores:
        """What evaluation adds up."""
        return self._metrics[0]

    def train_batch(self, inputs: Any, labels: Any = None, update: bool = True) -> tuple[list[float], list]:
        """One batch; at the end of an accumulation window also one optimizer step.

        Args:
            inputs: float [B, C, H, W], or a list of it.
            labels: int64 [B] or float [B, K], or a list of it.
            update: Ignored: the window is counted from the epoch's start, so that a resumed epoch updates alike.

        Returns:
            The loss, and an empty place for the metrics that `fit` expects.

        Raises:
            NonFiniteLoss: The loss is infinite or not a number; nothing was updated.
        """
        images, labels, progress = _tensor(inputs), _tensor(labels), self.progress
        first = progress.batch - progress.batch % self.steps.accumulate
        window = min(self.steps.accumulate, self.steps.batches_per_epoch - first)
        closes = progress.batch + 1 == first + window
        generator = self._seed_batch()
        self._wake()
        targets = labels
        if self.steps.mixing is not None:
            images, targets = self.steps.mixing(images, labels, generator)
        answers = None if self.steps.teacher is None else self.steps.teacher(images)
        with self._waiting(not closes), autocast(self.steps.amp), fast_gradients(self.network, self.steps.fast_cpu):
            outputs = self._trained_network()(images)
            outputs = [head.astype("float32") for head in outputs] if _is_many(outputs) else outputs.astype("float32")
            loss = self._loss(outputs, targets, answers)
            value = float(loss)
            if not np.isfinite(value):
                raise NonFiniteLoss(
                    f"The loss is {value} at epoch {progress.epoch + 1}, batch {progress.batch + 1}"
                    f" (update {progress.update + 1}, learning rate {self._rate(progress.batch):.3g})."
                )
            (loss * ((progress.loss_scale or 1.0) / window)).backward()
        self._count(outputs, targets, value)
        if closes:
            self._update()
        return [value], [[]]

    def eval_batch(self, inputs: Any, labels: Any = None) -> tuple[list[float], list]:
        """Loss and scores of one batch; the metric adds them up.

        Args:
            inputs: float [B, C, H, W], or a list of it.
            labels: int64 [B] or float [B, K], or a list of it.

        Returns:
            The batch's mean loss, and the running scores.
        """
        self.network.eval()
        images, labels = _tensor(inputs), _tensor(labels)
        if self.eval_left is not None:
            counted = min(self.eval_left, labels.shape[0])
            self.eval_left -= counted
            if not counted:
                return [0.0], [self.scores.accumulate()]
            images, labels = images[:counted], labels[:counted]
        with paddle.no_grad():
            sums = self.scores.compute(self.network(images), labels).numpy()
        return [float(sums[1] / sums[0])], [self.scores.update(sums)]

    @property
    def at_update(self) -> bool:
        """Whether no gradients are waiting: only then is a checkpoint complete."""
        batch = self.progress.batch
        return batch % self.steps.accumulate == 0 or batch == self.steps.batches_per_epoch

    def _update(self) -> None:
        progress = self.progress
        self.learning_rate = self._rate(progress.batch - 1)
        progress.update += 1
        if self._gradients_are_finite():
            self._optimizer.set_lr(self.learning_rate)
            self._optimizer.step()
            if self.ema is not None:
                self.ema.update(self.network)
        else:
            progress.skipped_updates += 1
        self._optimizer.clear_grad(set_to_zero=False)

    def _gradients_are_finite(self) -> bool:
        """Undo the factor on the loss; always true without fp16, whose small range alone overflows."""
        progress = self.progress
        if progress.loss_scale is None:
            return True
        scaler = LossScaler(progress.loss_scale, progress.good_updates)
        finite = scaler.unscale(self._optimizer._parameter_list)
        progress.loss_scale, progress.good_updates = scaler.scale, scaler.good_updates
        return finite

    def _rate(self, batch: int) -> float:
        """The learning rate of the update that a batch of this epoch goes into.

        Not by the count of updates: epochs before a run was resumed may have had more or fewer.
        """
        steps, epoch = self.steps, self.progress.epoch
        return steps.rate(epoch * steps.updates_per_epoch + batch // steps.accumulate) * self.rate_factor

    def _count(self, outputs: Any, targets: paddle.Tensor, loss: float) -> None:
        progress, pictures = self.progress, targets.shape[0]
        progress.batch += 1
        progress.pictures += pictures
        progress.loss_sum += loss * pictures
        if self.scores.counts_hits:
            progress.hits += int(self.scores.hits(outputs[0] if _is_many(outputs) else outputs, targets))

    def _trained_network(self) -> nn.Layer:
        return self._adapter.ddp_model if self.num_processes > 1 else self.network

    def _wake(self) -> None:
        """Training mode, except for what rests."""
        self.network.train()
        for layer in self.steps.at_rest:
            layer.eval()

    def _waiting(self, waits: bool) -> AbstractContextManager:
        """Within the block, processes do not exchange gradients if this batch does not close its window."""
        if waits and self.num_processes > 1:
            return self._adapter.ddp_model.no_sync()
        return contextlib.nullcontext()

    def _seed_batch(self) -> np.random.Generator:
        """Randomness that depends on the place in the run only: a resumed run draws what the first one drew.

        Batches are numbered through all processes, so that N processes draw what one process draws that accumulates N
        times as many.

        Returns:
            The generator of mixing.
        """
        number = self.progress.batch * self.num_processes + self.rank
        seed = int(np.random.SeedSequence([self.steps.seed, self.progress.epoch, number]).generate_state(1)[0]) >> 1
        paddle.seed(seed)
        random.seed(seed)
        return np.random.default_rng([self.steps.seed, self.progress.epoch, number, 1])


def _is_many(outputs: Any) -> bool:
    return isinstance(outputs, (list, tuple))


def _tensor(value: Any) -> paddle.Tensor:
    if isinstance(value, Sequence):
        value = value[0]
    return value if isinstance(value, paddle.Tensor) else paddle.to_tensor(value)
