"""What the tests of Swin and Swin V2 ask of both."""

from __future__ import annotations

import numpy as np
import paddle

from tests.models.checks import fill_by_name

# timm's names and ours: timm puts a merging before the next stage, the paper after its own.
TIMM_NAMES = [(rf"^layers\.{stage}\.downsample\.", f"layers.{stage - 1}.downsample.") for stage in (1, 2, 3)]
TIMM_NAMES += [(r"^head\.fc\.", "head.")]


def checkpoint_effect(build, x: paddle.Tensor) -> tuple[int, float]:
    """How often recomputing ran a block again, and the largest change of a gradient against keeping activations."""
    counts, gradients = [], []
    for use_checkpoint in (False, True):
        model, calls = fill_by_name(build(use_checkpoint=use_checkpoint)), []
        for layer in model.layers:
            for block in layer.blocks:
                block.register_forward_post_hook(lambda *_, calls=calls: calls.append(1))
        model.train()
        paddle.seed(5)
        out = model(x)
        (out * out).sum().backward()
        counts.append(len(calls))
        gradients.append([parameter.grad.numpy() for parameter in model.parameters()])
    return counts[1] - counts[0], max(float(np.abs(a - b).max()) for a, b in zip(*gradients))


def attended_places(windows, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, [nW, M * M] each, of the token in each place of shifted windows, one by one from the paper.

    The windows start M - shift tokens before the map's first whole window; what leaves the map at the bottom or right
    is filled up from the top or left.
    """
    side, shift = windows.window_size, windows.shift_size
    padded_height, padded_width = -(-height // side) * side, -(-width // side) * side
    rows, columns = [], []
    for top in range(0, padded_height, side):
        for left in range(0, padded_width, side):
            places = [(top + i + shift, left + j + shift) for i in range(side) for j in range(side)]
            rows.append([row % padded_height for row, _ in places])
            columns.append([column % padded_width for _, column in places])
    return np.array(rows), np.array(columns)
