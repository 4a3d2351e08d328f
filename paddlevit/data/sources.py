"""Sources of labelled pictures: files, arrays in memory, the digits of the package, and generated pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union, overload

import numpy as np
from PIL import Image

from paddlevit.data.images import MAX_PIXELS, Picture, load_image

DIGITS_FILE = Path(__file__).with_name("digits.npz")
FAKE_GRID = 4
FAKE_LEVELS = 10


class FileList(Sequence[str]):
    """Paths below a folder in one block of memory, which worker processes share; a list of str would be copied.

    Args:
        root: The folder; it is put before each path.
        relative: The paths below it.
    """

    def __init__(self, root: Union[str, Path], relative: Sequence[str]) -> None:
        self.root = str(root)
        self._names = np.array([os.fsencode(name) for name in relative], dtype=bytes)

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: Union[int, slice]) -> Union[str, list[str]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return os.path.join(self.root, os.fsdecode(bytes(self._names[index])))


class FileSource:
    """Pictures in files.

    Args:
        paths: The files.
        labels: See Source.
        class_names: See Source.
        channels: Of the pictures that are handed out.
        max_pixels: Larger pictures are refused.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: np.ndarray,
        class_names: list[str],
        channels: int = 3,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.paths: Sequence[str] = paths
        self.labels, self.class_names = labels, class_names
        self.channels, self.max_pixels = channels, max_pixels

    def image(self, index: int, least_side: Optional[int] = None) -> Picture:
        """Read one picture; ValueError when it cannot be read. For `least_side` see `load_image`."""
        return load_image(self.paths[index], self.channels, self.max_pixels, least_side)

    def content(self, index: int) -> bytes:
        """The bytes of a picture's file; ValueError when they cannot be read."""
        try:
            return Path(self.paths[index]).read_bytes()
        except OSError as error:
            raise ValueError(f"{self.paths[index]} cannot be read: {error.strerror or error}.") from error


class ArraySource:
    """Pictures in memory.

    Args:
        images: uint8 [n, H, W] or [n, H, W, 3].
        labels: int64 [n].
        class_names: See Source.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, class_names: list[str]) -> None:
        self.images, self.labels, self.class_names = images, labels, class_names
        self.paths: Optional[Sequence[str]] = None

    def image(self, index: int, least_side: Optional[int] = None) -> Picture:
        """One picture, always whole."""
        return Image.fromarray(self.images[index])


class FakeSource:
    """Generated pictures: each class has its own coarse pattern, under noise, so that a network can learn them.

    Args:
        count: Number of pictures; their classes take turns.
        num_classes: Number of classes.
        image_size: Height and width.
        channels: Any number.
        seed: Of the noise; the patterns are the same for every seed.
        task: classes, multi_label (each picture has one mark) or regression (each pattern has its level, from 0 to 1,
            for all `num_classes` numbers).
    """

    def __init__(
        self,
        count: int,
        num_classes: int,
        image_size: tuple[int, int],
        channels: int,
        seed: int,
        task: str = "classes",
    ) -> None:
        self._patterns = np.arange(count, dtype=np.int64) % (FAKE_LEVELS if task == "regression" else num_classes)
        self.labels = self._patterns  # [n]
        if task == "multi_label":
            self.labels = (self._patterns[:, None] == np.arange(num_classes)).astype(np.float32)  # [n, K]
        elif task == "regression":
            levels = np.linspace(0, 1, FAKE_LEVELS, dtype=np.float32)[self._patterns]
            self.labels = np.repeat(levels[:, None], num_classes, axis=1)  # [n, K]
        word = "value" if task == "regression" else "class"
        self.class_names = [f"{word} {k}" for k in range(num_classes)]
        self.paths: Optional[Sequence[str]] = None
        self.image_size, self.channels, self.seed = image_size, channels, seed

    def image(self, index: int, least_side: Optional[int] = None) -> Picture:
        """One picture, always whole."""
        height, width = self.image_size
        pattern = np.random.default_rng([0, int(self._patterns[index])])
        grid = pattern.integers(48, 208, (FAKE_GRID, FAKE_GRID, self.channels))
        rows, columns = np.arange(height) * FAKE_GRID // height, np.arange(width) * FAKE_GRID // width
        noise = np.random.default_rng([1, self.seed, index]).integers(-48, 48, (height, width, self.channels))
        pixels = (grid[rows][:, columns] + noise).astype(np.uint8)  # [H, W, C]
        if self.channels not in (1, 3):
            return pixels
        return Image.fromarray(pixels[:, :, 0] if self.channels == 1 else pixels)


def digits(test: bool) -> ArraySource:
    """The handwritten digits that the package brings (see DIGITS.md).

    Args:
        test: The fixed fifth of each class for evaluation (364 pictures), or the other 1,433.

    Returns:
        Pictures of 8 x 8 grey pixels with the classes 0 to 9.
    """
    with np.load(DIGITS_FILE) as file:
        images, labels, is_test = file["images"], file["labels"], file["test"]
    chosen = is_test == test
    images = np.round(images[chosen] * (255 / 16)).astype(np.uint8)
    return ArraySource(images, labels[chosen].astype(np.int64), [str(digit) for digit in range(10)])
