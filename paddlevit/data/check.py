"""Looking at the data before an hour of training is lost on them."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Optional

import numpy as np
import paddle
from PIL import Image

from paddlevit.data.ahead import work_ahead
from paddlevit.data.dataset import ImageDataset, Source
from paddlevit.data.images import EXTENSIONS, Picture, load_image

LOGGER = logging.getLogger("paddlevit")
QUICK_SAMPLE = 32
IMBALANCE = 10.0
CHUNK = 64
NAMED = 20
TIMEOUT = 300.0


@dataclass
class PartReport:
    """What was found in one part of the data."""

    name: str
    """train or val."""
    pictures: int
    """How many there are."""
    per_class: np.ndarray
    """[K], pictures of each class; empty in a regression."""
    bad: dict[str, list[str]] = field(default_factory=dict)
    """Kind of fault -> messages, each naming the file."""
    mean: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """[C], of values in 0..1; every picture counts alike, whatever its size."""
    std: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """[C], likewise."""
    smallest: tuple[int, int] = (0, 0)
    """Height and width of the picture with the shortest side."""
    largest: tuple[int, int] = (0, 0)
    """Height and width of the picture with the most pixels."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Ending -> how many files beside the pictures have it and are therefore not taken for pictures."""


@dataclass
class DataReport:
    """What was found in both parts."""

    class_names: list[str]
    """In the order of the labels."""
    parts: list[PartReport]
    """train and val."""
    shared: list[tuple[str, str]]
    """Pictures that training and evaluation have in common, byte for byte."""
    contradictory: list[tuple[str, str]]
    """Pictures of the training part that are the same, byte for byte, but have different labels."""

    @property
    def problems(self) -> list[str]:
        """What should be mended, a line each."""
        lines = [
            f"{part.name}: {len(messages)} {kind}"
            for part in self.parts
            for kind, messages in part.bad.items()
            if messages
        ]
        if self.shared:
            lines.append(f"{len(self.shared)} pictures are in both train and val")
        if self.contradictory:
            lines.append(f"{len(self.contradictory)} pictures of train appear again with another label")
        return lines + [line for part in self.parts for line in class_problems(part, self.class_names)]


def check_sources(
    train: Source,
    val: Source,
    workers: int = 2,
    progress: Callable[[Iterable], Iterable] = iter,
    timeout: float = TIMEOUT,
) -> DataReport:
    """Read every picture of both parts.

    Args:
        train: Pictures to train on.
        val: Pictures to evaluate on.
        workers: Threads that read and decode.
        progress: Wraps the iteration over chunks of 64 pictures, to show how far it is.
        timeout: Seconds that a picture may take to be read; 0 waits for ever.

    Returns:
        What was found.

    Raises:
        TimeoutError: Nothing came from the file system in time.
    """
    parts, digests = [], []
    for name, source in (("train", train), ("val", val)):
        part = PartReport(name, len(source.labels), _per_class(source))
        digests.append(_read_all(source, part, workers, progress, timeout))
        part.passed_over = _passed_over(source)
        parts.append(part)
    seen: dict[bytes, int] = {}
    contradictory = []
    for index, digest in digests[0].items():
        first = seen.setdefault(digest, index)
        if not np.array_equal(train.labels[first], train.labels[index]):
            contradictory.append((describe(train, first), describe(train, index)))
    shared = [
        (describe(train, seen[digest]), describe(val, index)) for index, digest in digests[1].items() if digest in seen
    ]
    return DataReport(train.class_names, parts, shared, contradictory)


def quick_check(train: Source, val: Source, timeout: float = TIMEOUT) -> list[str]:
    """What can be found in a second: classes without pictures, imbalance, and faults in 32 pictures of each part.

    Args:
        train: Pictures to train on.
        val: Pictures to evaluate on.
        timeout: Seconds that a picture may take to be read; 0 waits for ever.

    Returns:
        A line for each problem; none if the data look sound.

    Raises:
        TimeoutError: Nothing came from the file system in time.
    """
    unreadable, others = _look(train, val, timeout)
    return unreadable + others


def check_at_start(train: ImageDataset, val: ImageDataset, timeout: float = TIMEOUT) -> None:
    """The quick check before a training: what it finds is logged.

    Args:
        train: Data to train on.
        val: Data to evaluate on.
        timeout: Seconds that a picture may take to be read; 0 waits for ever.

    Raises:
        ValueError: A picture cannot be read, at which the training would end sooner or later.
        TimeoutError: Nothing came from the file system in time.
    """
    unreadable, others = _look(train.source, val.source, timeout)
    if unreadable and train.bad_image == "error":
        raise ValueError(
            f"{unreadable[0]} python tools/check_data.py -c CONFIG lists all such pictures; data.bad_image: skip trains"
            " without them."
        )
    for line in (unreadable + others) if paddle.distributed.ParallelEnv().rank == 0 else ():
        LOGGER.warning("Data: %s", line)


def _look(train: Source, val: Source, timeout: float) -> tuple[list[str], list[str]]:
    """Pictures that cannot be read, and other problems, of a sample of both parts."""
    unreadable, others = [], []
    for name, source in (("train", train), ("val", val)):
        part = PartReport(name, len(source.labels), _per_class(source))
        chosen = np.unique(np.linspace(0, part.pictures - 1, min(QUICK_SAMPLE, part.pictures)).astype(int)).tolist()
        for _, found in _examine_all(source, chosen, 1, timeout):
            unreadable += [f"{name}: {found.fault[1]}"] if found.fault else []
        others += class_problems(part, source.class_names)
    if train.paths is not None and val.paths is not None:
        both = len(set(train.paths) & set(val.paths))
        others += [f"{both} files are in both train and val"] if both else []
    return unreadable, others


def class_problems(part: PartReport, class_names: list[str]) -> list[str]:
    """Lines on classes that have no pictures, or far fewer than others."""
    if not part.per_class.size:
        return []
    missing = [class_names[k] for k in np.flatnonzero(part.per_class == 0)]
    lines = []
    if missing:
        lines.append(
            f"{part.name}: {len(missing)} of {len(class_names)} classes have no pictures, such as {missing[0]!r}"
        )
    if not missing and part.name == "train" and part.per_class.max() > IMBALANCE * part.per_class.min():
        most, least = int(part.per_class.argmax()), int(part.per_class.argmin())
        lines.append(
            f"train: {class_names[most]!r} has {part.per_class[most]} pictures and {class_names[least]!r} "
            f"{part.per_class[least]}; rare classes will be learnt badly unless they weigh more"
        )
    return lines


def describe(source: Source, index: int) -> str:
    """The file of a picture, or its number where there are no files."""
    return f"picture {index}" if source.paths is None else source.paths[index]


def format_report(report: DataReport) -> str:
    """The report as text for people."""
    lines = []
    for part in report.parts:
        lines.append(f"{part.name}: {part.pictures} pictures")
        if part.mean.size:
            mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (part.mean, part.std))
            lines.append(f"  mean [{mean}]  std [{std}]")
            lines.append(
                f"  smallest {part.smallest[0]} x {part.smallest[1]}  largest {part.largest[0]} x {part.largest[1]} "
                "(height x width)"
            )
        if part.passed_over:
            endings = ", ".join(f"{ending} {count}" for ending, count in part.passed_over.items())
            lines.append(f"  files beside the pictures that are not called as pictures are: {endings}")
        for kind, messages in part.bad.items():
            lines += [f"  {kind}: {len(messages)}", *(f"    {message}" for message in messages[:NAMED])]
    if report.parts[0].per_class.size:
        width = max(len(name) for name in report.class_names)
        lines.append(f"{'class':<{width}}  {'train':>8}  {'val':>8}")
        for name, *counts in zip(report.class_names, *(part.per_class for part in report.parts)):
            lines.append(f"{name:<{width}}  {counts[0]:>8}  {counts[1]:>8}")
    for title, pairs in (("in both parts", report.shared), ("with two labels", report.contradictory)):
        lines += [f"{title}: {len(pairs)}"] if pairs else []
        lines += [f"  {first} = {second}" for first, second in pairs[:NAMED]]
    lines += [f"problem: {line}" for line in report.problems] or ["no problems found"]
    return "\n".join(lines)


@dataclass
class _Finding:
    """What one picture has to say."""

    fault: Optional[tuple[str, str]] = None
    digest: bytes = b""
    moments: np.ndarray = field(default_factory=lambda: np.zeros((2, 0)))
    size: tuple[int, int] = (0, 0)


def _per_class(source: Source) -> np.ndarray:
    if source.labels.ndim == 1:
        return np.bincount(source.labels, minlength=len(source.class_names))
    marks = np.isin(source.labels, (0, 1)).all()
    return source.labels.sum(axis=0).astype(int) if marks else np.zeros(0, int)


def _passed_over(source: Source) -> dict[str, int]:
    """The most frequent ending first."""
    counts: Counter[str] = Counter()
    for folder in filter(os.path.isdir, sorted({os.path.dirname(path) for path in source.paths or ()})):
        names = [entry.name.lower() for entry in os.scandir(folder) if entry.is_file()]
        others = (name for name in names if not name.startswith(".") and not name.endswith(EXTENSIONS))
        counts.update(os.path.splitext(name)[1] or "no ending" for name in others)
    return dict(counts.most_common())


def _read_all(
    source: Source, part: PartReport, workers: int, progress: Callable[[Iterable], Iterable], timeout: float
) -> dict[int, bytes]:
    """Fill in the report of one part; the digest of each picture that can be read."""
    digests: dict[int, bytes] = {}
    total = np.zeros(())
    sizes: list[tuple[int, int]] = []  # the smallest and the largest so far
    examined = _examine_all(source, range(part.pictures), workers, timeout)
    for _ in progress(range(0, part.pictures, CHUNK)):
        for index, found in itertools.islice(examined, CHUNK):
            if found.fault is not None:
                part.bad.setdefault(found.fault[0], []).append(found.fault[1])
                continue
            digests[index] = found.digest
            total = total + found.moments
            sizes.append(found.size)
            sizes = [
                min(sizes, key=lambda size: (min(size), max(size))),
                max(sizes, key=lambda size: size[0] * size[1]),
            ]
    if digests:
        mean, square = total / len(digests)
        part.mean, part.std = mean, np.sqrt(np.maximum(square - mean**2, 0))
        part.smallest, part.largest = sizes
    return digests


def _examine_all(source: Source, places: Iterable[int], workers: int, timeout: float) -> Iterator[tuple[int, _Finding]]:
    """What each picture has to say, in order."""
    examine = functools.partial(_examine, source)
    for place, future in work_ahead(examine, places, workers, CHUNK, timeout, functools.partial(describe, source)):
        yield place, future.result()


def _examine(source: Source, index: int) -> _Finding:
    try:
        read = getattr(source, "content", None)
        if read is None:
            image = source.image(index)
            content = np.ascontiguousarray(image).tobytes()
        else:
            content = read(index)
            if not content:
                return _Finding(("empty", f"{describe(source, index)} is empty."))
            image = load_image(content, source.channels, source.max_pixels, name=describe(source, index))  # type: ignore[attr-defined]
    except ValueError as error:
        return _Finding((_kind(str(error)), str(error)))
    size = (image.height, image.width) if isinstance(image, Image.Image) else image.shape[:2]
    return _Finding(None, hashlib.blake2b(content, digest_size=16).digest(), _moments(image), size)


def _kind(message: str) -> str:
    for word, kind in (("truncated", "truncated"), ("the limit is", "oversized"), ("o such file", "missing")):
        if word in message:
            return kind
    return "unreadable"


def _moments(image: Picture) -> np.ndarray:
    """Mean and mean square of each channel, of values in 0..1: [2, C]."""
    if isinstance(image, Image.Image):
        # Counts of the 256 levels tell all, at a fraction of the cost of arithmetic on every pixel.
        counts = np.array(image.histogram(), np.float64).reshape(-1, 256)  # [C, 256]
        counts /= counts.sum(axis=1, keepdims=True)
        levels = np.arange(256) / 255
        return np.stack([counts @ levels, counts @ levels**2])
    values = image.reshape(-1, image.shape[2]).astype(np.float64)  # [H W, C]
    return np.stack([values.mean(axis=0), (values**2).mean(axis=0)])
