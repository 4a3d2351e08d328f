"""What the tests of Swin and Swin V2 ask of both."""

from __future__ import annotations

import re

import numpy as np
import paddle
from paddle import nn

from paddlevit.models import create_model
from tests.golden.fill import fill, image
from tests.models.checks import fill_by_name, relative_error
from tests.weights.files import golden


def our_name(name: str) -> str:
    """timm's name of a parameter in our words: timm puts a merging before the next stage, the paper after its own."""
    name = re.sub(r"^layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name)
    return name.replace("head.fc.", "head.")


def golden_error(name: str) -> float:
    """Relative error of our logits for a golden file made with timm; fails unless every parameter has its value."""
    meta, reference = golden(name)
    model = create_model(meta["model"])
    model.eval()
    assert sum(int(parameter.size) for parameter in model.parameters()) == meta["params"]
    linear = {f"{path}.weight" for path, layer in model.named_sublayers() if isinstance(layer, nn.Linear)}
    state = {}
    for key, shape in meta["state"].items():
        value = fill(key, tuple(shape))
        state[our_name(key)] = value.T if our_name(key) in linear else value
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in state.items()}
    model.set_state_dict(state)
    with paddle.no_grad():
        return relative_error(model(paddle.to_tensor(image(tuple(meta["input"])))).numpy(), reference)


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
