"""What all readers of data sets share: where the data lie, names of classes, and a part held out for evaluation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from paddlevit.config import ConfigError, DataConfig

WORDNET_ID = re.compile(r"n\d{8}")


class Part(NamedTuple):
    """Files of one part of the data, before they become a source."""

    names: list[str]
    """Paths below the root."""
    labels: np.ndarray
    """See Source."""


def data_root(data: DataConfig) -> Path:
    """Folder of the data: the stated one, or data/NAME below the working folder."""
    return Path(data.root) if data.root is not None else Path("data") / data.dataset


def missing(place: Path, layout: str, config_path: str) -> ConfigError:
    """The one line for data that are not there."""
    return ConfigError(
        f"There are no data in {place.absolute()}. Expected is {layout}. Put them there or set data.root; to try this "
        f"configuration without data, run: python tools/train.py -c {config_path} --fast-dev-run"
    )


def split_off(part: Part, fraction: float, seed: int) -> tuple[Part, Part]:
    """Hold out a share of each class.

    Which files are held out depends on their names and the seed, so that a file that is added later hardly moves any
    other. A class of one stays with the training part; otherwise both parts get something.

    Args:
        part: All files.
        fraction: Share held out.
        seed: Another seed holds out others.

    Returns:
        The part to train on and the part to evaluate on, in the order of `part`.

    Raises:
        ConfigError: No class has two files.
    """
    keys = np.array([_hash(name, seed) for name in part.names], np.uint64)
    groups = part.labels if part.labels.ndim == 1 else np.zeros(len(part.names), np.int64)
    held = np.zeros(len(part.names), bool)
    for group in np.unique(groups):
        places = np.flatnonzero(groups == group)
        count = min(max(1, round(len(places) * fraction)), len(places) - 1)
        held[places[np.argsort(keys[places], kind="stable")[:count]]] = True
    if not held.any():
        raise ConfigError(
            f"No class has two pictures, one of which could be split off to evaluate on ({len(part.names)} in all); "
            "add pictures, or name some others in data.val."
        )
    return take(part, np.flatnonzero(~held)), take(part, np.flatnonzero(held))


def take(part: Part, places: np.ndarray) -> Part:
    """Some files of a part."""
    return Part([part.names[place] for place in places], part.labels[places])


def find_file(data: DataConfig, name: str, key: str) -> Path:
    """A file named in the configuration: below the root of the data, or else below the working folder.

    Raises:
        ConfigError: Neither exists.
    """
    for path in (data_root(data) / name, Path(name)):
        if path.is_file():
            return path
    raise ConfigError(f"data.{key} is {name!r}; there is no such file in {data_root(data).absolute()}, nor from here.")


def read_class_names(data: DataConfig) -> Optional[tuple[list[str], list[str]]]:
    """The classes that the configuration states, in the order of their labels.

    Returns:
        What they are called in the data (folder or label) and what they are called to people; None when the
        configuration leaves them to the data. A file of lines such as `n01440764 tench` gives both, others one.
    """
    if data.classes is None:
        return None
    lines = [line.strip() for line in find_file(data, data.classes, "classes").read_text("utf-8-sig").splitlines()]
    lines = [line for line in lines if line]
    if not lines or len(set(lines)) < len(lines):
        raise ConfigError(f"data.classes {data.classes!r} must hold one class per line, each once.")
    if all(WORDNET_ID.match(line) for line in lines):
        keys = [line.split()[0] for line in lines]
        words = dict(line.split(maxsplit=1) for line in lines if len(line.split()) > 1)
        return keys, unique_words(keys, words)
    return lines, lines


def unique_words(keys: Sequence[str], words: dict[str, str]) -> list[str]:
    """Names for people: the words of each key, with the key behind words that several share."""
    names = [words.get(key, key) for key in keys]
    return [f"{name} ({key})" if names.count(name) > 1 else name for name, key in zip(names, keys)]


def _hash(name: str, seed: int) -> int:
    return int.from_bytes(
        hashlib.blake2b(f"{seed}/{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big"
    )
