"""Labels of ImageNet's validation pictures from the development kit that ILSVRC publishes beside them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from paddlevit.config import ConfigError
from paddlevit.data.finding import walk
from paddlevit.data.matlab import read_mat
from paddlevit.data.splits import WORDNET_ID, Part

TRUTH = "ILSVRC*_validation_ground_truth.txt"
KITS = "*devkit*/data"
MATLAB_LISTS = ("meta.mat", "meta_clsloc.mat")
TEXT_LISTS = ("map_clsloc.txt",)


def find_truth(places: Sequence[Path]) -> Optional[Path]:
    """The kit's list of labels, in one of the folders or in a kit unpacked there; None if there is none."""
    for place in places:
        for found in (sorted(place.glob(TRUTH)), sorted(place.glob(f"{KITS}/{TRUTH}"))):
            if found:
                return found[0]
    return None


def read_truth(root: Path, folder: Path, truth: Path, keys: list[str]) -> Part:
    """Pictures without class folders, labelled by the kit.

    Line k of the list is the number of the class, as the kit counts, of the picture whose name ends in k.

    Args:
        root: Of the data.
        folder: Where the pictures are.
        truth: Found by `find_truth`.
        keys: WordNet ids in the order of the labels.

    Returns:
        All pictures, in the order of their numbers.

    Raises:
        ConfigError: The list of classes is missing or damaged, or a picture has no label.
    """
    ids = _read_classes(truth.parent)
    index = {key: label for label, key in enumerate(keys)}
    numbers = truth.read_text("ascii", "replace").split()
    found = []
    for path in walk(folder):
        digits = re.findall(r"\d+", Path(path).stem)
        place = int(digits[-1]) if digits else 0
        if not 1 <= place <= len(numbers):
            raise ConfigError(f"{path} has no number from 1 to {len(numbers)}, by which {truth} could label it.")
        label = index.get(ids.get(numbers[place - 1], ""))
        if label is None:
            raise ConfigError(f"{truth} line {place}: {numbers[place - 1]!r} is none of the {len(keys)} classes here.")
        found.append((place, os.path.relpath(path, root), label))
    found.sort()
    return Part([name for _, name, _ in found], np.array([label for _, _, label in found], np.int64))


def _read_classes(folder: Path) -> dict[str, str]:
    """The kit's number of each class, as text -> WordNet id."""
    for name in TEXT_LISTS:
        if (folder / name).is_file():
            rows = [line.split() for line in (folder / name).read_text("utf-8").splitlines()]
            return {row[1]: row[0] for row in rows if len(row) > 1 and WORDNET_ID.fullmatch(row[0])}
    for name in MATLAB_LISTS:
        if (folder / name).is_file():
            synsets: Any = read_mat(folder / name).get("synsets")
            try:
                number = next(key for key in synsets[0] if key.endswith("_ID"))  # ILSVRC2012_ID
                return {str(int(synset[number].item())): synset["WNID"] for synset in synsets}
            except (TypeError, KeyError, IndexError, ValueError, AttributeError, StopIteration) as error:
                raise ConfigError(f"{folder / name} does not list ImageNet's classes.") from error
    raise ConfigError(f"{folder} has no {' or '.join((*MATLAB_LISTS, *TEXT_LISTS))}, which says what the labels mean.")
