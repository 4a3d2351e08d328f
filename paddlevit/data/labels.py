"""Evaluating on other labels than a network was trained with: ReaL's sets of labels, and subsets of classes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Union

import numpy as np

from paddlevit.data.folders import IMAGENET_WORDS
from paddlevit.data.splits import WORDNET_ID, unique_words
from paddlevit.errors import did_you_mean


def imagenet_class_names() -> dict[str, str]:
    """WordNet id -> words of the 1,000 classes of ILSVRC 2012, in the order of their labels."""
    lines = IMAGENET_WORDS.read_text("utf-8").splitlines()
    words = dict(line.split(maxsplit=1) for line in lines)
    return dict(zip(words, unique_words(list(words), words)))


def read_real_labels(path: Union[str, Path], paths: Sequence[str]) -> list[set[int]]:
    """The reassessed labels of ImageNet's validation pictures.

    Are we done with ImageNet? (Beyer et al. 2020), whose file `real.json` holds a list of labels for each of the 50,000
    pictures in the order of their numbers.

    Args:
        path: `real.json`, or any JSON list of lists.
        paths: Files of the pictures; the last number in a name, counted from 1, is the picture's place in the list.

    Returns:
        The labels that are right for each picture; an empty set where the authors found none, which is not counted.

    Raises:
        ValueError: The file is not such a list, or a picture is not in it.
    """
    try:
        lists = [set(labels) for labels in json.loads(Path(path).read_text("utf-8"))]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a list of lists of labels: {error}.") from error
    chosen = []
    for name in paths:
        numbers = re.findall(r"\d+", Path(name).stem)
        place = int(numbers[-1]) if numbers else 0
        if not 1 <= place <= len(lists):
            raise ValueError(f"{name} has no number from 1 to {len(lists)}, which {path} needs to find its labels.")
        chosen.append(lists[place - 1])
    return chosen


def real_accuracy(predicted: np.ndarray, labels: Sequence[set[int]]) -> float:
    """Share of pictures whose predicted class is among the right ones, of those that have any.

    Args:
        predicted: [n], the likeliest class.
        labels: See `read_real_labels`.
    """
    counted = [int(best) in right for best, right in zip(predicted, labels) if right]
    return sum(counted) / len(counted) if counted else 0.0


def subset_places(model_classes: Sequence[str], data_classes: Sequence[str]) -> np.ndarray:
    """Where the classes of a data set lie among those of a model, to evaluate `logits[:, places]`.

    Serves ImageNet-A, -R and the like (folders named by WordNet id), and ImageNet-V2 (folders named by number).

    Args:
        model_classes: Names of the model's classes.
        data_classes: Names of the data's classes: the same names, WordNet ids, or numbers of classes.

    Returns:
        [number of data classes] int64.

    Raises:
        ValueError: A class that the model does not have.
    """
    places = {name: place for place, name in enumerate(model_classes)}
    words = imagenet_class_names() if any(WORDNET_ID.fullmatch(name) for name in data_classes) else {}
    numbered = not set(data_classes) & set(places) and all(name.isdecimal() for name in data_classes)
    found = []
    for name in data_classes:
        place = int(name) if numbered else places.get(name, places.get(words.get(name, ""), -1))
        if not 0 <= place < len(model_classes):
            near = did_you_mean(name, model_classes)
            raise ValueError(f"The data have the class {name!r}, which is none of the model's {len(places)}.{near}")
        found.append(place)
    return np.array(found, np.int64)
