"""MATLAB 5 files with arrays of numbers, which some data sets use for labels; no SciPy needed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paddlevit.config import ConfigError

HEADER = 128
TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
MATRIX, COMPRESSED = 14, 15
LIMIT = 1 << 28


def read_mat(path: Path) -> dict[str, np.ndarray]:
    """The numeric arrays of a little-endian MATLAB 5 file, by name.

    Raises:
        ConfigError: Not such a file, or damaged.
    """
    content = path.read_bytes()
    try:
        if content[126:128] != b"IM":
            raise ValueError("it is not a MATLAB 5 file")
        arrays = {}
        for kind, body in _elements(content[HEADER:]):
            if kind == COMPRESSED:
                unpacked = zlib.decompressobj().decompress(body, LIMIT)
                kind, body = next(_elements(unpacked))
            if kind == MATRIX:
                # Flags, dimensions, name, then the values in column-major order.
                _, (_, shape), (_, name), (value_kind, values) = list(_elements(body))[:4]
                array = np.frombuffer(values, TYPES[value_kind]).reshape(np.frombuffer(shape, "<i4"), order="F")
                arrays[name.decode("ascii")] = array
    except (ValueError, KeyError, StopIteration, struct.error, zlib.error) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    return arrays


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
