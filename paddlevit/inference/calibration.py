"""Pictures from which an export in a lower precision learns ranges, and on which it is compared with the network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from paddlevit.data import eval_transform, find_images, load_image
from paddlevit.preprocessing import Preprocessing


def read_calibration(patterns: Iterable[str | Path], preprocessing: Preprocessing, count: int) -> np.ndarray:
    """Some of the pictures that the patterns name, prepared as for prediction.

    Args:
        patterns: Files, folders and patterns.
        preprocessing: Of the network.
        count: At most so many, spread evenly over all that are found, so that of folders of classes each has its share.

    Returns:
        float32 [n, C, H, W].

    Raises:
        ValueError: A count below 1, no pictures, or one that cannot be read.
    """
    if count < 1:
        raise ValueError(f"count is {count}; at least 1 picture is needed.")
    paths = list(find_images(patterns))
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int))
    transform = eval_transform(preprocessing)
    return np.stack([transform(load_image(paths[index], preprocessing.channels)) for index in chosen])
