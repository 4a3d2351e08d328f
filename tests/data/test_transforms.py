"""What evaluation and training do to a picture: equal to timm on Pillow, and a function of picture and generator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddlevit.config import AugmentConfig
from paddlevit.data import eval_transform, train_transform
from paddlevit.data.transforms import centre_crop, normalise, random_box, resized_size
from paddlevit.preprocessing import HALF_MEAN, HALF_STD, Preprocessing
from tests.data.pictures import picture, pixels
from tests.golden.fill import image as generated

GOLDEN = Path(__file__).parent.parent / "golden" / "eval_transform.npz"
PLAIN = AugmentConfig(crop="none", horizontal_flip=0.0)
SMALL = Preprocessing(image_size=(8, 8), crop_pct=1.0, mean=HALF_MEAN, std=HALF_STD)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_evaluation_equals_timm():
    golden = np.load(GOLDEN)
    for number, case in enumerate(json.loads(str(golden["meta"]))["cases"]):
        source = np.clip(128 + 60 * generated((1, 3, *case["hw"]), f"picture{number}")[0], 0, 255).astype(np.uint8)
        recipe = Preprocessing(
            image_size=(case["size"], case["size"]),
            crop_pct=case["crop_pct"],
            interpolation=case["interpolation"],
            mean=tuple(case["mean"]),
            std=tuple(case["std"]),
        )
        result = eval_transform(recipe)(source.transpose(1, 2, 0))
        assert result.dtype == np.float32
        assert list(result.shape) == case["shape"]
        assert np.abs(result[:, ::7, ::7] - golden[f"out{number}"]).max() < 1e-5
        assert abs(result.mean() - case["mean_of_output"]) < 1e-5


def test_normalisation_equals_its_formula_and_writes_in_place():
    recipe = Preprocessing(image_size=(12, 16))
    expected = (pixels() / 255.0 - np.array(recipe.mean)) / np.array(recipe.std)
    out = np.empty((3, 12, 16), np.float32)
    result = normalise(picture(), recipe, out)
    assert result is out
    assert np.abs(out - expected.transpose(2, 0, 1)).max() < 2e-6


def test_sizes_before_the_crop():
    square = Preprocessing(image_size=(224, 224), crop_pct=0.9)
    assert resized_size((375, 500), square) == (248, 330)
    assert resized_size((500, 375), square) == (330, 248)
    wide = Preprocessing(image_size=(96, 160), crop_pct=1.0)
    assert resized_size((300, 300), wide) == (160, 160)
    squash = Preprocessing(image_size=(224, 224), crop_pct=0.9, crop_mode="squash")
    assert resized_size((375, 500), squash) == (248, 248)


def test_a_picture_smaller_than_the_crop_gets_a_black_edge():
    result = np.asarray(centre_crop(Image.new("L", (3, 2), 9), (5, 4)))
    assert result.tolist() == [[0, 0, 0, 0], [9, 9, 9, 0], [9, 9, 9, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels(channels):
    recipe = SMALL.adapted(channels=channels)
    image = pixels(12, 16, channels=channels)
    assert eval_transform(recipe)(image).shape == (channels, 8, 8)
    augmented = train_transform(recipe, AugmentConfig())(image, _rng())
    assert augmented.shape == (channels, 8, 8)
    assert augmented.dtype == np.float32


def test_arrays_and_pictures_agree():
    """The float path of many-channel arrays resamples as Pillow does bytes, up to rounding."""
    grey = pixels(40, 30, channels=1)
    recipe = Preprocessing(image_size=(16, 16), mean=(0.5,), std=(0.5,))
    as_floats = eval_transform(recipe)(grey.astype(np.float32) / 255)
    assert np.abs(eval_transform(recipe)(grey) - as_floats).max() < 2 * 2 / 255


def test_training_without_randomness_is_evaluation():
    assert np.array_equal(train_transform(SMALL, PLAIN)(picture(), _rng()), eval_transform(SMALL)(picture()))


@pytest.mark.parametrize(
    "augment",
    [
        AugmentConfig(),
        AugmentConfig(crop="random"),
        AugmentConfig(crop="simple"),
        AugmentConfig(vertical_flip=0.5),
        AugmentConfig(interpolation="random", scale=(0.5, 1.0)),
        AugmentConfig(auto_augment="rand-m9-mstd0.5-inc1", erase_probability=1.0),
        AugmentConfig(color_jitter=(0.3, 0.3, 0.3, 0.1)),
    ],
)
def test_training_depends_on_the_generator_alone(augment):
    transform = train_transform(SMALL, augment)
    image = picture(40, 50)
    first = [transform(image, _rng(seed)) for seed in range(8)]
    np.random.seed(99)
    again = [transform(image, _rng(seed)) for seed in range(8)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert len({a.tobytes() for a in first}) > 4
    assert all(np.isfinite(a).all() for a in first)


def test_flips_happen_as_often_as_stated():
    image = picture(8, 8)
    mirrored, upside_down = pixels(8, 8)[:, ::-1], pixels(8, 8)[::-1]
    for keyword, expected in (("horizontal_flip", mirrored), ("vertical_flip", upside_down)):
        augment = AugmentConfig(**{"crop": "none", "horizontal_flip": 0.0, keyword: 0.3})
        transform = train_transform(SMALL, augment)
        rng = _rng()
        count = sum(np.array_equal(np.asarray(transform.pixels(image, rng)), expected) for _ in range(400))
        assert 90 < count < 150


def test_inception_crop_keeps_its_area_and_ratio():
    rng = _rng()
    boxes = [random_box((300, 400), (0.2, 0.5), (0.75, 4 / 3), rng) for _ in range(500)]
    tops, lefts, heights, widths = np.array(boxes).T
    assert (tops >= 0).all()
    assert (tops + heights <= 300).all()
    assert (lefts + widths <= 400).all()
    shares = heights * widths / 120_000
    assert 0.195 < shares.min() < 0.21
    assert 0.49 < shares.max() < 0.505
    assert abs(shares.mean() - 0.35) < 0.02
    ratios = widths / heights
    assert 0.74 < ratios.min() < 0.77
    assert 1.3 < ratios.max() < 1.36
    assert abs(np.log(ratios).mean()) < 0.03  # even on a logarithmic scale


def test_inception_crop_of_a_narrow_picture_is_its_centre():
    assert random_box((10, 1000), (0.9, 1.0), (0.75, 4 / 3), _rng()) == (0, 493, 10, 13)
    assert random_box((1000, 10), (0.9, 1.0), (0.75, 4 / 3), _rng()) == (493, 0, 13, 10)
    assert random_box((1, 1), (0.08, 1.0), (0.75, 4 / 3), _rng()) == (0, 0, 1, 1)


@pytest.mark.parametrize("color_jitter", [None, 0.4])
def test_the_mirror_is_the_same_wherever_it_is_made(color_jitter):
    """Without anything after it, left and right are exchanged while the values are scaled."""
    made = []
    for chance in (0.0, 1.0):
        augment = AugmentConfig(horizontal_flip=chance, vertical_flip=1.0, color_jitter=color_jitter)
        transform = train_transform(SMALL, augment)
        values = transform(picture(20, 30), np.random.default_rng(0))
        shown = transform.pixels(picture(20, 30), np.random.default_rng(0))
        assert np.array_equal(values, normalise(shown, SMALL))
        made.append(values)
    assert np.array_equal(made[1], made[0][:, :, ::-1])
    assert not np.array_equal(made[1], made[0])


def test_random_crop_pads_with_black_and_simple_crop_mirrors():
    white = Image.new("RGB", (8, 8), (255, 255, 255))
    blacks = [
        np.asarray(train_transform(SMALL, AugmentConfig(crop="random")).pixels(white, _rng(s))) for s in range(20)
    ]
    assert any((result == 0).any() for result in blacks)
    assert all((result == 255).mean() >= 49 / 64 for result in blacks)  # at most one row and one column of padding
    transform = train_transform(SMALL, AugmentConfig(crop="simple"))
    assert all((np.asarray(transform.pixels(white, _rng(s))) == 255).all() for s in range(20))


def test_simple_crop_keeps_the_aspect_ratio():
    transform = train_transform(SMALL, AugmentConfig(crop="simple", horizontal_flip=0.0))
    wide = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (8, 1))).convert("RGB")
    for seed in range(10):
        row = np.asarray(transform.pixels(wide, _rng(seed)))[4, :, 0].astype(int)
        assert set(np.abs(np.diff(row))) <= {0, 1}  # a ramp of one level per pixel is not squeezed


def test_interpolation_changes_the_pixels():
    image = picture(40, 50)
    results = {
        name: train_transform(SMALL, AugmentConfig(interpolation=name))(image, _rng()).tobytes()
        for name in (None, "nearest", "bilinear", "bicubic")
    }
    assert results[None] == results["bicubic"]
    assert len(set(results.values())) == 3


def test_how_small_a_jpeg_may_be_decoded():
    recipe = Preprocessing(image_size=(224, 224))
    assert train_transform(recipe, AugmentConfig()).least_side == 915  # 224 / sqrt(0.08 * 0.75)
    assert train_transform(recipe, AugmentConfig(scale=(0.5, 1.0))).least_side == 366
    assert train_transform(recipe, AugmentConfig(crop="random")).least_side == 448
    assert train_transform(recipe, AugmentConfig(crop="none")).least_side is None


def test_policies_need_pictures():
    with pytest.raises(ValueError, match="work on 1 or 3 channels, and there are 4; set both to null"):
        train_transform(SMALL.adapted(channels=4), AugmentConfig(auto_augment="3a"))
    with pytest.raises(ValueError, match="work on 1 or 3 channels, and there are 2"):
        train_transform(SMALL.adapted(channels=2), AugmentConfig(color_jitter=0.3))
