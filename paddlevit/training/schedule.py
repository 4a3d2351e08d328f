"""The learning rate of every update, as a closed form, so that resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from paddlevit.config import OptimizerConfig, ScheduleConfig


def learning_rate_schedule(schedule: ScheduleConfig, peak_lr: float, updates_per_epoch: int) -> Callable[[int], float]:
    """The learning rate as a function of an update's number.

    `plateau` is constant here; the trainer multiplies it by `plateau_factor` of the evaluations so far.

    Args:
        schedule: Shape of the curve.
        peak_lr: Rate at the end of the warm-up.
        updates_per_epoch: Optimizer steps in one epoch.

    Returns:
        A function from the number of an update, counted from 0, to its learning rate.
    """
    total = schedule.epochs * updates_per_epoch
    warmup = round(schedule.warmup_epochs * updates_per_epoch)
    milestones = [round(epoch * updates_per_epoch) for epoch in schedule.milestones]

    def rate(update: int) -> float:
        if update < warmup:
            return schedule.warmup_lr + (peak_lr - schedule.warmup_lr) * (update + 1) / warmup
        if schedule.name == "cosine":
            progress = min((update - warmup) / max(total - warmup, 1), 1.0)
            return schedule.min_lr + (peak_lr - schedule.min_lr) * (1 + math.cos(math.pi * progress)) / 2
        if schedule.name == "step":
            return peak_lr * schedule.factor ** sum(update >= milestone for milestone in milestones)
        return peak_lr

    return rate


def scaled_lr(config: OptimizerConfig, total_batch: int) -> float:
    """The peak learning rate for this total batch (linear scaling, Goyal et al. 2017)."""
    return config.lr if config.lr_batch is None else config.lr * total_batch / config.lr_batch


def plateau_factor(schedule: ScheduleConfig, scores: Sequence[float]) -> float:
    """What the rate of `plateau` is multiplied by after these evaluations; 1 for other schedules.

    Args:
        schedule: Its factor is applied each time that more than `patience` scores in a row were no better.
        scores: Of the evaluations so far, higher is better.
    """
    if schedule.name != "plateau":
        return 1.0
    best, waited, falls = -math.inf, 0, 0
    for score in scores:
        if score > best:
            best, waited = score, 0
            continue
        waited += 1
        if waited > schedule.patience:
            falls, waited = falls + 1, 0
    return schedule.factor**falls


def evaluations_since_best(scores: Sequence[float]) -> int:
    """How many evaluations have passed since the best one; 0 before the first."""
    return len(scores) - 1 - max(range(len(scores)), key=lambda i: (scores[i], -i)) if scores else 0
