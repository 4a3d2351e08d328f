"""Training on `paddle.Model`."""

from paddlevit.training.build import (
    build_eval_loader,
    build_network,
    build_train_loader,
    build_trainer,
    resolve_preprocessing,
    resolved,
    seed_everything,
)
from paddlevit.training.callbacks import Interrupted, Recorder, evaluate, fit
from paddlevit.training.console import Console
from paddlevit.training.finish import finish
from paddlevit.training.run_folder import RunFolder, open_log
from paddlevit.training.teacher import Teacher
from paddlevit.training.trackers import build_tracker
from paddlevit.training.trainer import NonFiniteLoss, Progress, Steps, Trainer

__all__ = [
    "Console",
    "Interrupted",
    "NonFiniteLoss",
    "Progress",
    "Recorder",
    "RunFolder",
    "Steps",
    "Teacher",
    "Trainer",
    "build_eval_loader",
    "build_network",
    "build_tracker",
    "build_train_loader",
    "build_trainer",
    "evaluate",
    "finish",
    "fit",
    "open_log",
    "resolve_preprocessing",
    "resolved",
    "seed_everything",
]
