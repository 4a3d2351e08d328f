"""Weights from anywhere into our models and back out."""

from __future__ import annotations

from paddlevit.weights.hub import Pretrained, find_pretrained
from paddlevit.weights.load import load_weights
from paddlevit.weights.report import LoadReport
from paddlevit.weights.save import convert, save_weights

__all__ = ["LoadReport", "Pretrained", "convert", "find_pretrained", "load_weights", "save_weights"]
