"""Weight files that are pickles: torch's `.pth`, `.pt` and `.bin`, Paddle's `.pdparams`; torch is not needed."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from paddlevit.weights.arrays import NUMPY_CODES, FileArray, LazyArray, check_shape, from_bytes, item_size, read_range
from paddlevit.weights.pickles import Blob, Global, Opaque, PickleReader, read_blob

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # first value of a torch file older than 1.6
_TORCH_PROTOCOL = 1001
_LOCAL_HEADER = 30  # bytes of a zip member's header before its name
_DEEPEST, _MOST_ENTRIES = 8, 1_000_000

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
# Written beside the weights by training programs; none of it is needed.
_IGNORED_OBJECTS = [
    ("argparse", "Namespace"),
    ("yacs.config", "CfgNode"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("collections", "Counter"),
    ("builtins", "frozenset"),
    ("__builtin__", "frozenset"),
    ("torch.torch_version", "TorchVersion"),
    ("torch", "Size"),
    ("torch", "device"),
    ("copyreg", "_reconstructor"),
    ("copy_reg", "_reconstructor"),
    ("torch.serialization", "_get_layout"),
]


def _ignore(*_: Any) -> Opaque:
    return Opaque()


def _new_dict(*_: Any) -> dict:
    return {}


_COMMON: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _new_dict,
    ("collections", "defaultdict"): _new_dict,
    **dict.fromkeys(_IGNORED_OBJECTS, _ignore),
}
for _module in ("builtins", "__builtin__"):
    _COMMON.update(
        {
            (_module, "tuple"): tuple,
            (_module, "list"): list,
            (_module, "dict"): _new_dict,
            (_module, "set"): _ignore,
            (_module, "object"): _ignore,
        }
    )


def plain_tree(value: Any) -> Any:
    """What a pickle held, reduced to dictionaries with names as keys and tensors or plain values as leaves.

    Raises:
        ValueError: It unfolds to more than a file of weights can hold: dictionaries within themselves, or shared ones.
    """
    return _plain(value, 0, iter(range(_MOST_ENTRIES)))


def _plain(value: Any, depth: int, budget: Iterator[int]) -> Any:
    if depth > _DEEPEST or next(budget, None) is None:
        raise ValueError("its dictionaries are nested too deep")
    if isinstance(value, _ArrayShell):
        return value.finished()
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], _ArrayShell):
        return value[1].finished()  # how Paddle pickles a Tensor: its name and its values
    if isinstance(value, dict):
        return {name: _plain(item, depth + 1, budget) for name, item in value.items() if isinstance(name, str)}
    if value is None or isinstance(value, (LazyArray, str, int, float)):
        return value
    return None


# NumPy arrays in a pickle


class _TypeShell:
    """numpy.dtype: its code at first, then its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str):
            raise TypeError("dtype")
        self.code, self.order = code.lstrip("<|="), "<"

    def stored(self) -> str:
        if self.code not in NUMPY_CODES or self.order not in ("<", "|", "="):
            raise ValueError(f"it holds an array of {self.code!r}, and only arrays of plain numbers are read")
        return NUMPY_CODES[self.code]


class _ArrayShell:
    """numpy.ndarray: empty at first, then given shape, type and values."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.array: LazyArray | None = None

    def fill(self, shape: Any, dtype: Any, fortran: Any, values: Any) -> None:
        if not isinstance(dtype, _TypeShell):
            raise TypeError("dtype")
        stored = dtype.stored()
        stored = "bfloat16" if stored == "uint16" else stored  # Paddle's way of holding bfloat16 in NumPy
        shape = check_shape(list(shape), stored)
        length = values.length if isinstance(values, Blob) else len(values)
        if length != math.prod(shape) * item_size(stored):
            raise ValueError(f"an array of shape {list(shape)} has {length} bytes")
        if isinstance(values, Blob):
            self.array = FileArray(self.path, values.offset, shape, stored, bool(fortran))
            return
        array = from_bytes(read_blob(self.path, values), shape, stored, bool(fortran))
        self.array = LazyArray(shape, stored, lambda: array)

    def finished(self) -> LazyArray:
        if self.array is None:
            raise ValueError("it holds an array without values")
        return self.array


def _numpy_functions(path: Path) -> dict[tuple[str, str], Any]:
    def empty(*_: Any) -> _ArrayShell:
        return _ArrayShell(path)

    def from_buffer(values: Any, dtype: Any, shape: Any, order: Any) -> _ArrayShell:
        shell = _ArrayShell(path)
        shell.fill(shape, dtype, order == "F", values)
        return shell

    def scalar(dtype: Any, values: Any) -> _ArrayShell:
        return from_buffer(values, dtype, (), "C")

    def encode(text: Any, encoding: Any) -> bytes:
        if encoding != "latin1":
            raise TypeError("encode")
        return text.encode("latin1")

    functions: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _ignore,
        ("numpy", "dtype"): _TypeShell,
        ("_codecs", "encode"): encode,
    }
    for core in ("numpy.core", "numpy._core"):
        functions[f"{core}.multiarray", "_reconstruct"] = empty
        functions[f"{core}.multiarray", "scalar"] = scalar
        functions[f"{core}.numeric", "_frombuffer"] = from_buffer
    return functions


def _build_numpy(target: Any, state: Any) -> None:
    if isinstance(target, _TypeShell):
        target.order = state[1]
    elif isinstance(target, _ArrayShell):
        _, shape, dtype, fortran, values = state
        target.fill(shape, dtype, fortran, values)
    else:
        raise TypeError("build")


def read_paddle(path: Path, file: BinaryIO, size: int) -> dict[str, Any]:
    """A `.pdparams` of Paddle 2 or 3, or any pickle of dictionaries and NumPy arrays.

    Raises:
        ValueError: Damaged, or it asks for anything but plain arrays.
    """
    reader = PickleReader(file, size, {**_COMMON, **_numpy_functions(path)}, build=_build_numpy)
    tree = plain_tree(reader.load())
    if not isinstance(tree, dict):
        raise ValueError("it does not hold a dictionary of tensors")
    return _without_paddle_names(tree)


def _without_paddle_names(tree: dict[str, Any]) -> dict[str, Any]:
    tree.pop("StructuredToParameterName@@", None)
    for value in tree.values():
        if isinstance(value, dict):
            value.pop("StructuredToParameterName@@", None)
    return tree


# torch


@dataclass
class _Storage:
    """A run of numbers of which tensors are views."""

    stored: str
    key: str
    count: int
    offset: int = -1
    checksum: tuple[int, int] | None = None
    """See `FileArray`; None when the file has none."""


def _view(path: Path, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> LazyArray:
    if not isinstance(storage, _Storage):
        raise TypeError("storage")
    shape = check_shape(list(shape), storage.stored)
    strides = check_shape(list(strides), storage.stored)
    count = math.prod(shape)
    if len(strides) != len(shape) or type(offset) is not int or offset < 0:
        raise TypeError("view")
    span = 1 + sum((n - 1) * step for n, step in zip(shape, strides)) if count else 0
    if offset + span > storage.count or count > max(storage.count, 1):
        raise ValueError(f"a tensor of shape {list(shape)} reaches outside its data")

    expected, contiguous = 1, True
    for n, step in zip(reversed(shape), reversed(strides)):
        contiguous = contiguous and (n == 1 or step == expected)
        expected *= n
    start = offset * item_size(storage.stored)

    def fetch() -> np.ndarray:
        checksum = storage.checksum if span == storage.count else None  # known for the whole only
        if contiguous or not count:
            return FileArray(path, storage.offset + start, shape, storage.stored, checksum=checksum).read()
        flat = read_range(path, storage.offset + start, span, storage.stored, checksum)
        steps = [step * flat.itemsize for step in strides]
        return np.lib.stride_tricks.as_strided(flat, shape, steps).copy()

    return LazyArray(shape, storage.stored, fetch)


def _parameter(value: Any, *_: Any) -> Any:
    return value


def _torch_functions(path: Path) -> dict[tuple[str, str], Any]:
    def view(*arguments: Any) -> LazyArray:
        return _view(path, *arguments)

    return {
        **_COMMON,
        **_numpy_functions(path),
        ("torch._utils", "_rebuild_tensor"): view,
        ("torch._utils", "_rebuild_tensor_v2"): view,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        **{("torch", name): _ignore for name in [*_STORAGES, "float32", "float16", "bfloat16", "float64", "int64"]},
    }


def _torch_reader(path: Path, file: BinaryIO, size: int, storages: dict[str, _Storage]) -> PickleReader:
    def persistent(key: Any) -> _Storage:
        kind, storage_type, name, _, count = key[:5]
        if kind != "storage" or not isinstance(storage_type, Global) or not isinstance(name, str):
            raise TypeError("storage")
        if storage_type.name not in _STORAGES:
            raise TypeError("storage")
        stored = _STORAGES[storage_type.name]
        (count,) = check_shape([count], stored)
        known = storages.setdefault(name, _Storage(stored, name, count))
        if (known.stored, known.count) != (stored, count):
            raise ValueError("its tensors disagree about their data")
        return known

    return PickleReader(file, size, _torch_functions(path), persistent, _build_numpy)


def read_torch_zip(path: Path, file: BinaryIO, archive: zipfile.ZipFile) -> dict[str, Any]:
    """A file that torch 1.6 or later saved.

    Raises:
        ValueError: Damaged, or it asks for anything but tensors and plain values.
    """
    members = {info.filename: info for info in archive.infolist()}
    pickled = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickled) != 1:
        raise ValueError("it is a zip archive, but not one that torch.save or numpy.savez writes")
    root = pickled[0][: -len("data.pkl")]
    size = path.stat().st_size
    order = members.get(f"{root}byteorder")
    if order is not None:
        start, length = locate(file, order, size)
        file.seek(start)
        if file.read(min(length, 16)) != b"little":
            raise ValueError("it was saved on a big-endian machine")
    storages: dict[str, _Storage] = {}
    start, length = locate(file, members[pickled[0]], size)
    file.seek(start)
    # The pickle lies uncompressed in the archive, so byte strings in it can stay there.
    tree = plain_tree(_torch_reader(path, file, start + length, storages).load())
    for storage in storages.values():
        info = members.get(f"{root}data/{storage.key}")
        if info is None:
            raise ValueError(f"the data of one of its tensors, {storage.key!r}, is missing")
        storage.offset, length = locate(file, info, size)
        expected = storage.count * item_size(storage.stored)
        if length < expected:
            raise ValueError(f"a tensor declares {storage.count} elements and has {length} bytes")
        if info.CRC and length == expected:  # 0: torch was told to leave it out
            storage.checksum = 0, info.CRC
    if not isinstance(tree, dict):
        raise ValueError("it does not hold a dictionary of tensors; save model.state_dict(), not the model")
    return tree


def locate(file: BinaryIO, info: zipfile.ZipInfo, size: int) -> tuple[int, int]:
    """Where the bytes of an uncompressed zip member are: offset and length.

    Raises:
        ValueError: Compressed, encrypted, or outside the file.
    """
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ValueError(f"its part {info.filename!r} is compressed or encrypted")
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) != _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise ValueError(f"its part {info.filename!r} is not where the archive says")
    name, extra = struct.unpack("<HH", header[26:30])
    start = info.header_offset + _LOCAL_HEADER + name + extra
    if start + info.file_size > size:
        raise ValueError(f"its part {info.filename!r} reaches beyond the file")
    return start, info.file_size


def read_pickle(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], str]:
    """A bare pickle: Paddle's, or torch's before version 1.6.

    Returns:
        Its tree, and `paddle` or `torch`.

    Raises:
        ValueError: Damaged, or it asks for anything but tensors and plain values.
    """
    first = file.read(32)
    file.seek(0)
    if TORCH_MAGIC.to_bytes(10, "little") not in first:
        return read_paddle(path, file, size), "paddle"
    storages: dict[str, _Storage] = {}
    reader = _torch_reader(path, file, size, storages)
    magic, protocol, system = reader.load(), reader.load(), reader.load()
    if magic != TORCH_MAGIC or protocol != _TORCH_PROTOCOL:
        raise ValueError("it is of an unknown version of torch")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it was saved on a big-endian machine")
    tree, keys = plain_tree(reader.load()), reader.load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its list of data is damaged")
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8).ljust(8, b"\xff"))
        storage = storages.get(key)
        if storage is None or storage.count != count or storage.offset >= 0:
            raise ValueError("its list of data is damaged")
        storage.offset = file.tell()
        if storage.offset + count * item_size(storage.stored) > size:
            raise ValueError("it ends before its last tensor")
        file.seek(count * item_size(storage.stored), 1)
    if any(storage.offset < 0 for storage in storages.values()):
        raise ValueError("the data of some of its tensors is missing")
    if not isinstance(tree, dict):
        raise ValueError("it does not hold a dictionary of tensors; save model.state_dict(), not the model")
    return tree, "torch"
