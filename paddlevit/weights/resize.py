"""Weights for another picture, patch, window or number of channels than they were learned for.

Bicubic resizing is separable: a matrix for the rows and one for the columns. They are written out here because Paddle
before 3.3 has no antialiased resize.
"""

from __future__ import annotations

import numpy as np


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981), which is 0 from 2 on."""
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = ((x - 5.0) * x + 8.0) * x * a - 4.0 * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def resize_matrix(old: int, new: int, antialias: bool = True) -> np.ndarray:
    """The bicubic resize of `old` samples to `new` as a matrix, equal to PyTorch's with `align_corners=False`.

    Args:
        old: Number of samples.
        new: Number wanted.
        antialias: Widen the kernel when shrinking and cut it at the border (a = -0.5, as Pillow does); otherwise
            always four neighbours, with the border repeated (a = -0.75, as OpenCV does).

    Returns:
        float64 [new, old].
    """
    scale = old / new
    centers = (np.arange(new) + 0.5) * scale  # in units of old samples
    if antialias:
        stretch = max(scale, 1.0)
        support = 2.0 * stretch
        first = np.maximum(np.trunc(centers - support + 0.5), 0.0)[:, None]
        last = np.minimum(np.trunc(centers + support + 0.5), old)[:, None]
        index = np.arange(old)[None]
        weights = _cubic((index + 0.5 - centers[:, None]) / stretch, -0.5)
        weights = np.where((index >= first) & (index < last), weights, 0.0)
        return weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((new, old))
    start = np.floor(centers - 0.5).astype(int)
    for step in range(-1, 3):
        index = np.clip(start + step, 0, old - 1)
        np.add.at(matrix, (np.arange(new), index), _cubic(centers - 0.5 - (start + step), -0.75))
    return matrix


def resize_grid(values: np.ndarray, new: tuple[int, int], antialias: bool = True) -> np.ndarray:
    """[rows, columns, D] -> [new rows, new columns, D], float32."""
    rows = resize_matrix(values.shape[0], new[0], antialias)
    columns = resize_matrix(values.shape[1], new[1], antialias)
    return np.einsum("Rr,Cc,rcd->RCd", rows, columns, values.astype(np.float64), optimize=True).astype(np.float32)


def resize_positions(positions: np.ndarray, old: tuple[int, int], new: tuple[int, int], num_prefix: int) -> np.ndarray:
    """Learned positions for another grid of patches; those of class and other tokens before the patches stay.

    Args:
        positions: [1, prefix + rows * columns, D].
        old: Rows and columns of the grid they are for.
        new: Rows and columns wanted.
        num_prefix: How many come before the patches.

    Returns:
        float32 [1, prefix + new rows * new columns, D].
    """
    dim = positions.shape[2]
    grid = resize_grid(positions[0, num_prefix:].reshape(*old, dim), new)
    return np.concatenate([positions[:, :num_prefix].astype(np.float32), grid.reshape(1, -1, dim)], axis=1)


def resize_bias_table(table: np.ndarray, window_size: int) -> np.ndarray:
    """Swin's relative position biases for another window: bicubic without antialiasing, as Microsoft's loader does.

    Args:
        table: [(2 M - 1) ** 2, h].
        window_size: M wanted.

    Returns:
        float32 [(2 M - 1) ** 2, h].
    """
    old, new = round(table.shape[0] ** 0.5), 2 * window_size - 1
    return resize_grid(table.reshape(old, old, -1), (new, new), antialias=False).reshape(new * new, -1)


def resize_patches(weight: np.ndarray, new: tuple[int, int]) -> np.ndarray:
    """A patch projection for another patch size, by FlexiViT's pseudo-inverse resize (Beyer et al. 2023, section 3.4).

    A patch resized from the old size to the new gives the same tokens as before, as far as that is possible.

    Args:
        weight: [D, C, P, P].
        new: Height and width of the patch wanted.

    Returns:
        float32 [D, C, new height, new width].
    """
    # The matrix of the whole resize is the Kronecker product of both; so is its pseudo-inverse.
    rows = np.linalg.pinv(resize_matrix(weight.shape[2], new[0]))  # [P, new height]
    columns = np.linalg.pinv(resize_matrix(weight.shape[3], new[1]))  # [P, new width]
    return np.einsum("pR,qC,dcpq->dcRC", rows, columns, weight.astype(np.float64), optimize=True).astype(np.float32)


def adapt_channels(weight: np.ndarray, channels: int) -> np.ndarray:
    """A projection of 3-channel pictures for another number of channels.

    One channel gets the sum of all, since grey is equal red, green and blue; otherwise the channels are repeated and
    scaled so that the response to a picture of equal channels stays.

    Args:
        weight: [D, C, P, P].
        channels: Number wanted.

    Returns:
        float32 [D, channels, P, P].
    """
    weight = weight.astype(np.float32)
    old = weight.shape[1]
    if channels == old:
        return weight
    if channels == 1:
        return weight.sum(axis=1, keepdims=True)
    repeated = np.tile(weight, (1, -(-channels // old), 1, 1))[:, :channels]
    return repeated * np.float32(old / channels)
