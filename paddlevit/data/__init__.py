"""Pictures: finding, reading, transforming, ordering, feeding, mixing and checking them.

The names that need Paddle are loaded on first use, so that a `Predictor` on another engine never imports it.
"""

from __future__ import annotations

import importlib
from typing import Any

from paddlevit.data.finding import find_images
from paddlevit.data.images import load_image
from paddlevit.data.transforms import eval_transform, train_transform

_PUBLIC = {
    "EpochSampler": "paddlevit.data.sampler",
    "ImageDataset": "paddlevit.data.dataset",
    "Mixing": "paddlevit.data.mixing",
    "SampleKey": "paddlevit.data.sampler",
    "build_datasets": "paddlevit.data.build",
    "build_loader": "paddlevit.data.loader",
    "build_mixing": "paddlevit.data.mixing",
    "build_sampler": "paddlevit.data.build",
}

__all__ = [
    "EpochSampler",
    "ImageDataset",
    "Mixing",
    "SampleKey",
    "build_datasets",
    "build_loader",
    "build_mixing",
    "build_sampler",
    "eval_transform",
    "find_images",
    "load_image",
    "train_transform",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'paddlevit.data' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
