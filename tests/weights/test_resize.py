"""Resized weights equal timm's; see `tests/golden/make_resize.py`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from paddlevit.weights import resize
from tests.golden.fill import fill

GOLDEN = Path(__file__).parents[1] / "golden" / "resize.npz"


def positions(x, old, new, num_prefix):
    return resize.resize_positions(x, tuple(old), tuple(new), num_prefix)


def patches(x, new):
    return resize.resize_patches(x, tuple(new))


FUNCTIONS = {
    "positions": positions,
    "patches": patches,
    "channels": resize.adapt_channels,
    "bias_table": resize.resize_bias_table,
}


@pytest.mark.parametrize("name", np.load(GOLDEN).files)
def test_equals_timm(name):
    function, shape, *arguments = json.loads(name)
    expected = np.load(GOLDEN)[name]
    ours = FUNCTIONS[function](fill(name, shape), *arguments)
    assert ours.dtype == np.float32
    assert ours.shape == expected.shape
    assert np.linalg.norm(ours - expected) <= 1e-5 * np.linalg.norm(expected)


def test_every_function_is_covered():
    assert {json.loads(name)[0] for name in np.load(GOLDEN).files} == set(FUNCTIONS)


def test_prefix_is_kept_to_the_bit():
    table = fill("prefix", [1, 2 + 16, 8])
    assert (resize.resize_positions(table, (4, 4), (7, 5), 2)[:, :2] == table[:, :2]).all()


@pytest.mark.parametrize("antialias", [True, False])
def test_a_constant_stays_constant_and_the_same_size_changes_nothing(antialias):
    for old, new in [(7, 16), (16, 7), (5, 5)]:
        matrix = resize.resize_matrix(old, new, antialias)
        np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(matrix, np.eye(5), atol=1e-12)


def test_a_resized_patch_gives_the_same_token():
    """A projection resized to larger patches answers enlarged patches as the old one answered the small ones."""
    weight = fill("kernel", [5, 3, 8, 8])
    patch = fill("picture", [8, 8, 3])
    large = resize.resize_grid(patch, (16, 16))
    before = np.einsum("dcpq,pqc->d", weight, patch)
    after = np.einsum("dcpq,pqc->d", resize.resize_patches(weight, (16, 16)), large)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_equal_channels_answer_as_before():
    weight = fill("kernel", [5, 3, 4, 4])
    for channels in (1, 6):
        ours = resize.adapt_channels(weight, channels)
        np.testing.assert_allclose(ours.sum(axis=1), weight.sum(axis=1), rtol=1e-4, atol=1e-5)
