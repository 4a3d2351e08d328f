"""From a file or a dictionary to the tensors of one network: which part of a checkpoint is meant."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddlevit.weights.arrays import LazyArray, from_numpy
from paddlevit.weights.readers import flatten, open_weights

_EMA_PARTS = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "teacher")
_PARTS = ("model", "state_dict", "model_state_dict", "module", "network", "net", "params", "student")
_DEEPEST = 4
_STACKED, _MOST_LAYERS = "Transformer/encoderblock/", 1000


@dataclass
class Source:
    """The tensors of one network, and where they come from."""

    title: str
    """For messages: the file's path, or `state`."""
    arrays: dict[str, LazyArray]
    """By the names in the file."""
    paddle: bool = False
    """Whether Paddle wrote it, so that linear weights are probably [in, out]."""
    notes: list[str] = field(default_factory=list)
    """Which part of the file was taken."""
    grid: tuple[int, int] | None = None
    """Rows and columns of patches, when the file says so."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What a safetensors file says of itself."""


def open_source(source: str | Path | Mapping[str, Any], ema: bool | None = None) -> Source:
    """Find the network's tensors in a file or a dictionary.

    Args:
        source: A path, or names with arrays, tensors or further dictionaries.
        ema: See `load_weights`.

    Raises:
        ValueError: Unreadable, without tensors, or with several networks of which none is meant.
    """
    if isinstance(source, Mapping):
        tree, title, wrote_paddle, metadata = _lazy_tree(source), "state", False, {}
        if not _count(tree):
            kinds = ", ".join(sorted({type(value).__name__ for value in source.values()})) or "nothing"
            raise ValueError(f"state holds no tensors, only {kinds}; give arrays, tensors or dictionaries of them.")
        wrote_paddle = any(isinstance(value, paddle.Tensor) for value in source.values())
    else:
        file = open_weights(source)
        tree, title, metadata = file.tree, str(file.path), file.metadata
        wrote_paddle = file.kind == "paddle" or "meta" in metadata
    if ema is None:
        ema = "meta" not in metadata
    notes: list[str] = []
    arrays = _unstack(_unwrap(tree, title, ema, notes))
    found = Source(title, arrays, wrote_paddle, notes, metadata=metadata)
    found.grid = _own_grid(found)
    return found


def _lazy_tree(state: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in state.items():
        if isinstance(value, Mapping) and depth < _DEEPEST:
            tree[str(name)] = _lazy_tree(value, depth + 1)
        elif isinstance(value, paddle.Tensor):
            tree[str(name)] = from_tensor(value)
        elif isinstance(value, (np.ndarray, np.generic)):
            tree[str(name)] = from_numpy(np.asarray(value))
        elif isinstance(value, LazyArray):
            tree[str(name)] = value
        elif hasattr(value, "__array__"):
            tree[str(name)] = from_numpy(_to_numpy(str(name), value))
    return tree


def _to_numpy(name: str, value: Any) -> np.ndarray:
    """A tensor of another library, such as torch or JAX."""
    try:
        return np.asarray(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = f"{type(value).__module__}.{type(value).__name__}"
        raise ValueError(f"{name} is a {kind} that cannot become an array: {error}") from error


def from_tensor(tensor: paddle.Tensor) -> LazyArray:
    """A tensor in Paddle's memory, copied out when it is read; bfloat16 as float32."""
    stored = str(tensor.dtype).rsplit(".", 1)[-1]

    def fetch() -> np.ndarray:
        return (tensor.astype("float32") if stored == "bfloat16" else tensor).numpy()

    return LazyArray(tuple(tensor.shape), stored, fetch)


def _unwrap(tree: dict[str, Any], title: str, ema: bool, notes: list[str]) -> dict[str, LazyArray]:
    """The tensors of the dictionary that holds the network."""
    for _ in range(_DEEPEST):
        direct = flatten(tree)
        inner = {name: value for name, value in tree.items() if isinstance(value, dict) and _count(value)}
        if direct and len(direct) >= max(map(_count, inner.values()), default=0):
            return direct
        if not inner:
            break
        name = _choose(inner, title, ema)
        others = [other for other in inner if other != name and other in (*_EMA_PARTS, *_PARTS)]
        notes.append(f"took {name!r}" + (f", not {', '.join(map(repr, others))}" if others else ""))
        tree = inner[name]
    raise ValueError(f"{title} holds no tensors.")


def _unstack(arrays: dict[str, LazyArray]) -> dict[str, LazyArray]:
    """big_vision may keep equal layers in one tensor with the layer as its first axis: one tensor for each."""
    separate: dict[str, LazyArray] = {}
    for name, array in arrays.items():
        if _STACKED in name and array.shape and array.shape[0] <= _MOST_LAYERS:
            before, _, after = name.partition(_STACKED)
            for i in range(array.shape[0]):
                separate[f"{before}{_STACKED[:-1]}_{i}/{after}"] = array.part(i)
        else:
            separate[name] = array
    return separate


def _count(tree: Mapping[str, Any], depth: int = 0) -> int:
    """Number of tensors in a dictionary and those inside it."""
    inner = (_count(value, depth + 1) for value in tree.values() if isinstance(value, dict) and depth < _DEEPEST)
    return len(flatten(dict(tree))) + sum(inner)


def _choose(inner: Mapping[str, Any], title: str, ema: bool) -> str:
    wanted = (*_EMA_PARTS, *_PARTS) if ema else (*_PARTS, *_EMA_PARTS)
    for name in wanted:
        if name in inner:
            return name
    if len(inner) == 1:
        return next(iter(inner))
    raise ValueError(f"{title} holds several dictionaries of tensors, {', '.join(inner)}; pass the one that is meant.")


def own_meta(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What a checkpoint of ours says of its network; empty for other files."""
    try:
        meta = json.loads(metadata.get("meta", "{}"))
    except ValueError:
        return {}
    return meta if isinstance(meta, dict) else {}


def _own_grid(source: Source) -> tuple[int, int] | None:
    """Rows and columns of patches of a checkpoint of ours, from its picture size and its patch projection."""
    preprocessing = own_meta(source.metadata).get("preprocessing")
    size = preprocessing.get("image_size") if isinstance(preprocessing, dict) else None
    weight = source.arrays.get("patch_embedding.patch_embedding.weight")
    if not isinstance(size, list) or len(size) != 2 or weight is None or len(weight.shape) != 4:
        return None
    if not all(type(side) is int for side in size) or 0 in weight.shape:
        return None
    return size[0] // weight.shape[2], size[1] // weight.shape[3]
