"""The operations of AutoAugment and RandAugment on Pillow pictures, colour jitter and random erasing.

An operation is a function of picture and argument; what a level from 0 to 10 means as an argument stands in OPERATIONS.
Levels, ranges and pixels are those of timm, so that its recipes mean the same here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

TOP_LEVEL = 10.0
ERASE_AREA, ERASE_ASPECT, ERASE_TRIES = (0.02, 1 / 3), (0.3, 1 / 0.3), 10
BLUR_RADII = (0.1, 2.0)


@dataclass(frozen=True)
class Canvas:
    """How operations that move pixels resample them, and what they leave behind."""

    fill: Union[int, tuple[int, ...]]
    """Grey level or colour of the uncovered corners."""
    resample: Image.Resampling
    """Nearest, bilinear or bicubic, which are all that Pillow has for this."""


@dataclass(frozen=True)
class Operation:
    """One kind of change to a picture."""

    apply: Callable[[Image.Image, float, Canvas], Image.Image]
    """From picture and argument to picture."""
    argument: Callable[[float], float] = float
    """From a level in 0..10 to the argument."""
    signed: bool = False
    """The argument's sign is drawn at random."""
    centre: float = 0.0
    """A signed argument lies on either side of this; it is never taken below 0.1 when the centre is 1."""

    def __call__(self, image: Image.Image, level: float, sign: int, canvas: Canvas) -> Image.Image:
        """Apply the operation at a level; `sign` is 1 or -1 and only matters to a signed operation."""
        value = self.argument(level)
        if self.signed:
            value = self.centre + sign * value
            value = max(0.1, value) if self.centre else value
        return self.apply(image, value, canvas)


def _affine(image: Image.Image, canvas: Canvas, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=canvas.resample, fillcolor=canvas.fill)


def _shear_x(image: Image.Image, factor: float, canvas: Canvas) -> Image.Image:
    return _affine(image, canvas, (1, factor, 0, 0, 1, 0))


def _shear_y(image: Image.Image, factor: float, canvas: Canvas) -> Image.Image:
    return _affine(image, canvas, (1, 0, 0, factor, 1, 0))


def _translate_x(image: Image.Image, share: float, canvas: Canvas) -> Image.Image:
    return _affine(image, canvas, (1, 0, share * image.width, 0, 1, 0))


def _translate_y(image: Image.Image, share: float, canvas: Canvas) -> Image.Image:
    return _affine(image, canvas, (1, 0, 0, 0, 1, share * image.height))


def _rotate(image: Image.Image, degrees: float, canvas: Canvas) -> Image.Image:
    return image.rotate(degrees, resample=canvas.resample, fillcolor=canvas.fill)


def _auto_contrast(image: Image.Image, _: float, __: Canvas) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, _: float, __: Canvas) -> Image.Image:
    return ImageOps.equalize(image)


def _invert(image: Image.Image, _: float, __: Canvas) -> Image.Image:
    return ImageOps.invert(image)


def _posterize(image: Image.Image, bits: float, _: Canvas) -> Image.Image:
    kept = 0xFF & ~((1 << (8 - int(bits))) - 1)  # not ImageOps.posterize, which has come to refuse 0 bits (black)
    return image.point([value & kept for value in range(256)] * len(image.getbands()))


def _solarize(image: Image.Image, threshold: float, _: Canvas) -> Image.Image:
    return ImageOps.solarize(image, int(threshold))


def _solarize_add(image: Image.Image, add: float, _: Canvas) -> Image.Image:
    table = [min(255, value + int(add)) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _color(image: Image.Image, factor: float, _: Canvas) -> Image.Image:
    return ImageEnhance.Color(image).enhance(factor)


def _contrast(image: Image.Image, factor: float, _: Canvas) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(factor)


def _brightness(image: Image.Image, factor: float, _: Canvas) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def _sharpness(image: Image.Image, factor: float, _: Canvas) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(factor)


def _desaturate(image: Image.Image, share: float, _: Canvas) -> Image.Image:
    return ImageEnhance.Color(image).enhance(min(1.0, max(0.0, 1.0 - share)))


def _blur(image: Image.Image, radius: float, _: Canvas) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def _share(level: float) -> float:
    return level / TOP_LEVEL


def _enhancement(level: float) -> float:
    return _share(level) * 1.8 + 0.1


def _away_from_one(level: float) -> float:
    return _share(level) * 0.9


def _bits(level: float) -> float:
    return int(_share(level) * 4)


def _threshold(level: float) -> float:
    return min(256, int(_share(level) * 256))


# The names are timm's; "Increasing" variants change a picture the more, the higher the level.
OPERATIONS = {
    "AutoContrast": Operation(_auto_contrast),
    "Equalize": Operation(_equalize),
    "Invert": Operation(_invert),
    "Rotate": Operation(_rotate, lambda level: _share(level) * 30.0, signed=True),
    "Posterize": Operation(_posterize, _bits),
    "PosterizeIncreasing": Operation(_posterize, lambda level: 4 - _bits(level)),
    "PosterizeOriginal": Operation(_posterize, lambda level: 4 + _bits(level)),
    "Solarize": Operation(_solarize, _threshold),
    "SolarizeIncreasing": Operation(_solarize, lambda level: 256 - _threshold(level)),
    "SolarizeAdd": Operation(_solarize_add, lambda level: min(128, int(_share(level) * 110))),
    "Color": Operation(_color, _enhancement),
    "ColorIncreasing": Operation(_color, _away_from_one, signed=True, centre=1.0),
    "Contrast": Operation(_contrast, _enhancement),
    "ContrastIncreasing": Operation(_contrast, _away_from_one, signed=True, centre=1.0),
    "Brightness": Operation(_brightness, _enhancement),
    "BrightnessIncreasing": Operation(_brightness, _away_from_one, signed=True, centre=1.0),
    "Sharpness": Operation(_sharpness, _enhancement),
    "SharpnessIncreasing": Operation(_sharpness, _away_from_one, signed=True, centre=1.0),
    "ShearX": Operation(_shear_x, lambda level: _share(level) * 0.3, signed=True),
    "ShearY": Operation(_shear_y, lambda level: _share(level) * 0.3, signed=True),
    "TranslateXRel": Operation(_translate_x, lambda level: _share(level) * 0.45, signed=True),
    "TranslateYRel": Operation(_translate_y, lambda level: _share(level) * 0.45, signed=True),
    "Desaturate": Operation(_desaturate, lambda level: min(1.0, 0.5 + 0.5 * _share(level))),
    "GaussianBlur": Operation(_blur, lambda level: min(2.0, 0.1 + 1.9 * _share(level))),
}


def random_blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Gaussian blur of a radius drawn evenly from 0.1 to 2, as in three-augment."""
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_RADII)))


def jitter(image: Image.Image, strengths: tuple[float, ...], rng: np.random.Generator) -> Image.Image:
    """Change brightness, contrast, saturation and hue in random order.

    Args:
        image: Mode L or RGB.
        strengths: Of brightness, contrast, saturation and, if there are four, hue. A strength s draws a factor from
            max(0, 1 - s) to 1 + s; for hue a turn from -s to s of the colour circle.
        rng: Source of randomness.
    """
    adjust = (_brightness, _contrast, _color, _turn_hue)
    canvas = Canvas(0, Image.Resampling.NEAREST)
    for kind in rng.permutation(len(strengths)):
        strength = strengths[kind]
        low = -strength if adjust[kind] is _turn_hue else max(0.0, 1.0 - strength)
        high = strength if adjust[kind] is _turn_hue else 1.0 + strength
        value = rng.uniform(low, high)
        if strength > 0:
            image = adjust[kind](image, value, canvas)
    return image


def _turn_hue(image: Image.Image, turn: float, _: Canvas) -> Image.Image:
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    shift = int(turn * 255) % 256
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def erase(values: np.ndarray, mode: str, count: int, rng: np.random.Generator) -> None:
    """Overwrite random rectangles of a normalised picture, in place.

    Random Erasing Data Augmentation (Zhong et al. 2017), after the normalisation as in timm.

    Args:
        values: float32 [C, H, W].
        mode: `const` writes zeros, `rand` one normal number per channel, `pixel` one per value.
        count: Up to this many rectangles, which share the area.
        rng: Source of randomness.
    """
    channels, height, width = values.shape
    count = int(rng.integers(1, count + 1))
    for _ in range(count):
        for _ in range(ERASE_TRIES):
            area = rng.uniform(*ERASE_AREA) * height * width / count
            aspect = math.exp(rng.uniform(math.log(ERASE_ASPECT[0]), math.log(ERASE_ASPECT[1])))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
                shape = {"const": (1, 1, 1), "rand": (channels, 1, 1), "pixel": (channels, h, w)}[mode]
                patch = np.zeros(shape) if mode == "const" else rng.standard_normal(shape, np.float32)
                values[:, top : top + h, left : left + w] = patch
                break
