"""Pictures named in a list: text or CSV with a path and a label, several labels, or numbers to predict."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from pathlib import Path
from typing import Optional

import numpy as np

from paddlevit.config import ConfigError, DataConfig
from paddlevit.data.images import EXTENSIONS
from paddlevit.data.splits import Part, data_root, find_file, missing, read_class_names, split_off

LIST_LAYOUT = (
    "a list (data.train: train.txt) of lines such as `cats/1.jpg 0` or `cats/1.jpg,cat`, paths relative to data.root"
)
DELIMITERS = ("\t", ",", ";", "|", " ")
PICTURE_END = re.compile(rf"(?:{'|'.join(map(re.escape, EXTENSIONS))})(?:[\"']?( *[\t,;|]| )|\b)", re.IGNORECASE)
SAMPLE = 100

Rows = list[tuple[int, str, list[str]]]  # line number, path, labels


def read_list(data: DataConfig, config_path: str) -> tuple[Path, Part, Part, list[str]]:
    """Lists of pictures.

    Args:
        data: The section of the configuration.
        config_path: For the message when nothing is there.

    Returns:
        The root, the training and evaluation parts below it, and the names of the classes (of the numbers to
        predict, in a regression).

    Raises:
        ConfigError: No such list, a line that is not understood, or a path outside the root; the line is named.
    """
    root = data_root(data)
    if data.train is None or not root.is_dir():
        raise missing(root if data.train is None else root / data.train, LIST_LAYOUT, config_path)
    stated = read_class_names(data)
    keys, names = stated or (None, None)
    known = frozenset(keys or ())
    train_rows = _read_rows(data, find_file(data, data.train, "train"), known)
    val_rows = _read_rows(data, find_file(data, data.val, "val"), known) if data.val is not None else None
    if data.task != "regression" and keys is None:
        keys = names = _class_names(train_rows + (val_rows or []), train_rows)
    elif data.task == "regression" and names is None:
        names = [f"value {k}" for k in range(len(train_rows[0][2]))] if len(train_rows[0][2]) > 1 else ["value"]
    train = _part(data, train_rows, keys, len(names or []), data.train)
    if val_rows is not None and data.val is not None:
        val = _part(data, val_rows, keys, len(names or []), data.val)
    else:
        train, val = split_off(train, data.val_fraction, data.split_seed)
    return root, train, val, list(names or [])


def _read_rows(data: DataConfig, path: Path, known: frozenset[str]) -> Rows:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8.") from error
    full = [line for line in lines if line.strip()]
    if not full:
        raise ConfigError(f"{path} is empty.")
    delimiter = data.delimiter or _find_delimiter(full[:SAMPLE], data.task)
    rows: Rows = []
    header: Optional[list[str]] = None
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        for row in reader:
            fields = [field.strip() for field in row if field.strip() or delimiter != " "]
            if not any(fields):
                continue
            number, line = reader.line_num, lines[reader.line_num - 1]
            if header is None:
                header = fields if _is_header(data, line, delimiter) else []
                if header:
                    continue
            start = 1 if header and not header[0] else 0  # behind the index that pandas writes
            fields = fields[start:] or [""]
            if data.task == "classes" and len(fields) > 2:  # an unquoted path that contains the delimiter
                whole = next(csv.reader([line], delimiter=delimiter))  # with the spaces behind delimiters
                fields = [delimiter.join(whole[start:-1]).strip(), fields[-1]]
            labels = _labels(fields[1:], data.task, known)
            if not labels and data.task != "multi_label":
                raise ConfigError(f"{path} line {number}: {line!r} has no label.")
            rows.append((number, _inside(data, path, number, fields[0]), labels))
    except csv.Error as error:
        raise ConfigError(f"{path} line {reader.line_num} cannot be read: {error}.") from error
    if not rows:
        raise ConfigError(f"{path} names no pictures.")
    return rows


def _find_delimiter(lines: list[str], task: str) -> str:
    """What most often follows the name of a picture; without such names, a mark that all lines have, or most."""
    matches = [match[1] for match in map(PICTURE_END.search, lines) if match and match[1]]
    found = Counter(mark.strip(" ") or " " for mark in matches)
    if found:
        return found.most_common(1)[0][0]
    marks = sorted(DELIMITERS, key=lambda mark: task == "multi_label" and mark == "|")  # which there separates labels
    counts = {mark: sum(mark in line for line in lines) for mark in marks}
    least = (len(lines), len(lines) // 2 + 1)
    return next((mark for count in least for mark in marks if counts[mark] >= count), ",")


def _is_header(data: DataConfig, line: str, delimiter: str) -> bool:
    """Whether a line holds the titles of columns: nothing in it looks like a picture, and no file is called so."""
    names = (line.split(delimiter)[0].strip(' "'), line.rpartition(delimiter)[0].strip(' "'))
    return not PICTURE_END.search(line) and not any(os.path.isfile(os.path.join(data_root(data), n)) for n in names)


def _labels(fields: list[str], task: str, known: frozenset[str]) -> list[str]:
    """The labels, or numbers, of a line; several are in columns of their own, or have a bar or comma between them."""
    if task != "classes":
        fields = [part.strip() for field in fields for part in field.split("|")]
    if task == "multi_label":
        fields = [part.strip() for field in fields for part in ([field] if field in known else field.split(","))]
    return [field for field in fields if field]


def _inside(data: DataConfig, path: Path, line: int, name: str) -> str:
    """A path of the list relative to the root; ConfigError when it leads out of it and that is not allowed."""
    root = os.path.abspath(data_root(data))
    if "\\" in name and not os.path.isfile(os.path.join(root, name)):  # written on Windows
        name = name.replace("\\", "/")
    full = os.path.normpath(os.path.join(root, name))
    if data.allow_outside_root:
        return full
    if os.path.commonpath([root, full]) != root or full == root:
        raise ConfigError(
            f"{path} line {line}: {name!r} leads out of data.root {root}; data.allow_outside_root: true allows it."
        )
    return os.path.relpath(full, root)


def _class_names(rows: Rows, train_rows: Rows) -> list[str]:
    """The classes of a list without stated ones: whole numbers stand for themselves, words in alphabetical order."""
    labels = {label for _, _, labels in train_rows for label in labels}
    if all(label.isdecimal() for label in labels):
        everything = {int(label) for _, _, labels in rows for label in labels if label.isdecimal()}
        return [str(number) for number in range(max(everything, default=-1) + 1)]
    return sorted(labels)


def _part(data: DataConfig, rows: Rows, keys: Optional[list[str]], width: int, list_name: str) -> Part:
    names = [name for _, name, _ in rows]
    if data.task == "regression":
        return Part(names, np.array([_numbers(row, width, list_name) for row in rows], np.float32))  # [n, K]
    numbers = _numbered(rows, keys or [], list_name)
    if data.task == "classes":
        return Part(names, np.array([labels[0] for labels in numbers], np.int64))  # [n]
    marks = np.zeros((len(rows), width), np.float32)  # [n, K]
    for place, labels in enumerate(numbers):
        marks[place, labels] = 1.0
    return Part(names, marks)


def _numbered(rows: Rows, keys: list[str], list_name: str) -> list[list[int]]:
    """Labels as places in `keys`; a whole number that is no key is a place itself."""
    index = {key: label for label, key in enumerate(keys)}
    numbers = [
        [index.get(label, int(label) if label.isdecimal() and int(label) < len(keys) else -1) for label in labels]
        for _, _, labels in rows
    ]
    bad = [row for row, labels in zip(rows, numbers) if -1 in labels]
    if bad:
        line, _, labels = bad[0]
        raise ConfigError(
            f"{list_name} line {line}: the label {' '.join(labels)!r} is neither one of the {len(keys)} classes "
            f"({', '.join(keys[:5])}, ...) nor a number below {len(keys)}; so are {len(bad)} of {len(rows)} lines."
        )
    return numbers


def _numbers(row: tuple[int, str, list[str]], width: int, list_name: str) -> list[float]:
    line, _, labels = row
    try:
        values = [float(label) for label in labels]
    except ValueError as error:
        raise ConfigError(f"{list_name} line {line}: {' '.join(labels)!r} is not a number to predict.") from error
    if len(values) != width or not np.isfinite(values).all():
        raise ConfigError(
            f"{list_name} line {line}: it has {len(values)} numbers; each line needs {width} finite ones."
        )
    return values
