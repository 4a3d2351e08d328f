"""The description that travels with weights."""

from __future__ import annotations

import pytest

from paddlevit.preprocessing import Preprocessing


def test_plain_values_and_back():
    preprocessing = Preprocessing((96, 160), 1.0, "squash", "bilinear", (0.5,), (0.25,))
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    assert preprocessing.channels == 1


def test_another_size_or_number_of_channels():
    adapted = Preprocessing(mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.3)).adapted((32, 48), 1)
    assert (adapted.image_size, adapted.mean, adapted.std) == ((32, 48), (0.4,), (0.2,))
    assert Preprocessing().adapted() == Preprocessing()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolation": "cubic"}, r"interpolation is 'cubic'; .* Did you mean \"bicubic\""),
        ({"crop_mode": "middle"}, "crop_mode is 'middle'; it must be one of center, squash"),
        ({"crop_pct": 1.5}, "crop_pct is 1.5; it must be above 0 and at most 1"),
        ({"mean": (0.5,)}, "mean has 1 values and std 3"),
        ({"std": (0.0, 1.0, 1.0)}, "std is .*; every value must be above 0"),
        ({"image_size": (0, 5)}, r"image_size is \(0, 5\)"),
    ],
)
def test_impossible_values(changes, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**changes)


def test_unknown_keys():
    with pytest.raises(ValueError, match="preprocessing has no key 'size'; its keys are image_size"):
        Preprocessing.from_dict({"size": 3})
