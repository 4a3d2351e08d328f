"""The learning rate of every update, and what evaluations do to it."""

from __future__ import annotations

import math

import pytest

from paddlevit.config import ConfigError, OptimizerConfig, ScheduleConfig
from paddlevit.training.schedule import evaluations_since_best, learning_rate_schedule, plateau_factor, scaled_lr


def test_cosine_with_warm_up_per_update():
    schedule = ScheduleConfig(epochs=10, warmup_epochs=2, warmup_lr=0.1, min_lr=0.01, cooldown_epochs=3)
    rate = learning_rate_schedule(schedule, 1.0, updates_per_epoch=5)
    assert [round(rate(update), 9) for update in (0, 4, 9)] == [0.19, 0.55, 1.0]
    assert rate(10) == 1.0
    assert rate(30) == pytest.approx((1.0 + 0.01) / 2)
    assert rate(49) == pytest.approx(0.01 + 0.99 * (1 + math.cos(math.pi * 39 / 40)) / 2)
    assert [rate(update) for update in (50, 64)] == [pytest.approx(0.01)] * 2
    assert schedule.total_epochs == 13


def test_warm_up_of_a_part_of_an_epoch_and_none_at_all():
    half = learning_rate_schedule(ScheduleConfig(epochs=4, warmup_epochs=0.5), 1.0, 4)
    assert [half(0), half(1), half(2)] == [0.5, 1.0, 1.0]
    none = learning_rate_schedule(ScheduleConfig(epochs=4, warmup_epochs=0), 1.0, 4)
    assert none(0) == 1.0
    assert none(15) < 0.05


def test_step_and_constant():
    step = ScheduleConfig(name="step", epochs=9, warmup_epochs=0, milestones=(3, 6.5), factor=0.5)
    rate = learning_rate_schedule(step, 1.0, 2)
    assert [rate(update) for update in (5, 6, 12, 13)] == [1.0, 0.5, 0.5, 0.25]
    constant = learning_rate_schedule(ScheduleConfig(name="constant", epochs=9, warmup_epochs=1), 1.0, 2)
    assert [constant(update) for update in (0, 1, 17)] == [0.5, 1.0, 1.0]
    with pytest.raises(ConfigError, match=r"schedule.name is step; it needs schedule.milestones"):
        ScheduleConfig(name="step")


@pytest.mark.parametrize(
    ("scores", "factor"),
    [
        ([], 1.0),
        ([0.1, 0.2, 0.2, 0.1], 1.0),
        ([0.1, 0.2, 0.2, 0.1, 0.2], 0.1),
        ([0.1, 0.2, 0.2, 0.1, 0.2, 0.3, 0.2, 0.2, 0.2], 0.01),
        ([0.5] + [0.1] * 6, 0.01),
    ],
)
def test_plateau_falls_after_more_than_patience_evaluations_without_a_better_one(scores, factor):
    schedule = ScheduleConfig(name="plateau", patience=2, factor=0.1)
    assert plateau_factor(schedule, scores) == pytest.approx(factor)
    assert plateau_factor(ScheduleConfig(name="constant"), scores) == 1.0


def test_linear_scaling_by_total_batch():
    assert scaled_lr(OptimizerConfig(lr=5e-4, lr_batch=512), 1024) == 1e-3
    assert scaled_lr(OptimizerConfig(lr=5e-4), 1024) == 5e-4


def test_evaluations_since_the_best():
    assert [evaluations_since_best(scores) for scores in ([], [1.0], [1.0, 2.0], [2.0, 1.0, 2.0])] == [0, 0, 0, 2]
