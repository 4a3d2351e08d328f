"""The sections of a configuration that say how training goes."""

from dataclasses import dataclass
from typing import Optional, Union

from paddlevit.config.checks import ConfigError, at_least, below_one, one_of, within

OPTIMIZERS = ("adamw", "sgd", "lamb", "lion", "lars")
SCHEDULES = ("cosine", "step", "constant", "plateau")
LOSSES = ("cross_entropy", "bce", "focal", "mse")
DROP_PATH_MODES = ("linear", "constant")
AMP_MODES = ("off", "fp16", "bf16")
DISTILLATIONS = ("hard", "soft")
TRACKERS = ("visualdl", "wandb")


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are updated."""

    name: str = "adamw"
    """adamw, sgd (with momentum), lamb, lion or lars."""
    lr: float = 1e-3
    """Peak learning rate."""
    lr_batch: Optional[int] = None
    """Total batch that lr is meant for: lr is scaled by the true total batch over this one; null does not scale."""
    weight_decay: float = 0.05
    """None on vectors, biases, class tokens and positions; decoupled, except with sgd and lars."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Averaging of gradient and squared gradient, of adamw, lamb and lion."""
    epsilon: float = 1e-8
    """Added to the root of the squared gradient, of adamw and lamb."""
    momentum: float = 0.9
    """Of sgd and lars."""
    clip_norm: Optional[float] = None
    """Largest norm of all gradients together; null does not clip."""
    layer_decay: Optional[float] = None
    """Each layer learns this much slower than the one above it; null is all alike."""

    def __post_init__(self) -> None:
        one_of("optimizer.name", self.name, OPTIMIZERS)
        at_least("optimizer.lr", self.lr, 0)
        at_least("optimizer.weight_decay", self.weight_decay, 0)
        for beta in self.betas:
            below_one("optimizer.betas", beta)
        at_least("optimizer.epsilon", self.epsilon, 0)
        below_one("optimizer.momentum", self.momentum)
        if self.lr_batch is not None:
            at_least("optimizer.lr_batch", self.lr_batch, 1)
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"optimizer.clip_norm is {self.clip_norm}; it must be above 0; null turns it off.")
        if self.layer_decay is not None:
            within("optimizer.layer_decay", self.layer_decay, 0, 1)


@dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves, update by update."""

    name: str = "cosine"
    """cosine falls to min_lr; step falls at milestones; plateau falls when evaluations get no better; constant."""
    epochs: int = 300
    """Passes over the training data, warm-up included."""
    warmup_epochs: float = 5.0
    """The rate rises linearly over this many epochs."""
    warmup_lr: float = 0.0
    """Where the rise begins."""
    min_lr: float = 0.0
    """Where cosine ends."""
    cooldown_epochs: int = 0
    """Further epochs at the last rate."""
    milestones: tuple[float, ...] = ()
    """Epochs at which step multiplies the rate by factor."""
    factor: float = 0.1
    """Of step and plateau."""
    patience: int = 10
    """Evaluations without a better score that plateau waits for."""

    def __post_init__(self) -> None:
        one_of("schedule.name", self.name, SCHEDULES)
        at_least("schedule.epochs", self.epochs, 1)
        within("schedule.warmup_epochs", self.warmup_epochs, 0, self.epochs)
        at_least("schedule.warmup_lr", self.warmup_lr, 0)
        at_least("schedule.min_lr", self.min_lr, 0)
        for milestone in self.milestones:
            at_least("schedule.milestones", milestone, 0)
        at_least("schedule.cooldown_epochs", self.cooldown_epochs, 0)
        within("schedule.factor", self.factor, 0, 1)
        at_least("schedule.patience", self.patience, 0)
        if self.name == "step" and not self.milestones:
            raise ConfigError(
                "schedule.name is step; it needs schedule.milestones, the epochs at which the rate falls."
            )

    @property
    def total_epochs(self) -> int:
        """Epochs of the whole run."""
        return self.epochs + self.cooldown_epochs


@dataclass(frozen=True)
class TrainConfig:
    """What is minimised, and how steps are made."""

    loss: str = "cross_entropy"
    """cross_entropy, bce (each class by itself; also for several labels a picture), focal, or mse (regression)."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over all classes."""
    class_weights: Optional[Union[str, tuple[float, ...]]] = None
    """Weight of each class in the loss: balanced (inverse to its frequency), or one number per class."""
    focal_gamma: float = 2.0
    """Exponent of focal: how much the pictures already classified well count less."""
    bce_threshold: Optional[float] = None
    """Of bce: targets above this become 1, the others 0 (0 in DeiT III); null keeps mixed targets as they are."""
    bce_sum: bool = False
    """Of bce: add the classes up (big_vision) instead of averaging them (DeiT III)."""
    accumulate: int = 1
    """Steps whose gradients are averaged into one update."""
    ema_decay: Optional[float] = None
    """Share of the running average of the weights that an update keeps; null keeps no average."""
    drop_path_mode: str = "linear"
    """linear rises with depth to model.options.drop_path; constant has it in every layer."""
    amp: str = "off"
    """fp16 or bf16 computes products in half precision where the device can; off."""
    freeze: tuple[str, ...] = ()
    """Parameters not trained, by patterns of their names, for example [patch_embedding.*]."""
    linear_probe: bool = False
    """Train the classifier alone; the rest stays as it is, without dropout."""
    early_stop: Optional[int] = None
    """Stop after this many evaluations without a better score; null never does."""

    def __post_init__(self) -> None:
        one_of("train.loss", self.loss, LOSSES)
        within("train.label_smoothing", self.label_smoothing, 0, 1)
        if isinstance(self.class_weights, str):
            one_of("train.class_weights", self.class_weights, ("balanced",))
        elif self.class_weights is not None:
            for weight in self.class_weights:
                at_least("train.class_weights", weight, 0)
        at_least("train.focal_gamma", self.focal_gamma, 0)
        at_least("train.accumulate", self.accumulate, 1)
        if self.ema_decay is not None:
            within("train.ema_decay", self.ema_decay, 0, 1, open_ends=True)
        one_of("train.drop_path_mode", self.drop_path_mode, DROP_PATH_MODES)
        one_of("train.amp", self.amp, AMP_MODES)
        if self.early_stop is not None:
            at_least("train.early_stop", self.early_stop, 1)


@dataclass(frozen=True)
class DistillConfig:
    """Learning from the answers of another network."""

    teacher: Optional[str] = None
    """A run's folder, checkpoint, configuration with weights, or export; null is no teacher."""
    kind: str = "hard"
    """hard learns the teacher's best class, soft its probabilities."""
    alpha: float = 0.5
    """Share of the teacher in the loss."""
    temperature: float = 1.0
    """Of soft: logits are divided by this."""

    def __post_init__(self) -> None:
        one_of("distill.kind", self.kind, DISTILLATIONS)
        within("distill.alpha", self.alpha, 0, 1)
        if self.temperature <= 0:
            raise ConfigError(f"distill.temperature is {self.temperature}; it must be above 0.")


@dataclass(frozen=True)
class RunConfig:
    """Where and on what the experiment runs."""

    output: Optional[str] = None
    """Folder of the run; null is output/ and the configuration's name."""
    seed: int = 0
    """Of initial weights, order, augmentation and dropout."""
    device: str = "auto"
    """auto, cpu, gpu or gpu:N."""
    threads: Optional[int] = None
    """CPU threads; null is all cores."""
    fast_cpu: bool = True
    """Train on a CPU with faster gradients of linear layers, LayerNorm, GELU and attention, equal within 1e-5."""
    log_every: int = 50
    """Updates between two lines of the log."""
    eval_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    save_every: Optional[int] = None
    """Updates between checkpoints inside an epoch; null saves at its end only."""
    keep: int = 0
    """Checkpoints of past epochs that are kept besides last, previous and best."""
    report: bool = True
    """Write report.html at the end: curves, confusion matrix, worst mistakes."""
    tracker: Optional[str] = None
    """visualdl or wandb: send the history there too."""

    def __post_init__(self) -> None:
        at_least("run.seed", self.seed, 0)
        at_least("run.log_every", self.log_every, 1)
        at_least("run.eval_every", self.eval_every, 1)
        if self.save_every is not None:
            at_least("run.save_every", self.save_every, 1)
        at_least("run.keep", self.keep, 0)
        if self.tracker is not None:
            one_of("run.tracker", self.tracker, TRACKERS)
