"""Resize, crop and normalisation of a picture as the first part of a graph.

Shapes: B batch, C image channels, H W height and width of the picture.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddlevit.inference.resample import as_float, count_up, real, resize_matrix
from paddlevit.preprocessing import Preprocessing


class PictureInput(nn.Layer):
    """What `paddlevit.data.eval_transform` does to a Pillow picture, byte for byte.

    Rows are resized before columns, as Pillow does. Since version 13 it takes columns first where that is less work,
    mostly where a picture is much higher than wide or only its width is enlarged; such bytes may differ by one.

    Args:
        preprocessing: What is to be done.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        mean, std = (np.asarray(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer("factor", paddle.to_tensor((1.0 / (255.0 * std)).astype(np.float32)), persistable=True)
        self.register_buffer("offset", paddle.to_tensor((mean / std).astype(np.float32)), persistable=True)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """uint8 [B, H, W, C] of any size -> float32 [B, C, height, width]."""
        # Turned as float32: in front of a product in float64, a transpose is fused into one that does not exist.
        x = x.astype("float32").transpose([0, 3, 1, 2]).astype("float64")  # [B, C, H, W]
        size = paddle.shape(x).astype("int64")
        new = self.resized(size[2], size[3])
        x = to_bytes(paddle.matmul(x, self.matrix(size[3], new[1], 1)))  # [B, C, H, width]
        x = to_bytes(paddle.matmul(self.matrix(size[2], new[0], 0), x))  # [B, C, height, width]
        return x.astype("float32") * self.factor - self.offset

    def resized(self, height: paddle.Tensor, width: paddle.Tensor) -> tuple[Any, Any]:
        """Height and width to which the picture is resized before its centre is cropped."""
        recipe = self.preprocessing
        target = [math.floor(side / recipe.crop_pct) for side in recipe.image_size]
        if recipe.crop_mode == "squash":
            return target[0], target[1]
        if target[0] == target[1]:
            shorter = paddle.minimum(height, width)
            return target[0] * height // shorter, target[0] * width // shorter
        height, width = height.astype("float64"), width.astype("float64")
        ratio = paddle.minimum(height / real(target[0]), width / real(target[1]))
        return half_even(height / ratio), half_even(width / ratio)

    def matrix(self, old: paddle.Tensor, new: Any, axis: int) -> paddle.Tensor:
        """The resize of one axis for the part of it that is kept, float64: [height, H] or [W, width]."""
        side = self.preprocessing.image_size[axis]
        spare = new - side
        # As round(spare / 2): a half goes to the even neighbour.
        first = spare // 2 + (spare % 2) * (spare // 2 % 2)
        rows = count_up(side) + as_float(first)
        weights = resize_matrix(old, new, rows, self.preprocessing.interpolation, transposed=axis == 1)
        units = real(2.0**22)  # Pillow counts in these
        return paddle.floor(weights * units + real(0.5)) / units


def to_bytes(x: paddle.Tensor) -> paddle.Tensor:
    """The nearest whole number from 0 to 255, halves upward.

    The limits come first, because Paddle 3.3 would fuse a product and a sum right behind it.
    """
    x = paddle.minimum(paddle.maximum(x, real(0.0)), real(255.0))
    return paddle.floor(x + real(0.5))


def half_even(x: paddle.Tensor) -> paddle.Tensor:
    """The nearest whole number as int64, halves to the even neighbour as Python's round does."""
    low, half = paddle.floor(x), real(0.5)
    rest, odd = x - low, low % real(2.0)
    up = (rest > half).astype("float64") + (rest == half).astype("float64") * odd
    return (low + up).astype("int64")
