"""Tensors of a weight file that are read only when asked for, so that a model's weights are never held twice."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

BFLOAT16 = "bfloat16"

# How NumPy holds each type; bfloat16 has no NumPy type and is widened to float32 on reading, which is exact.
_NUMPY_TYPES = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    BFLOAT16: "<u2",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint64": "<u8",
    "uint32": "<u4",
    "uint16": "<u2",
    "uint8": "u1",
    "bool": "?",
}
# What .npy headers and pickled arrays call them, without the byte order.
NUMPY_CODES = {
    "f8": "float64",
    "f4": "float32",
    "f2": "float16",
    "V2": BFLOAT16,  # how NumPy keeps JAX's bfloat16
    "i8": "int64",
    "i4": "int32",
    "i2": "int16",
    "i1": "int8",
    "u8": "uint64",
    "u4": "uint32",
    "u2": "uint16",
    "u1": "uint8",
    "b1": "bool",
}


def item_size(stored: str) -> int:
    """Bytes of one element of the type named `stored`."""
    return np.dtype(_NUMPY_TYPES[stored]).itemsize


def check_shape(shape: object, stored: str) -> tuple[int, ...]:
    """`shape` as a tuple, after checking that it is one that NumPy can hold.

    Raises:
        ValueError: Not whole numbers from 0, too many of them, or a type that is not read.
    """
    if stored not in _NUMPY_TYPES:
        raise ValueError(f"type {stored!r} is not read; known are {', '.join(_NUMPY_TYPES)}")
    if not isinstance(shape, (list, tuple)) or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise ValueError("a shape that is not a list of whole numbers")
    if len(shape) > 16 or math.prod(shape) >= 2**48:
        raise ValueError(f"an impossible shape, {len(shape)} dimensions of {math.prod(shape)} elements")
    return tuple(shape)


class LazyArray:
    """A tensor whose shape is known and whose values are fetched by `read`.

    Args:
        shape: Its shape.
        stored: Name of the type it is stored in, for example `float32` or `bfloat16`.
        fetch: Returns the values; bfloat16 already as float32.
    """

    def __init__(self, shape: tuple[int, ...], stored: str, fetch: Callable[[], np.ndarray]) -> None:
        self.shape = shape
        self.stored = stored
        self._fetch = fetch

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self) -> np.ndarray:
        """The values.

        Raises:
            ValueError: The file has changed or ends early.
        """
        return self._fetch()

    def part(self, index: int) -> LazyArray:
        """The tensor at `index` of the first axis."""
        return LazyArray(self.shape[1:], self.stored, lambda: self.read()[index])


class FileArray(LazyArray):
    """A tensor that lies in one piece in a file.

    Args:
        path: The file.
        offset: Where its first byte is.
        shape: Its shape.
        stored: Name of its type.
        fortran: Whether the first axis varies fastest.
        checksum: CRC-32 of what comes before the tensor, and what it has to be after the tensor; None is not known.
    """

    def __init__(
        self,
        path: Path,
        offset: int,
        shape: tuple[int, ...],
        stored: str,
        fortran: bool = False,
        checksum: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(shape, stored, self._read_file)
        self.path, self.offset, self.fortran, self.checksum = path, offset, fortran, checksum

    def _read_file(self) -> np.ndarray:
        flat = read_range(self.path, self.offset, self.size, self.stored, self.checksum)
        return flat.reshape(self.shape, order="F" if self.fortran else "C")

    def part(self, index: int) -> LazyArray:
        """The tensor at `index` of the first axis; only its bytes are read."""
        if self.fortran:
            return super().part(index)
        size = math.prod(self.shape[1:])
        return FileArray(self.path, self.offset + index * size * item_size(self.stored), self.shape[1:], self.stored)


def read_range(path: Path, offset: int, count: int, stored: str, checksum: tuple[int, int] | None = None) -> np.ndarray:
    """Elements that lie one after another in a file.

    Args:
        path: The file.
        offset: Where the first byte is.
        count: How many elements.
        stored: Name of their type.
        checksum: See `FileArray`.

    Returns:
        [count], float32 for bfloat16.

    Raises:
        ValueError: The file ends before the last element, or the checksum is another.
    """
    with open(path, "rb") as file:
        file.seek(offset)
        flat = np.fromfile(file, dtype=_NUMPY_TYPES[stored], count=count)
    if flat.size != count:
        raise ValueError(f"{path} ended while its tensors were read; it was changed or cut off.")
    if checksum is not None and zlib.crc32(flat.data, checksum[0]) != checksum[1]:
        raise ValueError(f"{path} is damaged: the checksum of a tensor is wrong.")
    return from_stored(flat, stored)


def from_stored(flat: np.ndarray, stored: str) -> np.ndarray:
    """Values as NumPy computes with them: bfloat16's bit pattern becomes float32, the rest stays."""
    if stored != BFLOAT16:
        return flat
    wide = flat.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def from_bytes(content: bytes, shape: tuple[int, ...], stored: str, fortran: bool = False, skip: int = 0) -> np.ndarray:
    """The tensor whose bytes are `content` after the first `skip`."""
    flat = np.frombuffer(content, _NUMPY_TYPES[stored], offset=skip)
    return from_stored(flat, stored).reshape(shape, order="F" if fortran else "C")


def from_numpy(array: np.ndarray) -> LazyArray:
    """A tensor that is already in memory."""
    return LazyArray(array.shape, array.dtype.name, lambda: array)


_BLOCK = 128  # side of a block whose two copies fit into the first-level cache


def contiguous(array: np.ndarray) -> np.ndarray:
    """The same values, one after another in memory.

    NumPy transposes a large matrix element by element, and rows a power of two apart displace each other from the
    cache. Going through small padded blocks is four to five times faster.
    """
    if array.ndim != 2 or array.flags.c_contiguous or min(array.shape) < _BLOCK:
        return np.asarray(array, order="C")
    source, result = array.T, np.empty(array.shape, array.dtype)
    padded = np.empty((_BLOCK, _BLOCK + 16), array.dtype)
    for top in range(0, source.shape[0], _BLOCK):
        for left in range(0, source.shape[1], _BLOCK):
            part = source[top : top + _BLOCK, left : left + _BLOCK]
            block = padded[: part.shape[0], : part.shape[1]]
            block[...] = part
            result[left : left + _BLOCK, top : top + _BLOCK] = block.T
    return result
