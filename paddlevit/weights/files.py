"""Files that are either whole or not there, and the frame of a safetensors file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple


class TensorType(NamedTuple):
    """What a safetensors file says of one tensor."""

    name: str
    """The type by the format's name, such as F32."""
    item_size: int
    """Bytes of one number."""
    shape: tuple[int, ...]
    """Its shape."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """A file that gets its name only when everything is in it and on the disk.

    Args:
        path: Its name; an older file is replaced.

    Raises:
        OSError: It cannot be written; an older file of that name is untouched, and nothing is left behind.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` to a file that is either whole or not there."""
    with whole_file(path) as file:
        file.write(content)


def write_safetensors_head(file: BinaryIO, tensors: Mapping[str, TensorType], metadata: dict[str, str]) -> list[str]:
    """Write what comes before the numbers.

    Args:
        file: Where.
        tensors: All that will follow.
        metadata: What the file says of itself.

    Returns:
        The names in the order in which their numbers must follow: aligned, as the format asks.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    names = sorted(tensors, key=lambda name: (-tensors[name].item_size, name))
    for name in names:
        start, end = end, end + math.prod(tensors[name].shape) * tensors[name].item_size
        header[name] = {"dtype": tensors[name].name, "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return names
