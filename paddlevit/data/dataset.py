"""The dataset that Paddle iterates over: any source of labelled pictures, seen through a transform."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from typing import Any, Optional, Protocol, Union

import numpy as np
import paddle

from paddlevit.data.images import Picture
from paddlevit.data.sampler import SampleKey
from paddlevit.data.transforms import EvalTransform, TrainTransform, ViewsTransform

REPLACEMENT_TRIES = 20


class Source(Protocol):
    """Labelled pictures, one by one."""

    labels: np.ndarray
    """[n] int64 classes, [n, K] float32 marks of a multi-label task, or [n, 1] float32 targets of a regression."""
    class_names: list[str]
    """One for each class, in the order of the labels."""

    @property
    def paths(self) -> Optional[Sequence[str]]:
        """Name of each picture's file; None where there are no files."""

    def image(self, index: int, least_side: Optional[int] = None) -> Picture:
        """Read one picture; ValueError when it cannot be read. For `least_side` see `load_image`."""


class ImageDataset(paddle.io.Dataset):
    """Pictures as the network takes them.

    A sample depends only on the seed and the SampleKey: not on the worker that makes it, nor on what came before.

    Args:
        source: Where pictures and labels come from.
        transform: Of evaluation, training or several views; a training transform gets its randomness from seed and key.
        seed: Of the augmentation.
        bad_image: `error` raises at a picture that cannot be read; `skip` takes another one of the same class.
    """

    def __init__(
        self,
        source: Source,
        transform: Union[EvalTransform, TrainTransform, ViewsTransform],
        seed: int = 0,
        bad_image: str = "error",
    ) -> None:
        super().__init__()
        self.source, self.transform, self.seed, self.bad_image = source, transform, seed, bad_image
        self.labels, self.class_names, self.paths = source.labels, source.class_names, source.paths
        self.num_classes = len(source.class_names)
        self._least_side = transform.least_side if isinstance(transform, TrainTransform) else None
        self._skipped = multiprocessing.RawArray("b", len(source.labels))  # shared with the worker processes

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Union[int, SampleKey]) -> tuple[np.ndarray, Any]:
        """A sample.

        Args:
            key: From an EpochSampler; a plain number is that picture in epoch 0.

        Returns:
            float32 [C, H, W] and the label: int64, or float32 [K].

        Raises:
            ValueError: The picture cannot be read.
        """
        key = key if isinstance(key, SampleKey) else SampleKey(0, int(key), 0)
        values = np.empty(self.image_shape, np.float32)
        self.write(key, values)
        return values, self.labels[key.index]

    def write(self, key: SampleKey, out: np.ndarray) -> None:
        """Make a sample in place.

        Args:
            key: From an EpochSampler.
            out: float32 [C, H, W], overwritten.

        Raises:
            ValueError: The picture cannot be read.
        """
        rng = np.random.Generator(np.random.PCG64([self.seed, *key]))
        image = self._image(key.index, rng)
        if isinstance(self.transform, TrainTransform):
            self.transform(image, rng, out)
        else:
            self.transform(image, out)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """[C, H, W] of every sample; [V, C, H, W] where a transform gives V views of a picture."""
        return self.transform.sample_shape

    @property
    def row_type(self) -> np.dtype:
        """Of what `write` writes."""
        return np.dtype((np.float32, self.image_shape))

    def describe(self, index: int) -> str:
        """The file of a picture, or its number where there are no files."""
        return f"picture {index}" if self.paths is None else self.paths[index]

    @property
    def skipped(self) -> list[str]:
        """The pictures that could not be read so far, in any worker."""
        return [self.describe(index) for index in np.flatnonzero(np.frombuffer(self._skipped, np.int8))]

    def _image(self, index: int, rng: np.random.Generator) -> Picture:
        try:
            return self.source.image(index, self._least_side)
        except ValueError as error:
            if self.bad_image == "error":
                raise
            self._skipped[index] = 1
            return self._replacement(index, rng, error)

    def _replacement(self, index: int, rng: np.random.Generator, error: ValueError) -> Picture:
        """Another picture with the same label."""
        same = self.labels == self.labels[index]
        others = np.flatnonzero(same if same.ndim == 1 else same.all(axis=1))
        others = others[others != index]
        for other in rng.permutation(others)[:REPLACEMENT_TRIES]:
            try:
                return self.source.image(int(other), self._least_side)
            except ValueError:
                self._skipped[other] = 1
        raise ValueError(f"{error} No readable picture with the same label was found in its place.") from error
