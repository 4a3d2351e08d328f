"""What a classifier mistakes for what, as tables and pictures.

Shapes: K classes.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from paddlevit.training.answers import class_scores
from paddlevit.training.curves import can_draw

SUFFIXES = (".csv", ".png")
NAMED_CLASSES = 50
NUMBERED_CELLS = 20


def format_class_table(matrix: np.ndarray, class_names: Sequence[str]) -> str:
    """Pictures, precision, recall and F1 of every class, a line each.

    Args:
        matrix: int64 [K, K], true classes in rows.
        class_names: [K].
    """
    scores = class_scores(matrix)
    width = max(len("class"), *(len(name) for name in class_names))
    lines = [f"{'class':<{width}}  {'pictures':>8}  {'precision':>9}  {'recall':>7}  {'F1':>7}"]
    for name, pictures, *shares in zip(class_names, scores.pictures, scores.precision, scores.recall, scores.f1):
        precision, recall, f1 = (f"{100 * share:.2f}" for share in shares)
        lines.append(f"{name:<{width}}  {pictures:>8}  {precision:>9}  {recall:>7}  {f1:>7}")
    return "\n".join(lines)


def check_confusion_path(path: Path) -> None:
    """Refuse a file that `write_confusion` could not write, before the evaluation rather than after it.

    Raises:
        ValueError: Neither .csv nor .png.
        ImportError: .png, and matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"The confusion matrix goes to {path}; its name must end in {' or '.join(SUFFIXES)}.")
    if path.suffix.lower() == ".png" and not can_draw():
        raise ImportError(f'{path} needs matplotlib: pip install "paddlevit[plot]", or give a .csv instead.')


def write_confusion(path: Path, matrix: np.ndarray, class_names: Sequence[str]) -> None:
    """Write a confusion matrix.

    Args:
        path: A .csv of counts, true classes in rows; or a .png of shares of each true class.
        matrix: int64 [K, K], true classes in rows.
        class_names: [K].

    Raises:
        ValueError: Another ending.
        ImportError: .png, and matplotlib is not installed.
    """
    check_confusion_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        _draw(path, matrix, class_names)
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["true class", *class_names])
        writer.writerows([name, *row] for name, row in zip(class_names, matrix.tolist()))


def _draw(path: Path, matrix: np.ndarray, class_names: Sequence[str]) -> None:
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # Paddle shows every library's notes
    from matplotlib.figure import Figure  # without pyplot there is no global state and no window

    count = len(class_names)
    side = min(max(4.0, 0.32 * count), 14.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    panel = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure.colorbar(panel.imshow(shares, cmap="cividis", vmin=0, vmax=1, interpolation="nearest"), shrink=0.8)
    if count <= NAMED_CLASSES:
        # Matplotlib's font has few alphabets, and a dollar sign would begin a formula.
        names = [name if name.isascii() else f"class {place}" for place, name in enumerate(class_names)]
        names = [name.replace("$", r"\$") for name in names]
        panel.set_xticks(range(count), names, rotation=90)
        panel.set_yticks(range(count), names)
    if count <= NUMBERED_CELLS:
        for row, column in np.argwhere(matrix):
            colour = "black" if shares[row, column] > 0.5 else "white"
            panel.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=7)
    panel.set_xlabel("answer")
    panel.set_ylabel("true class")
    figure.savefig(path, dpi=110, format="png")
