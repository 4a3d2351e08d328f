"""One row of a family's table of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from paddlevit.preprocessing import Preprocessing


@dataclass(frozen=True)
class ModelSpec:
    """A named model: which class, with which sizes, fed how."""

    build: Callable[..., Any]
    """The family's class."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keywords of the constructor that make this size; `image_size` comes from `preprocessing`."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """What its published weights were evaluated with."""
