"""The keys of `data` and `augment`: what may stand there."""

from __future__ import annotations

import pytest

from paddlevit.config import ConfigError, config_from_dict


def test_what_recipes_write_is_understood():
    augment = config_from_dict(
        {
            "augment": {
                "color_jitter": 0.3,
                "scale": [0.5, 1],
                "auto_augment": "rand-m9-mstd0.5-inc1",
                "mix_mode": "pair",
            }
        }
    ).augment
    assert (augment.color_jitter, augment.scale) == (0.3, (0.5, 1.0))
    assert config_from_dict({"augment": {"color_jitter": [0.4, 0.4, 0.4, 0.1]}}).augment.color_jitter[3] == 0.1
    assert config_from_dict({"data": {"delimiter": "\t", "dataset": "list"}}).data.delimiter == "\t"


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("data", "task", "tags", r"data\.task is 'tags'; it must be one of classes, multi_label, regression"),
        ("data", "task", "regression", r"which needs data\.dataset: list .*'imagenet'"),
        ("data", "delimiter", ", ", r"data\.delimiter is ', '; it must be one character"),
        ("data", "max_pixels", 10**9, r"data\.max_pixels is 1000000000; it must be from 1 .* 178956970"),
        ("data", "shuffle_window", 0, r"data\.shuffle_window is 0; it must be at least 1"),
        ("data", "timeout", -1, r"data\.timeout is -1.0; it must be at least 0"),
        ("data", "bad_image", "ignore", r"data\.bad_image is 'ignore'; it must be one of error, skip"),
        ("data", "fake_train", 0, r"data\.fake_train is 0; it must be at least 1"),
        ("data", "fake_val", 0, r"data\.fake_val is 0; it must be at least 1"),
        (
            "augment",
            "crop",
            "centre",
            r"augment\.crop is 'centre'; it must be one of random_resized, random, simple, none",
        ),
        (
            "augment",
            "scale",
            [0, 1],
            r"augment\.scale is \(0.0, 1.0\); it must be two rising numbers above 0 and at most 1",
        ),
        ("augment", "ratio", [2, 1], r"augment\.ratio is \(2.0, 1.0\); it must be two rising numbers above 0"),
        ("augment", "interpolation", "area", r"augment\.interpolation is 'area'; it must be one of random, nearest"),
        (
            "augment",
            "color_jitter",
            [0.1, 0.2],
            r"augment\.color_jitter is \(0.1, 0.2\); it must be a number, or three",
        ),
        ("augment", "color_jitter", [0.1, 0.1, 0.1, 0.6], r"augment\.color_jitter is .* a fourth up to 0\.5 for hue"),
        ("augment", "color_jitter", -0.1, r"augment\.color_jitter is -0.1; .* none below 0"),
        ("augment", "erase_probability", 1.5, r"augment\.erase_probability is 1.5; it must be from 0"),
        ("augment", "erase_mode", "noise", r"augment\.erase_mode is 'noise'; it must be one of const, rand, pixel"),
        ("augment", "erase_count", 0, r"augment\.erase_count is 0; it must be at least 1"),
        ("augment", "repeats", 0, r"augment\.repeats is 0; it must be at least 1"),
        ("augment", "mixup", -1, r"augment\.mixup is -1.0; it must be at least 0"),
        ("augment", "cutmix", -1, r"augment\.cutmix is -1.0; it must be at least 0"),
        ("augment", "mix_probability", 2, r"augment\.mix_probability is 2.0; it must be from 0"),
        ("augment", "mix_switch", 2, r"augment\.mix_switch is 2.0; it must be from 0"),
        ("augment", "mix_mode", "half", r"augment\.mix_mode is 'half'; it must be one of batch, pair, element"),
    ],
)
def test_what_cannot_be(section, key, value, message):
    with pytest.raises(ConfigError, match=message):
        config_from_dict({section: {key: value}})
