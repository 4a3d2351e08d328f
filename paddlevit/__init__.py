"""Vision Transformers for PaddlePaddle: models, weights, training, inference.

The public names are loaded on first use, so that `import paddlevit` costs nothing and the command line tools answer
`--help` without importing Paddle.
"""

from __future__ import annotations

import importlib

# Paddle 2.6 exports its own `inflate`; a zlib imported after it crashes on Pythons that load zlib as a shared library.
import zlib  # noqa: F401
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "create_model": "paddlevit.models",
    "list_models": "paddlevit.models",
    "load_weights": "paddlevit.weights",
    "Predictor": "paddlevit.inference",
}

__all__ = ["Predictor", "__version__", "create_model", "list_models", "load_weights"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'paddlevit' has no attribute {name!r}")
    if name != "Predictor":  # it can run on other engines
        importlib.import_module("paddlevit.runtime").check_paddle()
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
