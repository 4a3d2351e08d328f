"""MATLAB 5 files, which some data sets use for labels: arrays of numbers, texts and structures; no SciPy needed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paddlevit.config import ConfigError

HEADER = 128
TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}
MATRIX, COMPRESSED = 14, 15
STRUCTURES, TEXT = 2, 4
NUMBERS = range(6, 16)
LIMIT = 1 << 28


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a little-endian MATLAB 5 file, by name.

    Returns:
        Arrays of numbers; str for texts; for structures a list of dictionaries by the names of their fields. Variables
        of other kinds, such as cells, are None.

    Raises:
        ConfigError: Not such a file, or damaged.
    """
    content = path.read_bytes()
    try:
        if content[126:128] != b"IM":
            raise ValueError("it is not a MATLAB 5 file")
        variables = {}
        for kind, body in _elements(content[HEADER:]):
            if kind == COMPRESSED:
                unpacked = zlib.decompressobj().decompress(body, LIMIT)
                kind, body = next(_elements(unpacked))
            if kind == MATRIX:
                name, value = _matrix(body)
                variables[name] = value
    except (ValueError, KeyError, IndexError, StopIteration, RecursionError, struct.error, zlib.error) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    return variables


def _matrix(body: bytes) -> tuple[str, Any]:
    """Name and value of a matrix element, which begins with flags, dimensions and its name."""
    if not body:
        return "", np.zeros(0)
    elements = _elements(body)
    (_, flags), (_, dimensions), (_, name) = next(elements), next(elements), next(elements)
    kind, shape = flags[0], np.frombuffer(dimensions, "<i4")
    value: Any = None
    if kind == STRUCTURES:
        value = _structures(elements, int(np.prod(shape)))
    elif kind == TEXT:
        text_kind, text = next(elements)
        value = text.decode(TEXTS[text_kind])
    elif kind in NUMBERS:  # the values follow in column-major order
        number_kind, numbers = next(elements)
        value = np.frombuffer(numbers, TYPES[number_kind]).reshape(shape, order="F")
    return name.decode("ascii"), value


def _structures(elements: Iterator[tuple[int, bytes]], count: int) -> list[dict[str, Any]]:
    """The length of a field's name, all names, then every field of every structure as a matrix."""
    length = struct.unpack("<i", next(elements)[1])[0]
    names = next(elements)[1]
    if length < 1:
        raise ValueError(f"its names have a length of {length}")
    fields = [names[first : first + length].split(b"\0")[0].decode("ascii") for first in range(0, len(names), length)]
    return [{field: _matrix(next(elements)[1])[1] for field in fields} for _ in range(count)]


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of each element; those of up to 4 bytes share 8 with their tag."""
    place = 0
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, place)
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            yield kind, content[place + 4 : place + 4 + size]
            place += 8
        else:
            yield kind, content[place + 8 : place + 8 + size]
            place += 8 + size
            if kind != COMPRESSED:
                place += -size % 8
