"""What `create_model` accepts: each option is held against the annotation of the class's constructor."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from paddlevit.errors import did_you_mean

# What timm's users type, and our word for it.
_RENAMED = {
    "img_size": "image_size",
    "in_chans": "in_channels",
    "drop_rate": "dropout",
    "attn_drop_rate": "attention_dropout",
    "drop_path_rate": "drop_path",
    "global_pool": "pool",
}

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
# Whole numbers that may be 0; the others are sizes.
_MAY_BE_ZERO = ("num_classes", "num_registers", "pretrained_window_size")
_POSITIVE = ("mlp_ratio", "token_mlp_ratio", "epsilon")
_PROBABILITIES = ("dropout", "attention_dropout", "drop_path")


def check_options(name: str, build: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options as plain Python values, sequences as tuples; those that are None are left out.

    Args:
        name: Of the model, for messages.
        build: The family's class.
        options: Keywords for it.

    Raises:
        ValueError: An option that the class does not have, of another type than it takes, or out of range.
    """
    annotations = {key: each.annotation for key, each in inspect.signature(build).parameters.items() if key != "self"}
    checked = {}
    for key, value in options.items():
        if key in _RENAMED:
            raise ValueError(f"{name} has no option {key!r}; here it is called {_RENAMED[key]!r}.")
        if key not in annotations:
            raise ValueError(
                f"{name} has no option {key!r}.{did_you_mean(key, annotations)} Its options are"
                f" {', '.join(annotations)}."
            )
        if value is not None:
            checked[key] = _checked(name, key, value, annotations[key])
    return checked


def _checked(name: str, key: str, value: Any, annotation: str) -> Any:
    kinds = annotation.split(" | ")  # such as `int | Sequence[int]`, `float | None`
    several = [kind[len("Sequence[") : -1] for kind in kinds if kind.startswith("Sequence[")]
    single = [kind for kind in kinds if kind in _KINDS]
    if several and isinstance(value, (Sequence, np.ndarray)) and not isinstance(value, str) and len(value):
        values = tuple(_plain(item, several[0]) for item in value)
        plain: Any = values
    else:
        plain = _plain(value, single[0]) if single else None
        values = (plain,)
    fits, rule = _range(key, (single + several)[0])
    if None in values or not all(fits(item) for item in values):
        allowed = [_KINDS[kind] for kind in single] + [f"a list, each {_KINDS[kind]}" for kind in several]
        raise ValueError(
            f"{key} of {name} is {value!r} ({type(value).__name__}); it must be {' or '.join(allowed)}{rule}."
        )
    return plain


def _plain(value: Any, kind: str) -> Any:
    """`value` as Python's int, float, bool or str; None when it is of another kind."""
    if kind == "str":
        return value if isinstance(value, str) else None
    if isinstance(value, (bool, np.bool_)) or kind == "bool":
        return bool(value) if isinstance(value, (bool, np.bool_)) and kind == "bool" else None
    if kind == "int":
        return int(value) if isinstance(value, Integral) else None
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _range(key: str, kind: str) -> tuple[Callable[[Any], bool], str]:
    """What a value must fulfil, and how to say so."""
    if kind == "int":
        low = 0 if key in _MAY_BE_ZERO else 1
        return lambda value: value >= low, f", at least {low}"
    if key in _POSITIVE:
        return lambda value: value > 0, " above 0"
    if key in _PROBABILITIES:
        return lambda value: 0 <= value < 1, ", at least 0 and below 1"
    return lambda value: True, ""
