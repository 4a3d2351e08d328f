"""Writing weights: for our loader, or under the names of timm or Hugging Face so that those libraries load them."""

from __future__ import annotations

import fnmatch
import math
import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from paddle import nn

from paddlevit.errors import check_choice
from paddlevit.models.vit import Attention
from paddlevit.weights.arrays import BFLOAT16, LazyArray, contiguous
from paddlevit.weights.dialects import (
    Dialect,
    Family,
    Match,
    class_rows,
    detect,
    find_family,
    linear_layout,
    reason_to_ignore,
    rename,
    to_ours,
    to_theirs,
    whole_shape,
)
from paddlevit.weights.files import TensorType, whole_file, write_safetensors_head
from paddlevit.weights.load import Weights
from paddlevit.weights.readers import SAFETENSORS_TYPES
from paddlevit.weights.report import LoadReport, shorten
from paddlevit.weights.source import Source, from_tensor, open_source, own_meta

TARGETS = ("paddlevit", "timm", "hf")
_TYPE_NAMES = {stored: name for name, stored in SAFETENSORS_TYPES.items()}
_HF_PREFIXES = {"Hugging Face ViT": "vit.", "Hugging Face DeiT": "deit.", "Hugging Face Swin": "swin."}
_POSITIONS = "patch_embedding.position_embedding"
_CLASS_TOKEN = "patch_embedding.class_token"
_REGISTERS = "patch_embedding.register_tokens"
_SCALE = "encoder.layers.0.attn_scale.gamma"


def save_weights(model: nn.Layer, path: str | Path, to: str = "paddlevit") -> None:
    """Write a model's weights; the file is either whole or not there.

    Args:
        model: One of our models.
        path: `.safetensors`, or `.pdparams` for `paddlevit`.
        to: Whose names: `paddlevit`, `timm` or `hf` (Hugging Face transformers).

    Raises:
        ValueError: The other library has no such network, or an unknown suffix.
    """
    check_choice("to", to, TARGETS)
    arrays = {name: from_tensor(tensor) for name, tensor in model.state_dict().items()}
    if to != "paddlevit":
        family = find_family(arrays)
        if family is None:
            raise ValueError(f"{type(model).__name__} is a network of its own; its weights have only its own names.")
        for layer in model.sublayers():
            if isinstance(layer, Attention) and layer.scales != layer.head_dim**-0.5:
                raise _no_such(to, f"qk_scale={layer.scales}")
        embedding: Any = getattr(model, "patch_embedding", None)
        positions, rows = getattr(embedding, "position_embedding", None), None
        if positions is not None:
            arrays[_POSITIONS] = from_tensor(positions)  # fixed ones are no part of the state
            rows = positions.shape[1] - embedding.grid_size[0] * embedding.grid_size[1]
        arrays = _translate(arrays, family, to, rows)
    _write(Path(path), arrays, to)


def convert(
    source: Weights, path: str | Path, to: str, ema: bool | None = None, allow_unused: Iterable[str] = ()
) -> LoadReport:
    """Write the weights of any file that `load_weights` reads under other names.

    Args:
        source: A file, a folder or a dictionary of arrays.
        path: `.safetensors`, or `.pdparams` for `paddlevit`.
        to: Whose names: `paddlevit`, `timm` or `hf`.
        ema: See `load_weights`.
        allow_unused: Patterns of names in the file that may be left out.

    Returns:
        What was written and what was left out.

    Raises:
        ValueError: Unreadable, of no known network, with unexplained names, or nothing that the other library has.
    """
    check_choice("to", to, TARGETS)
    opened = open_source(source, ema)
    match = detect(opened.arrays)
    if match is None:
        names = shorten(sorted(opened.arrays))
        raise ValueError(f"{opened.title} names its tensors in no known way ({names}).")
    report = LoadReport(opened.title, f"{path} ({to} names)", match.dialect.title, notes=opened.notes)
    unknown = []
    for name in match.unknown:
        allowed = any(fnmatch.fnmatch(name, pattern) for pattern in allow_unused)
        reason = "allowed" if allowed else reason_to_ignore(name)
        if reason is None and match.prefix and match.prefix not in name:
            reason = f"outside of {match.prefix!r}"
        if reason is None:
            unknown.append(name)
        else:
            report.left_out[name] = reason
    if unknown:
        raise ValueError(
            f"{opened.title} ({match.dialect.title} names) holds what is no weight of a {match.family.title}:"
            f" {shorten(unknown)}. Leave it out by allow_unused."
        )
    out_in = linear_layout(match, opened.arrays, opened.paddle)

    def lazy(ours: str) -> LazyArray:
        entry, parts = match.rows[ours], [opened.arrays[name] for name in match.sources[ours]]
        shape = whole_shape(entry, [part.shape for part in parts], out_in, match.dialect.jax)
        return LazyArray(
            shape, parts[0].stored, lambda: to_ours(entry, [p.read() for p in parts], out_in, match.dialect.jax)
        )

    arrays = {ours: lazy(ours) for ours in match.sources}
    if to != "paddlevit":
        options = own_meta(opened.metadata).get("model_options")
        if isinstance(options, dict) and options.get("qk_scale") is not None:
            raise _no_such(to, f"qk_scale={options['qk_scale']}")
        arrays = _translate(arrays, match.family, to, _class_rows(match, opened, arrays, to))
    _write(Path(path), arrays, to)
    report.loaded = list(arrays)
    return report


# Names


def _translate(arrays: Mapping[str, LazyArray], family: Family, to: str, rows: int | None) -> dict[str, LazyArray]:
    """Our names and layouts to theirs; `rows` is the number of positions before those of the patches."""
    if family.title == "Vision Transformer":
        _check_parts(arrays, to)
    arrays = _fit_class_position(dict(arrays), to, rows)
    dialect = _dialect(family, to, arrays)
    with_head = any(_kind(family, name) == "head" for name in arrays)
    prefix = _HF_PREFIXES.get(dialect.title, "") if with_head else ""
    translated: dict[str, LazyArray] = {}
    for ours, array in arrays.items():
        renamed = rename(dialect, ours, family.own)
        if renamed is None:
            raise ValueError(f"{dialect.title} has nothing for {ours}, so this network cannot be written for it.")
        entries, names = renamed
        for number, name in enumerate(names):
            full = name if entries[0].kind == "head" else prefix + name
            translated[full] = _part(array, entries, number)
    if dialect.title == "Hugging Face DINOv2":
        dim = arrays[_CLASS_TOKEN].shape[2]  # transformers expects one; it is used only in pre-training
        translated["embeddings.mask_token"] = LazyArray((1, dim), "float32", lambda: np.zeros((1, dim), np.float32))
    return translated


def _kind(family: Family, name: str) -> str | None:
    found = family.own.match(name)
    return None if found is None else found[1].kind


def _part(array: LazyArray, entries: list[Any], number: int) -> LazyArray:
    shape = list(array.shape)
    if len(entries) > 1:
        shape[-1] //= len(entries)
    if entries[0].kind in ("linear", "head") and entries[0].ours.endswith(".weight"):
        shape.reverse()
    return LazyArray(tuple(shape), array.stored, lambda: to_theirs(entries, array.read())[number])


def _dialect(family: Family, to: str, arrays: Mapping[str, LazyArray]) -> Dialect:
    """The dialect of `to` that fits the parts of this network."""
    by_title: dict[str, Dialect] = {}
    for dialect in family.dialects:
        by_title.setdefault(dialect.title, dialect)
    title = "timm" if to == "timm" else f"Hugging Face {_hf_network(family, arrays)}"
    if title not in by_title:
        raise ValueError(f"There are no {to} names for a {family.title}; --to paddlevit works.")
    swiglu = to == "hf" and _is_swiglu(arrays)
    same = [dialect for dialect in family.dialects if dialect.title == title]
    return same[1] if swiglu and title == "Hugging Face DINOv2" else same[0]


def _hf_network(family: Family, arrays: Mapping[str, LazyArray]) -> str:
    windows = sorted({(math.isqrt(one.shape[0]) + 1) // 2 for name, one in arrays.items() if name.endswith("_table")})
    if len(windows) > 1:
        raise ValueError(
            "Hugging Face's Swin has windows of one size in all stages and this one has windows of"
            f" {' and '.join(map(str, windows))}; it cannot be written for it."
        )
    if family.title != "Vision Transformer":
        return "Swin" if family.title == "Swin Transformer" else family.title
    if _CLASS_TOKEN not in arrays:
        raise ValueError(
            "Hugging Face's networks have a class token and this one has none; it cannot be written for them."
        )
    if "patch_embedding.distillation_token" in arrays:
        return "DeiT"
    if _SCALE not in arrays:
        return "ViT"
    if "classifier.weight" in arrays:
        raise ValueError(
            "Hugging Face's DINOv2 classifies class token and mean together, so this classifier has no place there;"
            " write the network without it (num_classes=0)."
        )
    return "DINOv2"


def _is_swiglu(arrays: Mapping[str, LazyArray]) -> bool:
    first, second = (arrays.get(f"encoder.layers.0.mlp.fc{n}.weight") for n in (1, 2))
    return first is not None and second is not None and first.shape[1] == 2 * second.shape[0]


def _check_parts(arrays: Mapping[str, LazyArray], to: str) -> None:
    """Refuse a Vision Transformer with parts of ours that nobody else has."""
    if not {"encoder.norm.weight", "fc_norm.weight"} & set(arrays):
        raise _no_such(to, "norm_order='post' (it has no last norm)")
    if _POSITIONS not in arrays:
        raise _no_such(to, "position='none' or 'sinusoidal' (it has no positions)")
    positions, norm = arrays[_POSITIONS].shape, arrays.get("encoder.layers.0.attn_norm.weight")
    if len(positions) != 3 or (norm is not None and positions[2] != norm.size):
        raise _no_such(to, f"position_merge='concat' (its positions are {list(positions)})")


def _no_such(to: str, what: str) -> ValueError:
    return ValueError(f"There is no {to} network with {what}, so this one cannot be written for it; use paddlevit.")


def _class_rows(match: Match, opened: Source, arrays: Mapping[str, LazyArray], to: str) -> int | None:
    """How many positions a file has before those of the patches; None when that does not matter.

    Raises:
        ValueError: Nothing tells.
    """
    positions = arrays.get(_POSITIONS)
    # Only registers and, for Hugging Face, LayerScale go with other positions; a plain ViT is the same everywhere.
    if positions is None or (_REGISTERS not in arrays and (to == "timm" or _SCALE not in arrays)):
        return None
    rows, count = class_rows(match), positions.shape[1]
    if rows is None and opened.grid is not None:
        rows = count - opened.grid[0] * opened.grid[1]
    for guess in (0, 1):
        if rows is None and math.isqrt(count - guess) ** 2 == count - guess:
            rows = guess
    if rows is None:
        raise ValueError(
            f"{opened.title} does not tell whether the first of its {count} positions is the class token's: load it"
            " into its model and use save_weights."
        )
    return rows


def _fit_class_position(arrays: dict[str, LazyArray], to: str, rows: int | None) -> dict[str, LazyArray]:
    """With or without a position for the class token, as the other library has it; both give the same tokens.

    timm's networks with registers have none, all of transformers' have one.
    """
    positions, token = arrays.get(_POSITIONS), arrays.get(_CLASS_TOKEN)
    if positions is None or token is None:
        return arrays
    count, dim = positions.shape[1:]
    if to == "hf" and rows == 0:
        arrays[_POSITIONS] = LazyArray(
            (1, count + 1, dim),
            positions.stored,
            lambda: np.pad(positions.read(), ((0, 0), (1, 0), (0, 0))),
        )
    elif to == "timm" and rows == 1 and _REGISTERS in arrays:
        arrays[_POSITIONS] = LazyArray((1, count - 1, dim), positions.stored, lambda: positions.read()[:, 1:])
        arrays[_CLASS_TOKEN] = LazyArray(
            token.shape, token.stored, lambda: token.read() + positions.read()[:, :1].astype(np.float32)
        )
    return arrays


# Files


def _write(path: Path, arrays: Mapping[str, LazyArray], to: str) -> None:
    writers: dict[str, Callable[[BinaryIO, Mapping[str, LazyArray], str], None]] = {".safetensors": _write_safetensors}
    if to == "paddlevit":
        writers[".pdparams"] = _write_pdparams
    check_choice("the suffix of the output", path.suffix, writers)
    with whole_file(path) as file:
        writers[path.suffix](file, arrays, to)


def _write_safetensors(file: BinaryIO, arrays: Mapping[str, LazyArray], to: str) -> None:
    kinds = {name: TensorType(_TYPE_NAMES[one.stored], _item_size(one), one.shape) for name, one in arrays.items()}
    for name in write_safetensors_head(file, kinds, {"format": "paddle" if to == "paddlevit" else "pt"}):
        file.write(_stored_values(arrays[name]).data)


def _item_size(array: LazyArray) -> int:
    return 2 if array.stored == BFLOAT16 else np.dtype(array.stored).itemsize


def _stored_values(array: LazyArray) -> np.ndarray:
    """The values in the type that they were stored in; bfloat16 as its bit pattern."""
    values = contiguous(array.read())
    if array.stored == BFLOAT16:
        return (values.reshape(-1).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(array.stored, copy=False).reshape(-1)


def _write_pdparams(file: BinaryIO, arrays: Mapping[str, LazyArray], _: str) -> None:
    pickle.dump({name: contiguous(array.read()) for name, array in arrays.items()}, file, protocol=4)
