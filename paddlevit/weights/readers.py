"""Opening weight files of every kind. Nothing in a file is ever run, and no declared size is believed unchecked."""

from __future__ import annotations

import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from paddlevit.weights.arrays import NUMPY_CODES, FileArray, LazyArray, check_shape, from_bytes, item_size
from paddlevit.weights.pickled import locate, read_pickle, read_torch_zip

# Names that safetensors gives to types.
SAFETENSORS_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_LARGEST_HEADER = 100_000_000  # bytes, the format's own limit
_LONGEST_REASON = 300  # characters
_LARGEST_RATIO = 200  # an archive that grows more than this when unpacked holds no weights
_NPY_HEADER = re.compile(
    r"\{'descr': '([^']{2,8})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,18}L?(?:, ?)?)*)\),? *\}\s*"
)
# What the standard library raises for broken archives.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    KeyError,
    struct.error,
    OSError,  # an impossible position in the file
)
OWN_FORMAT = "paddlevit-checkpoint"
_INDEX = ".index.json"  # of Hugging Face: which of several files holds which tensor
_FOLDER_FILES = (
    "model.safetensors",
    f"model.safetensors{_INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{_INDEX}",
    "best.safetensors",
    "last.safetensors",
)


@dataclass
class WeightFile:
    """An opened file: names and shapes are known, values are still on the disk."""

    path: Path
    """The file."""
    kind: str
    """safetensors, npz, torch or paddle."""
    tree: dict[str, Any]
    """What it holds: tensors by name, possibly inside further dictionaries."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What a safetensors file says of itself."""


def open_weights(path: str | Path) -> WeightFile:
    """Open a weight file; what it is follows from its contents, not from its name.

    Args:
        path: `.safetensors`, torch's `.pth`, `.pt` or `.bin`, JAX's `.npz`, Paddle's `.pdparams`, or a folder: one with
            a `model.safetensors` or `pytorch_model.bin`, whole or in parts with an index, or a run of ours.

    Returns:
        The file with all its tensors, none of them read yet.

    Raises:
        ValueError: No such file, no known kind, damaged, or a pickle that asks for more than plain arrays.
    """
    path = _find_file(Path(path))
    if path.name.endswith(_INDEX):
        return _read_parts(path)
    size = path.stat().st_size
    with open(path, "rb") as file, _explained(path):
        start = file.read(9)
        file.seek(0)
        if size < 9:
            raise ValueError(f"it has only {size} bytes")
        if start[:2] == b"PK":
            with zipfile.ZipFile(file) as archive:
                if any(name.endswith(".npy") for name in archive.namelist()):
                    return WeightFile(path, "npz", _read_npz(path, file, archive, size))
                return WeightFile(path, "torch", read_torch_zip(path, file, archive))
        if start[8:9] == b"{":
            tree, metadata = _read_safetensors(path, file, size)
            return WeightFile(path, "safetensors", tree, metadata)
        if start[:1] == b"\x80":
            tree, kind = read_pickle(path, file, size)
            return WeightFile(path, kind, tree)
        raise ValueError(_what_it_is(start))


def _find_file(path: Path) -> Path:
    if path.is_dir():
        found = [path / name for name in _FOLDER_FILES if (path / name).is_file()]
        if not found:
            raise ValueError(f"{path} is a folder without {', '.join(_FOLDER_FILES)}; name the file itself.")
        return found[0]
    if not path.is_file():
        raise ValueError(f"There is no weight file {str(path)!r}.")
    return path


def _read_parts(index: Path) -> WeightFile:
    """The tensors of all files that an index names."""
    with _explained(index):
        try:
            places = json.loads(index.read_text("utf-8"))["weight_map"]
            names = set(places.values())
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError("it is no index of weight files") from error
        plain = (isinstance(name, str) and Path(name).name == name and not name.endswith(_INDEX) for name in names)
        if not names or not all(plain):
            raise ValueError("it is no index of weight files beside it")
        missing = sorted(name for name in names if not (index.parent / name).is_file())
        if missing:
            raise ValueError(f"{', '.join(missing)} of its {len(names)} files are missing; download them too")
    parts = {name: open_weights(index.parent / name) for name in sorted(names)}
    tree: dict[str, Any] = {}
    for tensor, name in places.items():
        if tensor not in parts[name].tree:
            raise ValueError(f"{index} cannot be read: {tensor} is not in {name}, where the index says.")
        tree[tensor] = parts[name].tree[tensor]
    first = next(iter(parts.values()))
    return WeightFile(index, first.kind, tree, first.metadata)


def _what_it_is(start: bytes) -> str:
    if start.lstrip()[:1] == b"<":
        return "it is a web page; the download went wrong"
    if start == b"version h":
        return "it is a Git LFS pointer, not the file itself; run `git lfs pull`"
    return "it is neither safetensors, torch, .npz nor .pdparams"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise ValueError(f"{path} cannot be read: it declares more than fits into memory.") from error
    except _DAMAGED as error:
        raise ValueError(f"{path} cannot be read: its archive is damaged ({_short(error)}).") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {_short(error)}.") from error


def _short(error: Exception) -> str:
    """A message as one line; damaged files may put whole pages of rubbish into it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."


def flatten(tree: dict[str, Any]) -> dict[str, LazyArray]:
    """The tensors directly in `tree`, by name."""
    return {name: value for name, value in tree.items() if isinstance(value, LazyArray)}


# safetensors


def _read_safetensors(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], dict[str, str]]:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, _LARGEST_HEADER):
        raise ValueError(f"its header declares {length} bytes and the file has {size}")
    try:
        header = json.loads(file.read(length), parse_int=_short_number)
    except (ValueError, RecursionError) as error:
        raise ValueError("its header is damaged") from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its header is damaged")
    start, end = 8 + length, 0
    tree: dict[str, Any] = {}
    spans = []
    for name, entry in header.items():
        array, span = _safetensors_entry(path, name, entry, start)
        tree[name] = array
        spans.append(span)
    for low, high in sorted(spans):
        if low != end:
            raise ValueError("its tensors overlap or leave gaps")
        end = high
    if start + end != size:
        raise ValueError(f"its tensors need {start + end} bytes and the file has {size}; it was cut off or changed")
    if metadata.get("format", "").startswith(OWN_FORMAT):
        return _split_parts(tree), metadata
    return tree, metadata


def _short_number(digits: str) -> int:
    if len(digits) > 20:  # Python takes quadratic time for long ones
        raise ValueError("number")
    return int(digits)


def _safetensors_entry(path: Path, name: str, entry: Any, start: int) -> tuple[FileArray, tuple[int, int]]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the entry of {name!r} is damaged")
    stored = SAFETENSORS_TYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if stored is None:
        raise ValueError(f"{name!r} has type {entry['dtype']!r}; known are {', '.join(SAFETENSORS_TYPES)}")
    shape, offsets = check_shape(entry["shape"], stored), entry["data_offsets"]
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise ValueError(f"the entry of {name!r} is damaged")
    low, high = offsets
    if high - low != math.prod(shape) * item_size(stored):
        raise ValueError(f"{name!r} of shape {list(shape)} has {high - low} bytes")
    return FileArray(path, start + low, shape, stored), (low, high)


def _split_parts(tree: dict[str, Any]) -> dict[str, Any]:
    """Our own checkpoints name each tensor `part/name`: the parts become dictionaries."""
    parts: dict[str, Any] = {}
    for name, array in tree.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = array
    return parts


# npz


def _read_npz(path: Path, file: BinaryIO, archive: zipfile.ZipFile, size: int) -> dict[str, Any]:
    members = archive.infolist()
    if sum(info.file_size for info in members) > _LARGEST_RATIO * size + (1 << 20):
        raise ValueError("it declares far more data than it can hold")
    tree: dict[str, Any] = {}
    for info in members:
        if not info.filename.endswith(".npy"):
            raise ValueError(f"its part {info.filename!r} is no array")
        name = info.filename[: -len(".npy")]
        if name in tree:
            raise ValueError(f"it holds {name!r} twice")
        tree[name] = _npz_array(path, file, archive, info, size)
    return tree


def _npz_array(path: Path, file: BinaryIO, archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> LazyArray:
    with archive.open(info) as member:
        shape, stored, fortran, header = _npy_header(member, info.filename)
    if info.file_size - header != math.prod(shape) * item_size(stored):
        raise ValueError(f"{info.filename!r} of shape {list(shape)} has {info.file_size - header} bytes")
    if info.compress_type == zipfile.ZIP_STORED:
        start, _ = locate(file, info, size)
        file.seek(start)
        checksum = zlib.crc32(file.read(header)), info.CRC
        return FileArray(path, start + header, shape, stored, fortran, checksum)

    def fetch() -> np.ndarray:
        with _explained(path), zipfile.ZipFile(path) as again, again.open(info.filename) as member:
            content = member.read(info.file_size + 1)
        if len(content) != info.file_size:
            raise ValueError(f"{path} cannot be read: {info.filename!r} is cut off.")
        return from_bytes(content, shape, stored, fortran, header)

    return LazyArray(shape, stored, fetch)


def _npy_header(member: Any, name: str) -> tuple[tuple[int, ...], str, bool, int]:
    """Shape, type, order and length of the header of one array in an archive."""
    start = member.read(12)
    if start[:6] != b"\x93NUMPY" or start[6:7] not in (b"\x01", b"\x02", b"\x03"):
        raise ValueError(f"its part {name!r} is no array")
    wide = start[6] > 1
    length = struct.unpack("<I", start[8:12])[0] if wide else struct.unpack("<H", start[8:10])[0]
    if length > 10_000:
        raise ValueError(f"{name!r} declares a header of {length} bytes")
    text = start + member.read(length - 2 + 2 * wide)
    form = _NPY_HEADER.fullmatch(text[10 + 2 * wide :].decode("latin1"))
    if form is None:
        raise ValueError(f"the header of {name!r} is damaged, or it is no plain array")
    code, fortran, numbers = form.groups()
    if code[0] not in "<|=" or code[1:] not in NUMPY_CODES:
        raise ValueError(f"{name!r} is an array of {code!r}, and only arrays of plain numbers are read")
    stored = NUMPY_CODES[code[1:]]
    shape = check_shape([int(number) for number in re.findall(r"\d+", numbers)], stored)
    return shape, stored, fortran == "True", len(text)
