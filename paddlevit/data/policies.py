"""Which operations a picture gets: RandAugment, AutoAugment and three-augment, named as in timm.

RandAugment (Cubuk et al. 2019), AutoAugment (Cubuk et al. 2018), three-augment (DeiT III, Touvron et al. 2022).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

import numpy as np
from PIL import Image

from paddlevit.data.augment import OPERATIONS, TOP_LEVEL, Canvas, random_blur
from paddlevit.errors import check_choice

RAND_FORM = "rand-m9-n2-p0.5-mstd0.5-mmax10-inc1-t3a (all parts after rand may be left out)"

_FIXED: tuple[str, ...] = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
)
_FIXED += ("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
_VARIANTS = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")

# Operations of RandAugment with their weights; equal weights are drawn with replacement, others without, as in timm.
_THREE = ("SolarizeIncreasing", "Desaturate", "GaussianBlur")
_REST: tuple[str, ...] = (
    "PosterizeIncreasing",
    "AutoContrast",
    "ColorIncreasing",
    "SharpnessIncreasing",
    "ContrastIncreasing",
)
_REST += ("BrightnessIncreasing", "Equalize", "Invert")
_MOVES = {"Rotate": 3.0, "ShearX": 2.0, "ShearY": 2.0}
RAND_SETS: dict[str, dict[str, float]] = {
    "fixed": dict.fromkeys(_FIXED, 1.0),
    "increasing": {f"{name}Increasing" if name in _VARIANTS else name: 1.0 for name in _FIXED},
    "3a": dict.fromkeys(_THREE, 1.0),
    "3aw": {**dict.fromkeys(_THREE, 6.0), **_MOVES, **dict.fromkeys(_REST, 1.0)},
    "weights": {
        **_MOVES,
        **dict.fromkeys(("TranslateXRel", "TranslateYRel"), 1.0),
        **dict.fromkeys((*_REST, "SolarizeIncreasing", "SolarizeAdd"), 0.05),
        **dict.fromkeys(("ColorIncreasing", "SharpnessIncreasing", "AutoContrast"), 0.25),
    },
}
WEIGHTED_SETS = ("3aw", "weights")

Step = tuple[str, float, float]  # operation, probability, level

# The policy that the AutoAugment paper found on ImageNet: a line is a sub-policy.
_ORIGINAL: tuple[tuple[Step, Step], ...] = (
    (("PosterizeOriginal", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
    (("PosterizeOriginal", 0.6, 7), ("PosterizeOriginal", 0.6, 6)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 4), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 7)),
    (("PosterizeOriginal", 0.8, 5), ("Equalize", 1.0, 2)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 8), ("PosterizeOriginal", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 2)),
    (("Equalize", 0.0, 7), ("Equalize", 0.8, 8)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 8)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 9)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 3)),
    (("Equalize", 0.4, 7), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 5)),
    (("Invert", 0.6, 4), ("Equalize", 1.0, 8)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 8), ("Equalize", 0.6, 3)),
)

# The policy of the EfficientNet code for TPUs.
_V0: tuple[tuple[Step, Step], ...] = (
    (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
    (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
    (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
    (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
    (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
    (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
    (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
    (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
    (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
    (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
    (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
    (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
    (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
    (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
    (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
    (("Rotate", 1.0, 7), ("TranslateYRel", 0.8, 9)),
    (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
    (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
    (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
    (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
    (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
    (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
    (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
    (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
    (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
)


def _research(policy: tuple[tuple[Step, Step], ...]) -> tuple[tuple[Step, ...], ...]:
    """The same with the posterize of Google's research code, whose strength grows with the level."""
    return tuple(
        tuple((re.sub("^Posterize.*", "PosterizeIncreasing", name), chance, level) for name, chance, level in steps)
        for steps in policy
    )


AUTO_POLICIES: dict[str, tuple[tuple[Step, ...], ...]] = {
    "original": _ORIGINAL,
    "originalr": _research(_ORIGINAL),
    "v0": _V0,
    "v0r": _research(_V0),
    "3a": ((("Solarize", 1.0, 5),), (("Desaturate", 1.0, 10),), (("RandomBlur", 1.0, 10),)),
}


@dataclass(frozen=True)
class Policy:
    """Draws operations for a picture and applies them."""

    groups: tuple[tuple[Step, ...], ...]
    """What is drawn: an operation for RandAugment, a sub-policy for AutoAugment."""
    draws: int = 1
    """Groups per picture."""
    weights: Optional[tuple[float, ...]] = None
    """Chance of each group, drawn without replacement; None draws evenly with replacement."""
    level_std: float = 0.0
    """Levels are drawn from a normal distribution of this width; infinity draws evenly from 0 to the level."""
    top_level: float = TOP_LEVEL
    """Levels are cut off here."""

    def __call__(
        self, image: Image.Image, fill: tuple[int, ...], resample: Optional[Image.Resampling], rng: np.random.Generator
    ) -> Image.Image:
        """Augment a picture.

        Args:
            image: Mode L or RGB.
            fill: Value of uncovered corners, one per channel.
            resample: Filter of operations that move pixels; None draws bilinear or bicubic for each.
            rng: Source of randomness.
        """
        chosen = rng.choice(len(self.groups), self.draws, replace=self.weights is None, p=self.weights)
        for name, chance, level in (step for group in chosen for step in self.groups[group]):
            if rng.random() >= chance:
                continue
            level, sign = self._level(level, rng), 1 if rng.random() < 0.5 else -1
            kind = resample or (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[int(rng.random() < 0.5)]
            if name == "RandomBlur":
                image = random_blur(image, rng)
            else:
                image = OPERATIONS[name](image, level, sign, Canvas(fill if len(fill) > 1 else fill[0], kind))
        return image

    def _level(self, level: float, rng: np.random.Generator) -> float:
        if self.level_std == float("inf"):
            level = rng.uniform(0, level)
        elif self.level_std > 0:
            level = rng.normal(level, self.level_std)
        return max(0.0, min(level, self.top_level))


def build_policy(text: str) -> Policy:
    """Read the name of a policy, in timm's notation.

    Args:
        text: `rand-m9-mstd0.5-inc1` for RandAugment: m level, n operations per picture, p chance of each, mstd spread
            of the level (over 100: even), mmax largest level, inc1 the variants that grow with the level, t a set of
            operations. `original`, `originalr`, `v0`, `v0r` (and `-mstd0.5`) for AutoAugment, `3a` for three-augment.

    Raises:
        ValueError: Not understood.
    """
    name, *parts = text.split("-")
    if name != "rand":
        check_choice("auto_augment", name, ["rand", *AUTO_POLICIES])
    keys = ["m", "n", "p", "mstd", "mmax", "inc"] if name == "rand" else ["mstd"]
    values, operations = _read_parts(text, parts, keys)
    level_std = values.get("mstd", 0.0)
    if name != "rand":
        return Policy(AUTO_POLICIES[name], level_std=level_std)
    operations = operations or ("increasing" if values.get("inc") else "fixed")
    check_choice(f"the operations of auto_augment {text}", operations, RAND_SETS)
    weights, total = RAND_SETS[operations], sum(RAND_SETS[operations].values())
    draws = int(values.get("n", 2))
    if operations in WEIGHTED_SETS and draws > len(weights):
        raise ValueError(f"auto_augment is {text!r}; n is {draws}, but {operations} has {len(weights)} operations.")
    return Policy(
        groups=tuple(((name, values.get("p", 0.5), values.get("m", TOP_LEVEL)),) for name in weights),
        draws=draws,
        weights=tuple(weight / total for weight in weights.values()) if operations in WEIGHTED_SETS else None,
        level_std=float("inf") if level_std > 100 else level_std,
        top_level=values.get("mmax", TOP_LEVEL),
    )


def _read_parts(text: str, parts: list[str], valid: list[str]) -> tuple[dict[str, float], str]:
    """Numbers by key, and the set of operations if one is named."""
    values, operations = {}, ""
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?|inf)", part)
        if match and match[1] in valid:
            values[match[1]] = float(match[2])
        elif part.startswith("t") and "m" in valid:
            operations = part[1:]
        else:
            raise ValueError(f"auto_augment is {text!r}, where {part!r} is not understood; the form is {RAND_FORM}.")
    return values, operations
