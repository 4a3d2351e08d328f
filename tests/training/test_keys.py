"""Every key of the configuration's training sections changes what happens."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import paddle
import pytest

from paddlevit.config import DistillConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig
from paddlevit.training.run_folder import LOGGER
from tests.training.toy import toy_run

# key -> sections that it is tried on, value. What is compared: the weights that a run ends with.
CHANGED_WEIGHTS = [
    ("optimizer.name", {"optimizer": {"name": "lion"}}),
    ("optimizer.lr", {"optimizer": {"lr": 1e-3}}),
    ("optimizer.lr_batch", {"optimizer": {"lr_batch": 16}}),
    ("optimizer.weight_decay", {"optimizer": {"weight_decay": 0.5}}),
    ("optimizer.betas", {"optimizer": {"betas": [0.8, 0.9]}}),
    ("optimizer.epsilon", {"optimizer": {"epsilon": 1e-3}}),
    ("optimizer.momentum", {"optimizer": {"name": "sgd", "momentum": 0.5}}, {"optimizer": {"name": "sgd"}}),
    ("optimizer.clip_norm", {"optimizer": {"clip_norm": 0.01}}),
    ("optimizer.layer_decay", {"optimizer": {"layer_decay": 0.5}}),
    ("schedule.name", {"schedule": {"name": "constant"}}),
    ("schedule.epochs", {"schedule": {"epochs": 2}}),
    ("schedule.warmup_epochs", {"schedule": {"warmup_epochs": 2}}),
    ("schedule.warmup_lr", {"schedule": {"warmup_lr": 1e-3}}),
    ("schedule.min_lr", {"schedule": {"min_lr": 1e-3}}),
    ("schedule.cooldown_epochs", {"schedule": {"cooldown_epochs": 1, "min_lr": 1e-3}}, {"schedule": {"min_lr": 1e-3}}),
    (
        "schedule.milestones",
        {"schedule": {"name": "step", "milestones": [1]}},
        {"schedule": {"name": "step", "milestones": [2]}},
    ),
    (
        "schedule.factor",
        {"schedule": {"name": "step", "milestones": [1], "factor": 0.5}},
        {"schedule": {"name": "step", "milestones": [1]}},
    ),
    (
        "schedule.patience",
        {"schedule": {"name": "plateau", "patience": 0}, "optimizer": {"lr": 0.0}},
        {"schedule": {"name": "plateau"}, "optimizer": {"lr": 0.0}},
    ),
    ("train.loss", {"train": {"loss": "bce"}}),
    ("train.label_smoothing", {"train": {"label_smoothing": 0.3}}),
    ("train.class_weights", {"train": {"class_weights": [1, 2, 3, 4, 5]}}),
    ("train.focal_gamma", {"train": {"loss": "focal", "focal_gamma": 1.0}}, {"train": {"loss": "focal"}}),
    ("train.bce_threshold", {"train": {"loss": "bce", "bce_threshold": 0.2}}, {"train": {"loss": "bce"}}),
    ("train.bce_sum", {"train": {"loss": "bce", "bce_sum": True}}, {"train": {"loss": "bce"}}),
    ("train.accumulate", {"train": {"accumulate": 1}}),
    ("train.drop_path_mode", {"train": {"drop_path_mode": "constant"}}),
    ("train.freeze", {"train": {"freeze": ["patch_embedding.*"]}}),
    ("train.linear_probe", {"train": {"linear_probe": True}}),
    ("distill.teacher", {"distill": {"teacher": "random"}}),
    ("distill.kind", {"distill": {"teacher": "random", "kind": "soft"}}, {"distill": {"teacher": "random"}}),
    ("distill.alpha", {"distill": {"teacher": "random", "alpha": 0.9}}, {"distill": {"teacher": "random"}}),
    (
        "distill.temperature",
        {"distill": {"teacher": "random", "kind": "soft", "temperature": 3.0}},
        {"distill": {"teacher": "random", "kind": "soft"}},
    ),
    ("run.seed", {"run": {"seed": 1}}),
    ("model.options.drop_path", {"model": {"options": {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}}}),
]
ELSEWHERE = {
    "train.ema_decay": "test_averaged_weights_are_evaluated_and_kept",
    "train.amp": "test_half_precision_is_off_on_a_cpu_and_says_so",
    "train.early_stop": "test_early_stopping_and_plateau",
    "run.output": "test_resume.py",
    "run.device": "tests of runtime",
    "run.threads": "tests of runtime",
    "run.fast_cpu": "test_fast_cpu.py",
    "run.log_every": "test_log_every",
    "run.eval_every": "test_eval_every",
    "run.save_every": "test_resume.py",
    "run.keep": "test_resume.py",
    "run.report": "test_report.py",
    "run.tracker": "test_trackers.py",
}


def answers_at_random(images: paddle.Tensor) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(int(images.sum().abs() * 1000)).random((4, 5)).astype(np.float32))


def final_weights(folder, sections: dict) -> dict[str, np.ndarray]:
    teacher = answers_at_random if "distill" in sections else None
    trainer, _ = toy_run(folder, teacher, **{"schedule": {}, **sections})
    state = {name: tensor.numpy() for name, tensor in trainer.network.state_dict().items()}
    return {**state, "last rate": np.float32(trainer.learning_rate * 1e6), "factor": np.float32(trainer.rate_factor)}


def test_every_key_is_tested():
    sections = dict(optimizer=OptimizerConfig, schedule=ScheduleConfig, train=TrainConfig)
    sections.update(distill=DistillConfig, run=RunConfig)
    keys = {f"{name}.{field.name}" for name, cls in sections.items() for field in dataclasses.fields(cls)}
    tested = {case[0] for case in CHANGED_WEIGHTS} | set(ELSEWHERE)
    assert keys <= tested


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return final_weights(tmp_path_factory.mktemp("plain") / "run", {})


@pytest.mark.parametrize("case", CHANGED_WEIGHTS, ids=lambda case: case[0])
def test_the_key_changes_the_weights(case, plain, tmp_path):
    changed = final_weights(tmp_path / "changed", case[1])
    other = final_weights(tmp_path / "other", case[2]) if len(case) == 3 else plain
    assert changed.keys() == other.keys()
    assert any((changed[name] != other[name]).any() for name in changed)


def test_the_same_configuration_gives_the_same_weights(plain, tmp_path):
    again = final_weights(tmp_path / "run", {})
    assert all((again[name] == plain[name]).all() for name in plain)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(plain, tmp_path, workers):
    again = final_weights(tmp_path / "run", {"data": {"num_workers": workers}})
    assert all((again[name] == plain[name]).all() for name in plain)


def test_averaged_weights_are_evaluated_and_kept(tmp_path):
    _, recorder = toy_run(tmp_path / "with")
    assert {"ema_loss", "ema_top1", "ema_top5"} <= set(recorder.history[-1])
    kept = recorder.folder.load_last()
    assert kept.ema.keys() == kept.model.keys()
    assert any((kept.ema[name] != kept.model[name]).any() for name in kept.ema)
    _, without = toy_run(tmp_path / "without", train={"ema_decay": None})
    assert not any(name.startswith("ema") for name in without.history[-1])
    assert not without.folder.load_last().ema


def test_early_stopping_and_plateau(tmp_path):
    still = {"lr": 0.0}
    trainer, recorder = toy_run(tmp_path / "stop", optimizer=still, train={"early_stop": 2}, schedule={"epochs": 9})
    assert len(recorder.history) == 3
    assert recorder.should_stop("top1")
    plateau = {"name": "plateau", "patience": 0, "epochs": 4, "factor": 0.5}
    trainer, recorder = toy_run(tmp_path / "plateau", optimizer=still, schedule=plateau)
    assert trainer.rate_factor == 0.5**3


def test_half_precision_is_off_on_a_cpu_and_says_so(plain, tmp_path, lines):
    again = final_weights(tmp_path / "run", {"train": {"amp": "bf16"}})
    assert all((again[name] == plain[name]).all() for name in plain)
    assert lines.count("train.amp bf16 is off: a CPU trains in float32.") == 1


def test_log_every(tmp_path, lines):
    toy_run(tmp_path / "run", run={"log_every": 2})
    assert sum("images/s" in line for line in lines) == 4  # of 9 updates
    assert any(line.startswith("epoch 1/3 batch 4/6  loss 1.") and "  lr 3.33e-03  " in line for line in lines)


def test_eval_every_and_the_last_epoch(tmp_path):
    _, recorder = toy_run(tmp_path / "run", run={"eval_every": 2})
    assert ["val_loss" in row for row in recorder.history] == [False, True, True]


@pytest.fixture
def lines():
    """What paddlevit logs."""
    handler = logging.Handler()
    messages: list[str] = []
    handler.emit = lambda record: messages.append(record.getMessage())
    LOGGER.addHandler(handler)
    level = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    yield messages
    LOGGER.removeHandler(handler)
    LOGGER.setLevel(level)
