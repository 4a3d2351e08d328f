"""Recognising whose names a file uses, and translating tensors between dialects by the tables of `tables`."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from paddlevit.weights import tables
from paddlevit.weights.arrays import LazyArray

LAYERS = ("patch", "linear", "head", "norm")  # kinds with weight and bias
LINEAR = ("linear", "head")
_NUMBER = re.compile(r"\{i\+1\}|\{i\}|\{j\}|\d+")
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Entry:
    """One row of a dialect: a tensor of ours, or a part of it, and what they call it."""

    ours: str
    kind: str
    theirs: str
    part: int = 0
    parts: int = 1

    @cached_property
    def numbers(self) -> list[str]:
        """What stands for each number in `theirs`."""
        return _NUMBER.findall(self.theirs)

    def bind(self, digits: list[str]) -> str | None:
        """Our name when the numbers of a name of theirs are `digits`; None when they do not fit."""
        bound: dict[str, str] = {}
        for expected, given in zip(self.numbers, digits):
            if expected[0] != "{":
                if expected != given:
                    return None
                continue
            if expected == "{i+1}":
                expected, given = "{i}", str(int(given) - 1)
            if given.startswith("-") or bound.setdefault(expected, given) != given:
                return None
        return _fill(self.ours, bound)


def _fill(template: str, bound: Mapping[str, str]) -> str:
    for placeholder, value in bound.items():
        template = template.replace(placeholder, value)
    if "{i+1}" in template:
        template = template.replace("{i+1}", str(int(bound["{i}"]) + 1))
    return template


@dataclass(frozen=True)
class Dialect:
    """How one library names the parameters of one family."""

    title: str
    """For messages."""
    kinds: Mapping[str, str]
    """Our names and their kinds."""
    names: tables.Names
    """Our names and theirs."""
    jax: bool = False
    """Flax names and layouts: kernel and scale, [height, width, in, out], heads apart."""
    paddle: bool = False
    """Linear weights are [in, out] unless the shapes say otherwise."""
    prefixes: tuple[str, ...] = ()
    """What may stand before a name."""

    @cached_property
    def entries(self) -> list[Entry]:
        """All rows, one for each tensor."""
        rows = []
        for ours, theirs in self.names.items():
            parts = (theirs,) if isinstance(theirs, str) else theirs
            kind = self.kinds[ours]
            for leaf, their_leaf in self._leaves(kind):
                for number, part in enumerate(parts):
                    rows.append(Entry(ours + leaf, kind, part + their_leaf, number, len(parts)))
        return rows

    def _leaves(self, kind: str) -> tuple[tuple[str, str], ...]:
        if kind not in LAYERS:
            return (("", ""),)
        if not self.jax:
            return (".weight", ".weight"), (".bias", ".bias")
        return (".weight", "/scale" if kind == "norm" else "/kernel"), (".bias", "/bias")

    @cached_property
    def _index(self) -> dict[str, list[Entry]]:
        index: dict[str, list[Entry]] = {}
        for entry in self.entries:
            index.setdefault(_NUMBER.sub("#", entry.theirs), []).append(entry)
        return index

    def match(self, name: str) -> tuple[str, Entry] | None:
        """Our name of the tensor that they call `name`, and the row that says so; None when there is none."""
        for prefix in self.prefixes:
            name = name[len(prefix) :] if name.startswith(prefix) else name
        for entry in self._index.get(_DIGITS.sub("#", name), ()):
            ours = entry.bind(_DIGITS.findall(name))
            if ours is not None:
                return ours, entry
        return None


@dataclass(frozen=True)
class Family:
    """Networks whose parameters have the same names."""

    title: str
    """For messages."""
    dialects: tuple[Dialect, ...]
    """All that are known; the first one is ours."""
    computed: tuple[str, ...] = ()
    """Our names of fixed values that a network computes by itself; files may lack them."""

    @property
    def own(self) -> Dialect:
        """Our names."""
        return self.dialects[0]


def _own(kinds: Mapping[str, str]) -> tables.Names:
    return {name: name for name in kinds}


_HF_PREFIXES = ("vit.", "deit.", "dinov2.", "dinov2_with_registers.")
_VIT_DIALECTS = [
    ("paddlevit", _own(tables.VIT), dict(paddle=True)),
    ("timm", tables.VIT_TIMM, {}),
    ("DeiT III", tables.VIT_DEIT3, {}),
    ("DINOv2", tables.VIT_DINOV2, {}),
    ("DINOv2", tables.VIT_DINOV2_SWIGLU, {}),
    ("PaddleViT", tables.VIT_PADDLEVIT, dict(paddle=True)),
    ("PaddleViT", tables.VIT_PADDLEVIT_MAE, dict(paddle=True)),
    ("Hugging Face ViT", tables.VIT_HF, dict(prefixes=_HF_PREFIXES)),
    ("Hugging Face DeiT", tables.DEIT_HF, dict(prefixes=_HF_PREFIXES)),
    ("Hugging Face DINOv2", tables.DINOV2_HF, dict(prefixes=_HF_PREFIXES)),
    ("Hugging Face DINOv2", tables.DINOV2_HF_SWIGLU, dict(prefixes=_HF_PREFIXES)),
    ("Hugging Face ViT", tables.VIT_HF_MEMORY, dict(prefixes=_HF_PREFIXES)),
    ("Hugging Face DeiT", tables.DEIT_HF_MEMORY, dict(prefixes=_HF_PREFIXES)),
    ("Hugging Face DINOv2", tables.DINOV2_HF_MEMORY, dict(prefixes=_HF_PREFIXES)),
    ("Hugging Face DINOv2", tables.DINOV2_HF_MEMORY_SWIGLU, dict(prefixes=_HF_PREFIXES)),
    ("JAX vision_transformer", tables.VIT_JAX, dict(jax=True)),
    ("JAX big_vision", tables.VIT_BIG_VISION, dict(jax=True)),
]


def _family(
    title: str,
    kinds: Mapping[str, str],
    dialects: Iterable[tuple[str, tables.Names, Any]],
    computed: tuple[str, ...] = (),
) -> Family:
    return Family(title, tuple(Dialect(name, kinds, names, **options) for name, names, options in dialects), computed)


FAMILIES = (
    _family("Vision Transformer", tables.VIT, _VIT_DIALECTS),
    _family(
        "Swin Transformer",
        tables.SWIN,
        [
            ("Microsoft Swin", _own(tables.SWIN), {}),
            ("timm", tables.SWIN_TIMM, {}),
            ("PaddleViT", tables.SWIN_PADDLEVIT, dict(paddle=True)),
            ("Hugging Face Swin", tables.SWIN_HF, dict(prefixes=("swin.",))),
            ("Hugging Face Swin", tables.SWIN_HF_MEMORY, dict(prefixes=("swin.",))),
        ],
    ),
    _family(
        "Swin Transformer V2",
        tables.SWIN_V2,
        [("Microsoft Swin V2", _own(tables.SWIN_V2), {}), ("timm", tables.SWIN_V2_TIMM, {})],
    ),
    _family(
        "T2T-ViT",
        tables.T2T,
        [("official T2T-ViT", _own(tables.T2T), {}), ("PaddleViT", tables.T2T_PADDLEVIT, dict(paddle=True))],
        computed=("pos_embed",),
    ),
)

# What training wraps around a network's names. Nothing outside such a prefix belongs to the network.
PREFIXES = (
    "",
    "model.",
    "backbone.",
    "encoder.",
    "base_encoder.",
    "network.",
    "net.",
    "visual.trunk.",
    "teacher.backbone.",
    "student.backbone.",
    "opt/target/",
    "params/",
    "params/img/",
    "target/",
)
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass
class Match:
    """A file's names, understood."""

    family: Family
    """Whose parameters they are."""
    dialect: Dialect
    """Whose names they are."""
    prefix: str
    """What stood before every one of them."""
    sources: dict[str, list[str]]
    """Our names, each with the file's names of its parts in order."""
    rows: dict[str, Entry]
    """Our names, each with the row of the dialect that it matched."""
    unknown: list[str] = field(default_factory=list)
    """Names in the file that the dialect does not have."""


def _strip(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def strip_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Each name without `module.` and `_orig_mod.`, to the name in the file.

    Raises:
        ValueError: Two names are one then.
    """
    return _once((_strip(name), name) for name in names)


def _once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Short names to names in the file; ValueError when two share one."""
    found: dict[str, str] = {}
    for short, name in pairs:
        if found.setdefault(short, name) != name:
            raise ValueError(f"The file holds {short} twice, as {found[short]} and as {name}; leave one of them out.")
    return found


def detect(names: Iterable[str], families: Iterable[Family] = FAMILIES) -> Match | None:
    """Find the dialect that knows most of a file's names.

    Args:
        names: The names in the file.
        families: Which networks they may belong to.

    Returns:
        The best match; None when no name is known to any dialect.

    Raises:
        ValueError: A tensor of which only some parts are there, for example queries without keys, or one that is there
            twice.
    """
    stripped = strip_wrappers(names)
    best: tuple[int, Family, Dialect, str, dict[str, str]] | None = None
    for candidates in (stripped, *_unchunked(stripped)):
        for prefix in PREFIXES:
            shorter = _once(
                (_strip(short[len(prefix) :]), name) for short, name in candidates.items() if short.startswith(prefix)
            )
            for family in families if shorter else ():
                dialect, score = _best_dialect(family, shorter)
                if score > (best[0] if best else 0):
                    best = score, family, dialect, prefix, shorter
    if best is None:
        return None
    _, family, dialect, prefix, shorter = best
    match = Match(family, dialect, prefix, {}, {}, sorted(set(stripped.values()) - set(shorter.values())))
    for short, name in shorter.items():
        found = dialect.match(short)
        if found is None:
            match.unknown.append(name)
            continue
        ours, entry = found
        match.rows[ours] = entry
        parts = match.sources.setdefault(ours, [""] * entry.parts)
        _once([(ours, parts[entry.part] or name), (ours, name)])
        parts[entry.part] = name
    for ours, parts in match.sources.items():
        if "" in parts:
            raise ValueError(
                f"Of {ours} the file holds only {', '.join(filter(None, parts))}; {len(parts)} tensors make one."
            )
    return match


def _unchunked(names: Mapping[str, str]) -> list[dict[str, str]]:
    """Official DINOv2 files may keep their blocks in chunks: blocks.0.11.norm1 is block 11."""
    joined = {re.sub(r"\bblocks\.\d+\.(\d+)\.", r"blocks.\1.", short): name for short, name in names.items()}
    # Numbers that come again are no chunks but another network's.
    return [joined] if set(joined) != set(names) and len(joined) == len(names) else []


def _best_dialect(family: Family, names: Iterable[str]) -> tuple[Dialect, int]:
    """The dialect of a family that knows most names, and how many."""
    scores = [sum(dialect.match(name) is not None for name in names) for dialect in family.dialects]
    best = int(np.argmax(scores))
    for number, dialect in enumerate(family.dialects):
        # Without a classifier, timm's Swin has Microsoft's names but no merging 0, which all files of Microsoft have.
        if dialect.title == "timm" and scores[number] == scores[best] and any(".downsample." in name for name in names):
            best = number
    return family.dialects[best], scores[best]


def class_rows(match: Match) -> int | None:
    """How many positions a file of a Vision Transformer has before those of the patches; None: only its size tells."""
    tokens = sum(f"patch_embedding.{token}_token" in match.sources for token in ("class", "distillation"))
    if match.dialect.title.startswith("Hugging Face") or match.dialect.title == "DINOv2":
        return tokens
    registers = match.dialect.title == "timm" and "patch_embedding.register_tokens" in match.sources
    return 0 if registers or match.dialect.title == "DeiT III" else None


def linear_layout(match: Match, arrays: Mapping[str, LazyArray], paddle: bool) -> bool:
    """Whether linear weights lie as [out, in], as torch keeps them; the shapes of layers with a bias tell.

    Args:
        match: The understood names.
        arrays: The file's tensors.
        paddle: What a Paddle file or dialect suggests when no shape tells.

    Raises:
        ValueError: Some layers say one thing, some the other.
    """
    if match.dialect.jax:
        return False
    votes = {True: "", False: ""}
    for ours, (name, *_) in match.sources.items():
        bias = match.sources.get(ours[: -len("weight")] + "bias")
        if match.rows[ours].kind not in LINEAR or not ours.endswith(".weight") or bias is None:
            continue
        shape, outputs = arrays[name].shape, arrays[bias[0]].size
        if len(shape) == 2 and shape[0] != shape[1] and outputs in shape:
            votes[outputs == shape[0]] = name
    if votes[True] and votes[False]:
        raise ValueError(
            f"The file mixes layouts: {votes[True]} is [outputs, inputs] and {votes[False]} is [inputs, outputs]."
        )
    return bool(votes[True]) if any(votes.values()) else not (paddle or match.dialect.paddle)


# Translating one tensor


def part_shape(entry: Entry, shape: tuple[int, ...], out_in: bool, jax: bool) -> tuple[int, ...]:
    """Shape of one of their tensors once it lies as ours do."""
    weight = entry.ours.endswith(".weight")
    if jax and entry.kind in LINEAR and weight and len(shape) == 3:
        side = _square_side(shape, entry.theirs)
        return side, side
    if jax and entry.kind == "linear" and not weight and len(shape) == 2:
        return (shape[0] * shape[1],)
    if jax and entry.kind == "patch" and weight and len(shape) == 4:
        return shape[3], shape[2], shape[0], shape[1]
    if entry.kind in LINEAR and weight and out_in and len(shape) == 2:
        return shape[1], shape[0]
    return tuple(shape)


def _square_side(shape: tuple[int, ...], name: str) -> int:
    # Heads lie apart, [D, h, d] or [h, d, D]; either is D x D in the same order.
    size = shape[0] * shape[1] * shape[2]
    side = shape[0] if shape[0] ** 2 == size else shape[2]
    if side**2 != size:
        raise ValueError(f"{name} has shape {list(shape)}, which is no square projection of heads.")
    return side


def whole_shape(entry: Entry, shapes: list[tuple[int, ...]], out_in: bool, jax: bool) -> tuple[int, ...]:
    """Shape of our tensor made of all parts; ValueError when they do not fit together."""
    ours = [part_shape(entry, shape, out_in, jax) for shape in shapes]
    if any(shape[:-1] != ours[0][:-1] or not shape for shape in ours[1:]):
        raise ValueError(f"The parts of {entry.ours} have shapes {', '.join(str(list(s)) for s in shapes)}.")
    return ours[0] if len(ours) == 1 else (*ours[0][:-1], sum(shape[-1] for shape in ours))


def to_ours(entry: Entry, arrays: list[np.ndarray], out_in: bool, jax: bool) -> np.ndarray:
    """Our tensor, made of theirs."""
    weight = entry.ours.endswith(".weight")
    parts = []
    for array in arrays:
        if jax and entry.kind == "patch" and weight and array.ndim == 4:
            parts.append(array.transpose(3, 2, 0, 1))
        elif entry.kind in LINEAR and weight and out_in and array.ndim == 2:
            parts.append(array.T)
        else:
            parts.append(array.reshape(part_shape(entry, array.shape, out_in, jax)))
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def to_theirs(entries: list[Entry], array: np.ndarray) -> list[np.ndarray]:
    """Their tensors, made of ours: split along the outputs, [out, in] for linear weights."""
    parts = np.split(array, len(entries), axis=-1) if len(entries) > 1 else [array]
    if entries[0].kind in LINEAR and entries[0].ours.endswith(".weight"):
        return [part.T for part in parts]
    return parts


def rename(dialect: Dialect, ours: str, own: Dialect) -> tuple[list[Entry], list[str]] | None:
    """The rows and names under which `dialect` keeps the tensor that is `ours`; None when it has no such tensor."""
    found = own.match(ours)
    if found is None:
        return None
    _, row = found
    bound = {slot: digits for slot, digits in zip(row.numbers, _DIGITS.findall(ours)) if slot[0] == "{"}
    entries = [entry for entry in dialect.entries if entry.ours == row.ours]
    return (entries, [_fill(entry.theirs, bound) for entry in entries]) if entries else None


def find_family(names: Iterable[str]) -> Family | None:
    """The family whose own names are those of a network; None when they are of no known one."""
    names = list(names)
    scores = [sum(family.own.match(name) is not None for name in names) for family in FAMILIES]
    best = int(np.argmax(scores))
    return FAMILIES[best] if 2 * scores[best] > len(names) else None


def reason_to_ignore(name: str) -> str | None:
    """Why a name in a file is known to be no weight of the network; None when it is not known."""
    short = next(iter(strip_wrappers([name])))
    for pattern, reason in tables.IGNORED:
        if fnmatch.fnmatch(short, pattern) or fnmatch.fnmatch(short, f"*.{pattern}"):
            return reason
    return None
