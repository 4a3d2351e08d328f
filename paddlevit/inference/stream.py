"""Classify any number of pictures in constant memory: decode in threads while the network runs.

Threads, not processes: Pillow and NumPy let go of Python's lock while they decode, resize and scale. On two cores
threads decode as many pictures as processes do, and answer more of them, as nothing is copied between processes.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

import numpy as np

from paddlevit.data import eval_transform, load_image
from paddlevit.data.ahead import work_ahead
from paddlevit.inference.predictor import softmax
from paddlevit.inference.source import Classifier

JSON_START = b'{"path": '
CSV_COLUMNS = ["path", "rank", "class", "probability", "error"]


@dataclass(frozen=True)
class Answer:
    """The answer for one picture, or why there is none."""

    path: str
    """The picture."""
    classes: tuple[str, ...] = ()
    """The likeliest classes, best first."""
    probabilities: tuple[float, ...] = ()
    """Of these classes."""
    error: str = ""
    """What is wrong with the picture; empty when it was classified."""


def predict_stream(
    classifier: Classifier,
    paths: Iterable[Path],
    topk: int = 5,
    batch_size: int = 16,
    workers: int = 2,
    timeout: float = 300.0,
) -> Iterator[Answer]:
    """Classify pictures in their order.

    Args:
        classifier: Made by `open_classifier`.
        paths: The pictures; read as they are needed.
        topk: Classes per answer.
        batch_size: Pictures per run of the network.
        workers: Threads that decode; at most three batches wait decoded.
        timeout: Seconds that a picture may take to be read; 0 waits for ever.

    Yields:
        One answer per path; a picture that cannot be read gets an error and does not stop the others.

    Raises:
        TimeoutError: Nothing came from the file system in time.
    """
    transform = eval_transform(classifier.preprocessing)

    def load(path: Path) -> np.ndarray:
        return transform(load_image(path, classifier.preprocessing.channels))

    batch: list[tuple[Path, np.ndarray | str]] = []
    for path, future in work_ahead(load, paths, workers, 3 * batch_size, timeout):
        try:
            batch.append((path, future.result()))
        except (ValueError, OSError) as error:
            batch.append((path, " ".join(str(error).split())))
        if len(batch) == batch_size:
            yield from _classify(classifier, batch, topk)
            batch = []
    if batch:
        yield from _classify(classifier, batch, topk)


def _classify(classifier: Classifier, batch: list[tuple[Path, np.ndarray | str]], topk: int) -> Iterator[Answer]:
    pictures = [picture for _, picture in batch if not isinstance(picture, str)]
    answers = iter(softmax(classifier.logits(np.stack(pictures))) if pictures else ())
    for path, picture in batch:
        if isinstance(picture, str):
            yield Answer(str(path), error=picture)
            continue
        probabilities = next(answers)
        best = np.argsort(-probabilities, kind="stable")[:topk]
        names = tuple(classifier.class_names[index] for index in best)
        yield Answer(str(path), names, tuple(float(probabilities[index]) for index in best))


class Writer:
    """Writes answers as they come.

    Args:
        file: Where.
        style: `table` for people, `csv` one line per picture and class, `json` one object per line and picture.
        header: Whether csv begins with the names of its columns.
    """

    def __init__(self, file: TextIO, style: str, header: bool = True) -> None:
        self.file, self.style = file, style
        if style == "csv":
            self.csv = csv.writer(file, lineterminator="\n")
            if header:
                self.csv.writerow(CSV_COLUMNS)

    def write(self, answer: Answer) -> None:
        """One picture."""
        ranked = list(zip(answer.classes, answer.probabilities))
        if self.style == "json":
            top = [{"class": name, "probability": round(probability, 6)} for name, probability in ranked]
            row = {"path": answer.path, "top": top}
            self.file.write(json.dumps({**row, "error": answer.error} if answer.error else row) + "\n")
        elif self.style == "csv":
            for rank, (name, probability) in enumerate(ranked, 1):
                self.csv.writerow([answer.path, rank, name, f"{probability:.6f}", ""])
            if answer.error:
                self.csv.writerow([answer.path, "", "", "", answer.error])
        elif answer.error:
            self.file.write(f"{answer.path}\n  cannot be classified: {answer.error}\n")
        else:
            lines = "".join(f"  {100 * probability:6.2f} %  {name}\n" for name, probability in ranked)
            self.file.write(f"{answer.path}\n{lines}")
        self.file.flush()


def answered_paths(file: Path, style: str) -> set[str]:
    """Pictures that a csv or json file of an earlier run already answers.

    What may be incomplete is removed from the file, so that its picture is answered again: a last line without an end,
    and in a csv all lines of the last picture.

    Args:
        file: Need not exist.
        style: csv or json.

    Raises:
        ValueError: The file holds something else.
    """
    done: list[str] = []
    complete = 0
    if file.exists():
        with open(file, "rb") as lines:
            for path, end in (_json_ends if style == "json" else _csv_ends)(lines, file):
                done.append(path)
                complete = end
        os.truncate(file, complete)
    return set(done)


def _json_ends(lines: IO[bytes], file: Path) -> Iterator[tuple[str, int]]:
    """The picture of every whole line, and where the line ends."""
    end = 0
    for line in lines:
        if not line.startswith(JSON_START[: len(line)]):
            raise ValueError(f"{file} holds no predictions at byte {end}; give another file.")
        if not line.endswith(b"\n"):
            return
        end += len(line)
        yield json.loads(line)["path"], end


def _csv_ends(lines: IO[bytes], file: Path) -> Iterator[tuple[str, int]]:
    """Every picture but the last, and where its lines end."""
    first, header = lines.readline(), ",".join(CSV_COLUMNS) + "\n"
    if not header.encode().startswith(first):
        raise ValueError(f"{file} holds no predictions; give another file.")
    end = len(first)

    def counted() -> Iterator[str]:
        nonlocal end
        for line in lines:
            end += len(line)
            if line.endswith(b"\n"):
                yield line.decode("utf-8", "surrogateescape")

    try:
        end_before, last = end, ""
        for row in csv.reader(counted()):
            if len(row) != len(CSV_COLUMNS):  # cut off within a path of several lines
                return
            if row[0] != last and last:
                yield last, end_before
            end_before, last = end, row[0]
    except csv.Error as error:
        raise ValueError(f"{file} holds no predictions: {error}; give another file.") from error
