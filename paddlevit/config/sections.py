"""The sections of a configuration: what each key means, its default, and what it may be; training is in steps.py."""

from dataclasses import dataclass, field
from typing import Any, Optional, Union

from paddlevit.config.checks import ConfigError, at_least, one_of, within
from paddlevit.config.steps import DistillConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig
from paddlevit.preprocessing import CROP_MODES, INTERPOLATIONS

DATASETS = (
    *("folder", "list", "imagenet", "tar", "cifar10", "cifar100", "mnist", "fashion_mnist", "flowers102"),
    *("digits", "fake"),
)
TASKS = ("classes", "multi_label", "regression")
CROPS = ("random_resized", "random", "simple", "none")
ERASE_MODES = ("const", "rand", "pixel")
BAD_IMAGE_POLICIES = ("error", "skip")
PILLOW_PIXELS = 89_478_485
MIX_MODES = ("batch", "pair", "element")


@dataclass(frozen=True)
class ModelConfig:
    """Which network."""

    name: str = "vit_base_patch16_224"
    """One of paddlevit.list_models()."""
    num_classes: Optional[int] = None
    """Outputs of the classifier; null takes the number of classes of the data."""
    image_size: Optional[Union[int, tuple[int, int]]] = None
    """Height and width of the input; null is the model's own."""
    in_channels: Optional[int] = None
    """Channels of the input; null is the model's own."""
    weights: Optional[Union[bool, str]] = None
    """Where to start: true (published weights), a tag of them (augreg_in21k), those of another size
    (vit_base_patch16_224.augreg_in21k), a file or a folder; null is scratch."""
    allow_missing: tuple[str, ...] = ()
    """Parameters that weights may lack, by patterns of their names, for example [fc_norm.*]."""
    allow_unused: tuple[str, ...] = ()
    """Names in the weights' file that may be left out, by patterns."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further keywords of the model's class, for example {drop_path: 0.1}."""
    head_norm: bool = False
    """A batch normalisation without learned parameters before the classifier, as in MAE's linear probe."""

    def __post_init__(self) -> None:
        for key in ("num_classes", "image_size", "in_channels"):
            if key in self.options:
                data = " The number of classes comes from the data." if key == "num_classes" else ""
                raise ConfigError(f"model.options holds {key}; write model.{key}.{data}")
        if self.in_channels is not None:
            at_least("model.in_channels", self.in_channels, 1)


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and how they are fed."""

    dataset: str = "imagenet"
    """folder (of class folders), list, imagenet, tar (shards), cifar10, cifar100, mnist, fashion_mnist, flowers102,
    digits (in the package) or fake (generated)."""
    root: Optional[str] = None
    """Folder of the data; null is data/ and the name of the dataset."""
    train: Optional[str] = None
    """Part of the data to train on: a sub-folder, list, pattern of tar files or part of flowers102; null finds it."""
    val: Optional[str] = None
    """Part of the data to evaluate on, likewise; null finds it, or splits it off a folder or list."""
    val_fraction: float = 0.2
    """Share of each class split off for evaluation when the data has no such part."""
    split_seed: int = 0
    """Another seed splits off other pictures; it is apart from run.seed so that runs can be compared."""
    classes: Optional[str] = None
    """File with the classes in the order of their labels, one per line; null takes them from the data."""
    task: str = "classes"
    """What a list has beside each path: classes (one), multi_label (any number, in columns or with | or a comma
    between them) or regression (numbers to predict)."""
    delimiter: Optional[str] = None
    """Between the columns of a list; null finds it out."""
    allow_outside_root: bool = False
    """Whether paths of a list may lead out of root."""
    download: bool = False
    """Whether archives of cifar10, cifar100, mnist, fashion_mnist and flowers102 may be downloaded."""
    max_pixels: int = PILLOW_PIXELS
    """Larger pictures are refused unread; at most twice the default, where Pillow refuses by itself."""
    shuffle_window: int = 8192
    """Pictures of tar files that are shuffled together; the files themselves are shuffled too."""
    batch_size: int = 64
    """Pictures per step and process."""
    eval_batch_size: Optional[int] = None
    """Pictures per step of evaluation; null is batch_size."""
    num_workers: int = 2
    """Processes that read and transform pictures; 0 does it in the main process."""
    bad_image: str = "error"
    """What to do at a picture that cannot be read: error, or skip (take another of the same class, and report it)."""
    timeout: float = 300.0
    """Seconds that a batch may take before the files being read are named and the run stops; 0 waits for ever."""
    fake_train: int = 1024
    """Generated pictures to train on, of dataset fake."""
    fake_val: int = 256
    """Generated pictures to evaluate on, of dataset fake."""

    def __post_init__(self) -> None:
        one_of("data.dataset", self.dataset, DATASETS)
        one_of("data.task", self.task, TASKS)
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise ConfigError(f"data.delimiter is {self.delimiter!r}; it must be one character.")
        if self.task != "classes" and self.dataset not in ("list", "fake"):
            raise ConfigError(
                f"data.task is {self.task!r}, which needs data.dataset: list (or fake), not {self.dataset!r}."
            )
        within("data.max_pixels", self.max_pixels, 1, 2 * PILLOW_PIXELS)
        at_least("data.shuffle_window", self.shuffle_window, 1)
        at_least("data.timeout", self.timeout, 0)
        within("data.val_fraction", self.val_fraction, 0, 1, open_ends=True)
        at_least("data.batch_size", self.batch_size, 1)
        if self.eval_batch_size is not None:
            at_least("data.eval_batch_size", self.eval_batch_size, 1)
        at_least("data.num_workers", self.num_workers, 0)
        one_of("data.bad_image", self.bad_image, BAD_IMAGE_POLICIES)
        at_least("data.fake_train", self.fake_train, 1)
        at_least("data.fake_val", self.fake_val, 1)


@dataclass(frozen=True)
class PreprocessingConfig:
    """How evaluation and prediction prepare a picture; null keys are the model's own."""

    crop_pct: Optional[float] = None
    """The short side is resized to image_size / crop_pct before the centre is cropped."""
    crop_mode: Optional[str] = None
    """center keeps the aspect ratio, squash does not."""
    interpolation: Optional[str] = None
    """Pillow's filter of the resize."""
    mean: Optional[tuple[float, ...]] = None
    """Mean of each channel, of values in 0..1."""
    std: Optional[tuple[float, ...]] = None
    """Standard deviation of each channel, of values in 0..1."""

    def __post_init__(self) -> None:
        if self.crop_mode is not None:
            one_of("preprocessing.crop_mode", self.crop_mode, CROP_MODES)
        if self.interpolation is not None:
            one_of("preprocessing.interpolation", self.interpolation, INTERPOLATIONS)
        for key in ("mean", "std"):
            if getattr(self, key) == ():
                raise ConfigError(f"preprocessing.{key} is empty; it needs one number per channel, or null.")


@dataclass(frozen=True)
class AugmentConfig:
    """What training does to a picture."""

    crop: str = "random_resized"
    """random_resized (Inception crop), random (resize, add a black eighth at each side, crop at random), simple
    (DeiT-III: resize the short side, mirror 4 pixels at each side, crop at random) or none (as evaluation does)."""
    interpolation: Optional[str] = None
    """Pillow's filter of the crop, or random (bilinear or bicubic each time); null is that of preprocessing."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the picture's area that random_resized keeps."""
    ratio: tuple[float, float] = (0.75, 1.3333333333333333)
    """Aspect ratios that random_resized draws from."""
    horizontal_flip: float = 0.5
    """Probability of mirroring left and right."""
    vertical_flip: float = 0.0
    """Probability of mirroring top and bottom."""
    auto_augment: Optional[str] = None
    """RandAugment (rand-m9-mstd0.5-inc1), AutoAugment (original) or three-augment (3a), in timm's notation."""
    color_jitter: Optional[Union[float, tuple[float, ...]]] = None
    """Strength of brightness, contrast and saturation, or of each and hue; what is set here is done, also beside
    auto_augment (timm leaves it out then)."""
    erase_probability: float = 0.0
    """Of overwriting random rectangles after normalisation (random erasing)."""
    erase_mode: str = "pixel"
    """What is written: const (the mean), rand (one colour) or pixel (noise)."""
    erase_count: int = 1
    """Up to this many rectangles, which share the area."""
    repeats: int = 1
    """Times that an epoch takes each picture in a row (repeated augmentation); it ends after as many samples."""
    mixup: float = 0.0
    """alpha of mixup; 0 is off."""
    cutmix: float = 0.0
    """alpha of CutMix; 0 is off."""
    mix_probability: float = 1.0
    """Of mixing at all."""
    mix_switch: float = 0.5
    """Probability of CutMix rather than mixup when both are on."""
    mix_mode: str = "batch"
    """Draw once for the batch, for each pair, or for each element."""

    def __post_init__(self) -> None:
        one_of("augment.crop", self.crop, CROPS)
        if self.interpolation is not None:
            one_of("augment.interpolation", self.interpolation, ("random", *INTERPOLATIONS))
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"augment.scale is {self.scale}; it must be two rising numbers above 0 and at most 1.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"augment.ratio is {self.ratio}; it must be two rising numbers above 0.")
        strengths = self.color_jitter if isinstance(self.color_jitter, tuple) else (self.color_jitter or 0.0,) * 3
        if len(strengths) not in (3, 4) or min(strengths) < 0 or max(*strengths[3:], 0.0, 0.0) > 0.5:
            raise ConfigError(
                f"augment.color_jitter is {self.color_jitter}; it must be a number, or three for brightness, contrast "
                "and saturation and perhaps a fourth up to 0.5 for hue, none below 0."
            )
        within("augment.erase_probability", self.erase_probability, 0, 1)
        one_of("augment.erase_mode", self.erase_mode, ERASE_MODES)
        at_least("augment.erase_count", self.erase_count, 1)
        at_least("augment.repeats", self.repeats, 1)
        at_least("augment.mixup", self.mixup, 0)
        at_least("augment.cutmix", self.cutmix, 0)
        within("augment.mix_probability", self.mix_probability, 0, 1)
        within("augment.mix_switch", self.mix_switch, 0, 1)
        one_of("augment.mix_mode", self.mix_mode, MIX_MODES)
        within("augment.horizontal_flip", self.horizontal_flip, 0, 1)
        within("augment.vertical_flip", self.vertical_flip, 0, 1)


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """Which network."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which pictures."""
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    """How evaluation prepares them."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """What training does to them."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How weights are updated."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """How the learning rate moves."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """What is minimised."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """Whose answers are learned besides the labels."""
    run: RunConfig = field(default_factory=RunConfig)
    """Where it runs."""
