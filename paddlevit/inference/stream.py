"""Classify any number of pictures in constant memory: decode in threads while the network runs."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from paddlevit.data import eval_transform, load_image
from paddlevit.inference.predictor import softmax
from paddlevit.inference.source import Classifier

FORMATS = ("table", "csv", "json")


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
    classifier: Classifier, paths: Iterable[Path], topk: int = 5, batch_size: int = 16, workers: int = 2
) -> Iterator[Answer]:
    """Classify pictures in their order.

    Args:
        classifier: Made by `open_classifier`.
        paths: The pictures; read as they are needed.
        topk: Classes per answer.
        batch_size: Pictures per run of the network.
        workers: Threads that decode; at most three batches wait decoded.

    Yields:
        One answer per path; a picture that cannot be read gets an error and does not stop the others.
    """
    transform = eval_transform(classifier.preprocessing)

    def load(path: Path) -> np.ndarray:
        return transform(load_image(path, classifier.preprocessing.channels))

    batch: list[tuple[Path, np.ndarray | str]] = []
    for path, picture in _ahead(load, paths, workers, 3 * batch_size):
        batch.append((path, picture))
        if len(batch) == batch_size:
            yield from _classify(classifier, batch, topk)
            batch = []
    if batch:
        yield from _classify(classifier, batch, topk)


def _ahead(
    load: Callable[[Path], np.ndarray], paths: Iterable[Path], workers: int, depth: int
) -> Iterator[tuple[Path, np.ndarray | str]]:
    """(path, picture or error) in order, loading up to `depth` paths ahead."""
    waiting: deque[tuple[Path, Future]] = deque()

    def finished() -> tuple[Path, np.ndarray | str]:
        path, future = waiting.popleft()
        try:
            return path, future.result()
        except (ValueError, OSError) as error:
            return path, " ".join(str(error).split())

    with ThreadPoolExecutor(workers) as pool:
        for path in paths:
            waiting.append((path, pool.submit(load, path)))
            if len(waiting) >= depth:
                yield finished()
        while waiting:
            yield finished()


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
                self.csv.writerow(["path", "rank", "class", "probability", "error"])

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

    A last line that was cut off is removed from the file, so that its picture is answered again.
    """
    if not file.exists():
        return set()
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    if style == "json":
        return {json.loads(line)["path"] for line in whole.splitlines()}
    return {row[0] for row in list(csv.reader(whole.splitlines()))[1:]}
