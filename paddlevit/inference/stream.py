"""Predict for any number of pictures in constant memory: decode in threads while the network runs.

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
from typing import IO, Optional, TextIO

import numpy as np

from paddlevit.data import load_image
from paddlevit.data.ahead import work_ahead
from paddlevit.inference.predictor import Prediction, make_predictions, same_shapes
from paddlevit.inference.source import Classifier

JSON_START = b'{"path": '
CLASS_COLUMNS = ["path", "rank", "class", "probability", "error"]
VALUE_COLUMNS = ["path", "name", "value", "error"]  # of a regression


@dataclass(frozen=True)
class Answer:
    """The answer for one picture, or why there is none."""

    path: str
    """The picture."""
    prediction: Optional[Prediction] = None
    """None when the picture cannot be read."""
    error: str = ""
    """What is wrong with the picture; empty when it was answered."""


def predict_stream(
    classifier: Classifier,
    paths: Iterable[Path],
    topk: int = 5,
    batch_size: int = 16,
    workers: int = 2,
    timeout: float = 300.0,
) -> Iterator[Answer]:
    """Predict for pictures in their order.

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

    def load(path: Path) -> np.ndarray:
        return classifier.preprocess(load_image(path, classifier.preprocessing.channels))

    batch: list[tuple[Path, np.ndarray | str]] = []
    for path, future in work_ahead(load, paths, workers, 3 * batch_size, timeout):
        try:
            batch.append((path, future.result()))
        except (ValueError, OSError) as error:
            batch.append((path, " ".join(str(error).split())))
        if len(batch) == batch_size:
            yield from _answers(classifier, batch, topk)
            batch = []
    if batch:
        yield from _answers(classifier, batch, topk)


def _answers(classifier: Classifier, batch: list[tuple[Path, np.ndarray | str]], topk: int) -> Iterator[Answer]:
    pictures = [picture for _, picture in batch if not isinstance(picture, str)]
    predictions: list[Prediction] = []
    for images in same_shapes(pictures):
        outputs = classifier.outputs(images)
        predictions += make_predictions(outputs, classifier.task, classifier.class_names, topk)
    found = iter(predictions)
    for path, picture in batch:
        yield Answer(str(path), error=picture) if isinstance(picture, str) else Answer(str(path), next(found))


class Writer:
    """Writes answers as they come.

    Args:
        file: Where.
        style: `table` for people, `csv` one line per picture and class, `json` one object per line and picture.
        task: Of the classifier; a regression has a line, or an entry, for each of its numbers.
        header: Whether csv begins with the names of its columns.
    """

    def __init__(self, file: TextIO, style: str, task: str, header: bool = True) -> None:
        self.file, self.style = file, style
        self.is_regression, self.columns = task == "regression", csv_columns(task)
        if style == "csv":
            self.csv = csv.writer(file, lineterminator="\n")
            if header:
                self.csv.writerow(self.columns)

    def write(self, answer: Answer) -> None:
        """One picture."""
        prediction = answer.prediction
        ranked = list(zip(prediction.names, prediction.values or prediction.probabilities)) if prediction else []
        {"table": self._table, "csv": self._csv, "json": self._json}[self.style](answer, ranked)
        self.file.flush()

    def _table(self, answer: Answer, ranked: list[tuple[str, float]]) -> None:
        if answer.error:
            lines = f"  cannot be classified: {answer.error}\n"
        elif self.is_regression:
            lines = "".join(f"  {value:12.6g}  {name}\n" for name, value in ranked)
        else:
            lines = "".join(f"  {100 * probability:6.2f} %  {name}\n" for name, probability in ranked)
        self.file.write(f"{answer.path}\n{lines}")

    def _csv(self, answer: Answer, ranked: list[tuple[str, float]]) -> None:
        if answer.error:
            self.csv.writerow([answer.path, *[""] * (len(self.columns) - 2), answer.error])
        for rank, (name, number) in enumerate(ranked, 1):
            columns = [name, f"{number:.7g}"] if self.is_regression else [str(rank), name, f"{number:.6f}"]
            self.csv.writerow([answer.path, *columns, ""])

    def _json(self, answer: Answer, ranked: list[tuple[str, float]]) -> None:
        if self.is_regression:
            found = {"values": [{"name": name, "value": float(f"{value:.7g}")} for name, value in ranked]}
        else:
            found = {"top": [{"class": name, "probability": round(share, 6)} for name, share in ranked]}
        row = {"path": answer.path, **found}
        self.file.write(json.dumps({**row, "error": answer.error} if answer.error else row) + "\n")


def csv_columns(task: str) -> list[str]:
    """The header of a csv."""
    return VALUE_COLUMNS if task == "regression" else CLASS_COLUMNS


def answered_paths(file: Path, style: str, task: str) -> set[str]:
    """Pictures that a csv or json file of an earlier run already answers.

    What may be incomplete is removed from the file, so that its picture is answered again: a last line without an end,
    and in a csv all lines of the last picture.

    Args:
        file: Need not exist.
        style: csv or json.
        task: Of the classifier.

    Raises:
        ValueError: The file holds something else.
    """
    done: list[str] = []
    complete = 0
    if file.exists():
        with open(file, "rb") as lines:
            ends = _json_ends(lines, file) if style == "json" else _csv_ends(lines, file, csv_columns(task))
            for path, end in ends:
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


def _csv_ends(lines: IO[bytes], file: Path, columns: list[str]) -> Iterator[tuple[str, int]]:
    """Every picture but the last, and where its lines end."""
    first, header = lines.readline(), ",".join(columns) + "\n"
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
            if len(row) != len(columns):  # cut off within a path of several lines
                return
            if row[0] != last and last:
                yield last, end_before
            end_before, last = end, row[0]
    except csv.Error as error:
        raise ValueError(f"{file} holds no predictions: {error}; give another file.") from error
