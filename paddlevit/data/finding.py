"""Finding pictures: in folders, by patterns, one at a time."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Union

from paddlevit.data.images import EXTENSIONS

SORTED_TOGETHER = 10_000


def find_images(patterns: Iterable[Union[str, Path]]) -> Iterator[Path]:
    """Every picture that the patterns name, one at a time and without holding them all in memory.

    Args:
        patterns: Files (handed on whatever they are), folders (searched to any depth) and patterns with *, ?, [] or **.

    Yields:
        Paths; in each folder of up to 10,000 entries in alphabetical order.

    Raises:
        ValueError: There was nothing at all, once everything has been searched.
    """
    texts = [str(pattern) for pattern in patterns]
    found = False
    for pattern in texts:
        for path in _expand(pattern):
            found = True
            yield Path(path)
    if not found:
        raise ValueError(
            f"No pictures in {', '.join(texts) or 'an empty list'}; give files, folders or patterns of pictures "
            f"({' '.join(EXTENSIONS)})."
        )


def walk(folder: Union[str, Path], extensions: tuple[str, ...] = EXTENSIONS) -> Iterator[str]:
    """The files below a folder that end in one of the extensions; hidden files and folders are left out.

    Folders come after the files beside them. Links to folders are followed, each folder is visited once.
    """
    waiting, seen = [os.fspath(folder)], set()
    while waiting:
        current = waiting.pop()
        status = os.stat(current)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders = []
        with os.scandir(current) as entries:
            shown = (entry for entry in entries if not entry.name.startswith("."))
            while chunk := sorted(itertools.islice(shown, SORTED_TOGETHER), key=lambda entry: entry.name):
                for entry in chunk:
                    if entry.is_dir():
                        folders.append(entry.path)
                    elif entry.name.lower().endswith(extensions):
                        yield entry.path  # not a Path, which would take most of the time of a million files
        waiting += reversed(folders)


def _expand(pattern: str) -> Iterator[str]:
    if os.path.isdir(pattern):
        yield from walk(pattern)
    elif os.path.exists(pattern) or not glob.has_magic(pattern):
        yield pattern  # a missing file is reported by whoever opens it, so that the others are still served
    else:
        for match in glob.iglob(pattern, recursive=True):
            if os.path.isdir(match):
                if not pattern.endswith("**"):
                    yield from walk(match)
            elif match.lower().endswith(EXTENSIONS):
                yield match
