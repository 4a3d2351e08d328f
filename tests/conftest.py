"""Shared by all tests: seeds, one thread, and Paddle imported quietly."""

from __future__ import annotations

import random

import numpy as np
import pytest

from paddlevit import runtime

runtime.prepare()

import paddle  # noqa: E402  (its settings come first)


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state, on the CPU."""
    paddle.set_device("cpu")
    paddle.seed(0)
    np.random.seed(0)
    random.seed(0)
