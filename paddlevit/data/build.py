"""From a configuration to datasets and the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable

import paddle

from paddlevit.config import Config, ConfigError
from paddlevit.data.archives import read_cifar, read_flowers, read_mnist
from paddlevit.data.dataset import ImageDataset, Source
from paddlevit.data.folders import Parts, read_folder, read_imagenet
from paddlevit.data.lists import read_list
from paddlevit.data.sampler import EpochSampler
from paddlevit.data.shards import TarSource, read_shards
from paddlevit.data.sources import FakeSource, FileList, FileSource, digits
from paddlevit.data.splits import data_root
from paddlevit.data.transforms import eval_transform, train_transform
from paddlevit.preprocessing import Preprocessing

FAKE_CLASSES = 10
IN_FILES: dict[str, Callable[..., Parts]] = {
    "folder": read_folder,
    "imagenet": read_imagenet,
    "list": read_list,
    "flowers102": read_flowers,
}
IN_MEMORY = {"cifar10": read_cifar, "cifar100": read_cifar, "mnist": read_mnist, "fashion_mnist": read_mnist}


def build_datasets(
    config: Config, preprocessing: Preprocessing, seed: int = 0, config_path: str = "CONFIG"
) -> tuple[ImageDataset, ImageDataset]:
    """The pictures to train on and those to evaluate on.

    Args:
        config: The experiment.
        preprocessing: What evaluation does to a picture; training ends in the same size and normalisation.
        seed: Of the augmentation.
        config_path: Where the configuration came from, for the command in an error message.

    Returns:
        Training and evaluation data.

    Raises:
        ConfigError: The data are not there, or do not fit the model.
    """
    train, val = build_sources(config, preprocessing, config_path)
    data = config.data
    for key, source in (("train", train), ("val", val)):
        if not len(source.labels):
            raise ConfigError(
                f"The {key} part of {data_root(data).absolute()} has no pictures; put some there, or name another in "
                f"data.{key}."
            )
    _check_head(config, train)
    return (
        ImageDataset(train, train_transform(preprocessing, config.augment), seed, data.bad_image),
        ImageDataset(val, eval_transform(preprocessing), seed, data.bad_image),
    )


def build_sources(config: Config, preprocessing: Preprocessing, config_path: str = "CONFIG") -> tuple[Source, Source]:
    """The sources behind the two datasets of `build_datasets`, with the same arguments and errors."""
    data, channels = config.data, preprocessing.channels
    if data.dataset in IN_FILES:
        root, train, val, names = IN_FILES[data.dataset](data, config_path)
        return tuple(  # type: ignore[return-value]
            FileSource(FileList(root, part.names), part.labels, names, channels, data.max_pixels)
            for part in (train, val)
        )
    if data.dataset == "tar":
        return read_shards(data, channels, config_path)
    for key in ("train", "val", "classes"):
        if getattr(data, key) is not None:
            raise ConfigError(f"data.{key} means nothing to data.dataset {data.dataset}, whose parts are fixed.")
    if data.dataset in IN_MEMORY:
        return IN_MEMORY[data.dataset](data, config_path)
    if data.dataset == "digits":
        return digits(test=False), digits(test=True)
    classes = config.model.num_classes or FAKE_CLASSES
    return (
        FakeSource(data.fake_train, classes, preprocessing.image_size, channels, seed=0, task=data.task),
        FakeSource(data.fake_val, classes, preprocessing.image_size, channels, seed=1, task=data.task),
    )


def build_sampler(config: Config, dataset: paddle.io.Dataset, training: bool) -> EpochSampler:
    """The order of a dataset.

    Args:
        config: The experiment.
        dataset: Made by `build_datasets`, or any other.
        training: Shuffled, without the last, smaller batch, and repeated as the configuration says; otherwise as the
            dataset lies.
    """
    data = config.data
    if not training:
        return EpochSampler(len(dataset), data.eval_batch_size or data.batch_size)
    source = getattr(dataset, "source", None)
    return EpochSampler(
        len(dataset),
        data.batch_size,
        shuffle=True,
        drop_last=True,
        seed=config.run.seed,
        repeats=config.augment.repeats,
        shards=source.shards if isinstance(source, TarSource) else None,
        window=data.shuffle_window,
    )


def _check_head(config: Config, source: Source) -> None:
    wanted, found = config.model.num_classes, len(source.class_names)
    if wanted is not None and wanted != found:
        raise ConfigError(
            f"model.num_classes is {wanted}, but the data have {found} classes; leave model.num_classes out to take "
            "the number from the data, or name the classes of the model in data.classes."
        )
