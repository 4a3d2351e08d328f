"""From a configuration to the parts of a run."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import numpy as np
import paddle
from paddle import nn

from paddlevit.config import Config, ConfigError
from paddlevit.data import EpochSampler, build_loader, build_mixing, build_sampler
from paddlevit.data.mixing import soft_targets
from paddlevit.models import create_model, get_spec, input_spec
from paddlevit.preprocessing import Preprocessing
from paddlevit.training.freezing import freeze, set_constant_drop_path
from paddlevit.training.losses import build_loss
from paddlevit.training.metrics import build_scores
from paddlevit.training.optimizer import build_optimizer
from paddlevit.training.run_folder import LOGGER
from paddlevit.training.schedule import learning_rate_schedule, scaled_lr
from paddlevit.training.trainer import Steps, Trainer
from paddlevit.weights import find_pretrained
from paddlevit.weights.restore import add_head_norm


def resolve_preprocessing(config: Config) -> Preprocessing:
    """The preprocessing of the model or its published weights, changed by what the configuration states."""
    model = config.model
    preprocessing = get_spec(model.name).preprocessing
    stated = {key: value for key, value in dataclasses.asdict(config.preprocessing).items() if value is not None}
    if model.weights and len(stated) < len(dataclasses.fields(config.preprocessing)):
        preprocessing = find_pretrained(model.name, model.weights, preprocessing).preprocessing
    size = (model.image_size, model.image_size) if isinstance(model.image_size, int) else model.image_size
    size = size or get_spec(model.name).preprocessing.image_size
    preprocessing = dataclasses.replace(preprocessing.adapted(size, model.in_channels), **stated)
    if model.in_channels is not None and preprocessing.channels != model.in_channels:
        raise ConfigError(
            f"preprocessing.mean has {preprocessing.channels} values, but model.in_channels is {model.in_channels}."
        )
    return preprocessing


def resolved(config: Config, preprocessing: Preprocessing) -> Config:
    """The configuration with its preprocessing stated in full, so that a resumed run needs nothing else to know it."""
    names = [field.name for field in dataclasses.fields(config.preprocessing)]
    stated = dataclasses.replace(config.preprocessing, **{name: getattr(preprocessing, name) for name in names})
    return dataclasses.replace(config, preprocessing=stated)


def seed_everything(seed: int) -> None:
    """Seed Paddle, NumPy's global generator and Python's, which loaders and initialisers draw from."""
    paddle.seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def build_network(config: Config, class_names: list[str], preprocessing: Preprocessing, load: bool = True) -> nn.Layer:
    """The configuration's model with one output per class.

    Args:
        config: The experiment.
        class_names: Of the data.
        preprocessing: Made by `resolve_preprocessing`.
        load: Whether to read the weights that the configuration names; a resumed run has its own.
    """
    model = config.model
    network = create_model(
        model.name,
        num_classes=len(class_names),
        image_size=preprocessing.image_size,
        in_channels=preprocessing.channels,
        **model.options,
    )
    if model.weights and load:
        weights = find_pretrained(model.name, model.weights, preprocessing)
        LOGGER.info("%s", weights.load(network, model.allow_missing, model.allow_unused))
    if model.head_norm:
        add_head_norm(network)
    if config.train.drop_path_mode == "constant":
        set_constant_drop_path(network)
    network.preprocessing, network.class_names, network.task = preprocessing, class_names, config.data.task
    return network


def build_train_loader(config: Config, dataset: paddle.io.Dataset) -> tuple[EpochSampler, paddle.io.DataLoader]:
    """Shuffled training batches, and the sampler that decides their order."""
    sampler = build_sampler(config, dataset, training=True)
    return sampler, build_loader(dataset, sampler, config.data.num_workers, config.data.timeout)


def build_eval_loader(config: Config, dataset: paddle.io.Dataset) -> paddle.io.DataLoader:
    """Evaluation batches in order."""
    sampler = build_sampler(config, dataset, training=False)
    return build_loader(dataset, sampler, config.data.num_workers, config.data.timeout)


def build_trainer(
    config: Config,
    network: nn.Layer,
    batches_per_epoch: int,
    labels: np.ndarray,
    teacher: Callable[[paddle.Tensor], paddle.Tensor] | None = None,
) -> Trainer:
    """A `paddle.Model` of the network, prepared with optimizer, schedule and loss.

    Args:
        config: The experiment.
        network: Made by `build_network`.
        batches_per_epoch: Length of the training sampler.
        labels: Of the training data.
        teacher: Made by `Teacher` when the configuration names one.
    """
    train, num_classes = config.train, len(network.class_names)
    at_rest = freeze(network, train)
    trainer = Trainer(network, input_spec(network))
    updates_per_epoch = -(-batches_per_epoch // train.accumulate)
    total_batch = config.data.batch_size * train.accumulate * trainer.num_processes
    on_cpu = paddle.device.get_device() == "cpu"
    if on_cpu and train.amp != "off":
        LOGGER.info("train.amp %s is off: a CPU trains in float32.", train.amp)
    steps = Steps(
        learning_rate_schedule(config.schedule, scaled_lr(config.optimizer, total_batch), updates_per_epoch),
        batches_per_epoch,
        train.accumulate,
        config.run.seed,
        build_mixing(config.augment, num_classes, train.label_smoothing) or _smoothing(config, num_classes),
        teacher,
        "off" if on_cpu else train.amp,
        at_rest,
        on_cpu and config.run.fast_cpu,
    )
    loss = build_loss(config, labels, num_classes)
    optimizer = build_optimizer(network, config.optimizer)
    return trainer.setup(optimizer, loss, steps, build_scores(config.data.task), train.ema_decay)


def _smoothing(config: Config, num_classes: int) -> Callable | None:
    """What stands in for mixing when there is none but labels are smoothed."""
    smoothing = config.train.label_smoothing
    if not smoothing:
        return None
    return lambda images, labels, generator: (images, soft_targets(labels, num_classes, smoothing))
