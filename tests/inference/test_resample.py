from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

from paddlevit.data import eval_transform
from paddlevit.inference.picture_input import PictureInput, half_even, to_bytes
from paddlevit.inference.resample import SUPPORT, count_up, resize_matrix
from paddlevit.preprocessing import INTERPOLATIONS, Preprocessing
from paddlevit.weights import resize


def smooth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, shape).astype(np.float64)
    return ((noise + np.roll(noise, 1, 0) + np.roll(noise, 1, 1)) / 3).astype(np.uint8)


@pytest.mark.parametrize(("old", "new"), [(14, 16), (14, 7), (7, 24), (16, 16), (5, 1), (1, 3), (37, 12)])
def test_bicubic_matrix_is_the_one_that_resizes_weights(old, new) -> None:
    ours = resize_matrix(old, new, count_up(new)).numpy()
    np.testing.assert_allclose(ours, resize.resize_matrix(old, new), atol=1e-12)
    turned = resize_matrix(paddle.to_tensor(old), paddle.to_tensor(new), count_up(new), transposed=True).numpy()
    np.testing.assert_allclose(turned, ours.T, atol=1e-12)


@pytest.mark.parametrize("kernel", INTERPOLATIONS)
def test_every_filter_resizes_as_pillow(kernel) -> None:
    assert set(SUPPORT) == set(INTERPOLATIONS)
    ramp = np.linspace(0, 1, 23, dtype=np.float32)[None] ** 2
    for new in (9, 23, 40):
        ours = ramp @ resize_matrix(23, new, count_up(new), kernel).numpy().T
        theirs = Image.fromarray(ramp).resize((new, 1), Image.Resampling[kernel.upper()])
        np.testing.assert_allclose(ours, np.asarray(theirs), atol=1e-6)


@pytest.mark.parametrize("kernel", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(50, 61), (20, 33), (32, 32), (90, 200)])
def test_bytes_are_pillows(kernel, size) -> None:
    recipe = Preprocessing((28, 28), 0.875, interpolation=kernel)
    picture = smooth((*size, 3))
    expected = eval_transform(recipe)(Image.fromarray(picture))
    ours = PictureInput(recipe)(paddle.to_tensor(picture[None])).numpy()[0]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_tall_pictures_may_differ_by_one_level() -> None:
    recipe = Preprocessing((28, 28), 0.875, mean=(0.0,), std=(1 / 255,))  # so that a level is 1
    picture = smooth((300, 90, 1))  # Pillow 13 resizes its columns before its rows, older ones as all others
    ours = PictureInput(recipe)(paddle.to_tensor(picture[None])).numpy()[0]
    assert np.abs(ours - eval_transform(recipe)(Image.fromarray(picture[:, :, 0]))).max() <= 1.001


@pytest.mark.parametrize(
    "recipe",
    [
        Preprocessing((24, 40), 0.9),
        Preprocessing((40, 24), 1.0),
        Preprocessing((25, 25), 0.8, "squash"),
        Preprocessing((30, 31), 0.77, "squash", "bilinear"),
        Preprocessing((28, 28), 1.0, mean=(0.3,), std=(0.2,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(50, 61), (20, 33), (37, 37)])
def test_every_crop_is_pillows(recipe, size) -> None:
    picture = smooth((*size, recipe.channels))
    plain = Image.fromarray(picture if recipe.channels == 3 else picture[:, :, 0])
    ours = PictureInput(recipe)(paddle.to_tensor(np.stack([picture, picture[::-1]]))).numpy()
    np.testing.assert_allclose(ours[0], eval_transform(recipe)(plain), atol=1e-5)
    assert ours.shape == (2, recipe.channels, *recipe.image_size)


def test_rounding() -> None:
    values = paddle.to_tensor([-3.0, 0.49, 0.5, 1.5, 2.5, 254.5, 300.0], dtype="float64")
    assert to_bytes(values).tolist() == [0, 0, 1, 2, 3, 255, 255]
    assert half_even(values[1:6]).tolist() == [round(value) for value in values[1:6].tolist()] == [0, 0, 2, 2, 254]
