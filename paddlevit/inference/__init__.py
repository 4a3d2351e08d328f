"""Networks on their own: export, and prediction from an export.

The names are loaded on first use, so that a `Predictor` on another engine never imports Paddle.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "ExportInfo": "paddlevit.inference.folder",
    "ExportReport": "paddlevit.inference.export",
    "Prediction": "paddlevit.inference.predictor",
    "Predictor": "paddlevit.inference.predictor",
    "export_model": "paddlevit.inference.export",
    "is_export": "paddlevit.inference.folder",
    "read_info": "paddlevit.inference.folder",
}

__all__ = ["ExportInfo", "ExportReport", "Prediction", "Predictor", "export_model", "is_export", "read_info"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'paddlevit.inference' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
