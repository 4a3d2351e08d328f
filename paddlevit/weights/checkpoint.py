"""Our own checkpoints: one safetensors file that holds tensors and says what they are.

No pickle: reading one never runs code. The metadata carries how the model is built, its classes and its
preprocessing, so that a checkpoint is all that evaluation, prediction and export need.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from paddlevit.weights.files import TensorType, whole_file, write_safetensors_head

FORMAT = "paddlevit-checkpoint-1"
SUFFIX = ".safetensors"


@dataclass
class Checkpoint:
    """What one file holds."""

    model: dict[str, np.ndarray]
    """The network's parameters and buffers by their names in the network."""
    meta: dict[str, Any]
    """model_name, model_options, class_names, preprocessing, and what else JSON can say of the run."""
    ema: dict[str, np.ndarray] = field(default_factory=dict)
    """The averaged network, when training kept one."""
    optimizer: dict[str, np.ndarray] = field(default_factory=dict)
    """Optimizer state as `parameter name/accumulator`."""


_PARTS = ("model", "ema", "optimizer")
_TYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "bool": "BOOL"}


def write_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a file that is either whole or not there; equal checkpoints give equal bytes.

    Args:
        path: Where; an older file is replaced.
        checkpoint: What.

    Raises:
        OSError: The disk is full or the folder cannot be written; an older file of that name is untouched.
    """
    tensors = {
        f"{part}/{name}": np.ascontiguousarray(array).reshape(array.shape)
        for part in _PARTS
        for name, array in getattr(checkpoint, part).items()
    }
    metadata = {"format": FORMAT, "meta": json.dumps(checkpoint.meta), "crc32": str(_checksum(tensors))}
    kinds = {name: TensorType(_TYPES[one.dtype.name], one.itemsize, one.shape) for name, one in tensors.items()}
    with whole_file(path) as file:
        for name in write_safetensors_head(file, kinds, metadata):
            file.write(tensors[name].reshape(-1).view(np.uint8).data)


def read_checkpoint(path: str | Path, parts: Iterable[str] = _PARTS) -> Checkpoint:
    """Read a file that `write_checkpoint` made.

    Args:
        path: The file.
        parts: Which of model, ema and optimizer to read; the checksum is verified only when all are.

    Raises:
        ValueError: Not such a file, truncated, or altered since it was written.
    """
    path, parts = Path(path), tuple(parts)
    if not path.is_file():
        raise ValueError(f"There is no checkpoint {str(path)!r}.")
    tensors: dict[str, np.ndarray] = {}
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if name.startswith(tuple(f"{part}/" for part in parts)):
                    tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a whole checkpoint ({error}).") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} holds weights, but was not written by paddlevit's training.")
    if set(parts) == set(_PARTS) and str(_checksum(tensors)) != metadata.get("crc32"):
        raise ValueError(f"{path} is damaged: its contents do not match its checksum.")
    split: dict[str, dict[str, np.ndarray]] = {part: {} for part in _PARTS}
    for name, array in tensors.items():
        part, _, rest = name.partition("/")
        split[part][rest] = array
    return Checkpoint(meta=json.loads(metadata["meta"]), **split)


def _checksum(tensors: dict[str, np.ndarray]) -> int:
    total = 0
    for name in sorted(tensors):
        content = np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8)
        total = zlib.crc32(content.data, zlib.crc32(name.encode(), total))
    return total
