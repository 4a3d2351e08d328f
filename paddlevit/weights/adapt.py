"""Deciding how a tensor becomes one of another shape: positions, window biases, patches, channels, classifiers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import paddle
from paddle import nn

from paddlevit.models.windows import Windows
from paddlevit.weights.arrays import LazyArray
from paddlevit.weights.resize import adapt_channels, resize_bias_table, resize_patches, resize_positions

Shape = tuple[int, ...]

# Tokens before the patches, in the order of their positions, by the last part of their name.
_TOKENS = (("class_token", "cls_token"), ("distillation_token",))


@dataclass(frozen=True)
class Step:
    """How a tensor is changed before it is put in place."""

    change: Callable[[np.ndarray], np.ndarray]
    """From the file's values to the model's."""
    what: str
    """For the report."""


def head_mismatch(kind: str, found: Shape, shape: Shape) -> str | None:
    """Why a classifier cannot be taken over, when its number of classes differs; None otherwise."""
    if kind != "head" or len(found) != len(shape) or found[-1] == shape[-1]:
        return None
    return f"the file has {found[-1]} classes and the model {shape[-1]}; a new classifier is in place"


def owner(model: nn.Layer, name: str) -> nn.Layer:
    """The layer that holds the parameter `name`."""
    layer = model
    for part in name.split(".")[:-1]:
        layer = getattr(layer, part)
    return layer


class Adaptation:
    """What fits a file's tensors to a model.

    Args:
        model: The model.
        shapes: Our names of what the file holds, with the shapes there in our layout.
        state_shapes: The model's names and shapes.
        read: Returns one of the file's tensors in our layout.
        source_grid: Rows and columns of patches that the file's positions are for; None finds out.
        class_rows: How many positions the file has before those of the patches; None finds out.
    """

    def __init__(
        self,
        model: nn.Layer,
        shapes: Mapping[str, Shape],
        state_shapes: Mapping[str, Shape],
        read: Callable[[str], np.ndarray],
        source_grid: tuple[int, int] | None,
        class_rows: int | None,
    ) -> None:
        self.model, self.shapes, self.state_shapes, self.read = model, shapes, state_shapes, read
        self.source_grid, self.class_rows = source_grid, class_rows
        self.notes: list[str] = []

    def step(self, kind: str, target: str) -> Step | None:
        """How the file's `target` becomes the model's; None when it is taken as it is.

        Raises:
            ValueError: There is no way.
        """
        found, shape = self.shapes[target], self.state_shapes[target]
        if kind == "positions" and len(found) == len(shape) == 3 and found[::2] == shape[::2]:
            return self._positions(target)
        if _leaf(target) in _TOKENS[0] and found == shape:
            return self._class_token(target)
        if found == shape:
            return None
        if kind == "head" and len(found) == 2 and found[0] == 2 * shape[0]:
            raise ValueError(
                f"{target} takes {found[0]} features, class token and mean together as Hugging Face's DINOv2 does, and"
                f" the model's {shape[0]}: build the model with num_classes=0 or another number of classes."
            )
        if kind == "table" and len(found) == 2 and found[1] == shape[1] and _is_table(found[0]):
            return self._table(target)
        if kind == "patch" and len(found) == len(shape) == 4 and found[0] == shape[0] and 0 not in found:
            return _patches(found, shape)
        raise ValueError(f"{target} is {list(found)} in the file and {list(shape)} in the model.")

    # Positions

    def _positions(self, target: str) -> Step | None:
        layer = owner(self.model, target)
        new = getattr(layer, "grid_size", None)
        count = self.state_shapes[target][1]
        if new is None:
            if self.shapes[target] != self.state_shapes[target]:
                raise ValueError(f"{target} has {self.shapes[target][1]} positions and the model {count}.")
            return None
        prefix = count - new[0] * new[1]
        old, rows = self._file_grid(target, new, prefix)
        side = math.isqrt(old[0] * old[1])
        if self.source_grid is None and old == tuple(new) and side * side == old[0] * old[1] and side != old[0]:
            self.notes.append(
                f"positions taken as {old[0]} x {old[1]} as the model has; source_grid=({side}, {side}) resizes them"
            )
        wanted = self._tokens(self.state_shapes)[:prefix]
        held = self._tokens(self.shapes)[:rows]
        if old == tuple(new) and held == wanted:
            return None
        kept = getattr(layer, _leaf(target))

        def change(positions: np.ndarray) -> np.ndarray:
            first = [self._prefix_row(positions, kept, held, wanted, token) for token in wanted]
            patches = positions[:, rows:]
            if old != tuple(new):
                patches = resize_positions(patches, old, tuple(new), 0)
            return np.concatenate([*first, patches], axis=1)

        what = f"{old[0]} x {old[1]} positions"
        if old != tuple(new):
            what += f" resized to {new[0]} x {new[1]}"
        if held != wanted:
            what += f", {_said(held)} in the file and {_said(wanted)} in the model"
        return Step(change, what)

    def _prefix_row(
        self, positions: np.ndarray, kept: paddle.Tensor, held: list[int], wanted: list[int], token: int
    ) -> np.ndarray:
        """[1, 1, D], the position of a class or distillation token."""
        if token in held:
            at = held.index(token)
            return positions[:, at : at + 1]
        if token in self._tokens(self.shapes):  # the file's token has none: the same as a position of zeros
            return np.zeros_like(positions[:, :1])
        at = wanted.index(token)  # the file has no such token: the model keeps its own
        return kept[:, at : at + 1].numpy().astype(positions.dtype)

    def _tokens(self, shapes: Mapping[str, Shape]) -> list[int]:
        leaves = {_leaf(name) for name in shapes}
        return [number for number, names in enumerate(_TOKENS) if leaves & set(names)]

    def _file_grid(self, target: str, new: tuple[int, int], prefix: int) -> tuple[tuple[int, int], int]:
        """Rows and columns of the file's positions, and how many come before them."""
        count = self.shapes[target][1]
        most = len(self._tokens(self.shapes))
        if self.source_grid is not None:
            old = self.source_grid
            if 0 <= count - old[0] * old[1] <= most:
                return old, count - old[0] * old[1]
            raise ValueError(f"{target} has {count} positions in the file, which are no grid of {old[0]} x {old[1]}.")
        same_tokens = self._tokens(self.shapes) == self._tokens(self.state_shapes)
        if count == self.state_shapes[target][1] and same_tokens and self.class_rows in (None, prefix):
            return tuple(new), prefix  # type: ignore[return-value]
        for rows in range(most, -1, -1) if self.class_rows is None else [self.class_rows]:
            side = math.isqrt(max(count - rows, 0))
            if count - rows == new[0] * new[1]:
                return tuple(new), rows  # type: ignore[return-value]
            if side and side * side == count - rows:
                return (side, side), rows
        raise ValueError(f"{target} has {count} positions in the file, which is no square; give source_grid.")

    def _class_token(self, target: str) -> Step | None:
        """A class token whose position the model does not have gets it added, which gives the same tokens."""
        positions = next((name for name in self.shapes if _leaf(name) in ("position_embedding", "pos_embed")), None)
        if positions is None or positions not in self.state_shapes:
            return None
        layer = owner(self.model, positions)
        new = getattr(layer, "grid_size", None)
        if new is None or len(self.shapes[positions]) != 3 or len(self.state_shapes[positions]) != 3:
            return None
        prefix = self.state_shapes[positions][1] - new[0] * new[1]
        _, rows = self._file_grid(positions, new, prefix)
        if not rows or prefix:
            return None
        return Step(lambda token: token + self.read(positions)[:, :1], "its position added, as the model gives it none")

    # Windows

    def window_notes(self, arrays: Mapping[str, LazyArray]) -> list[str]:
        """What to know when Swin V2's continuous position biases were learned for another window.

        They fit any window without a change; the file's tables of coordinates tell which one they were learned for.
        """
        changes = {}
        for name, array in arrays.items():
            target = name.replace("relative_coords_table", "logit_scale")
            if name == target or len(array.shape) != 4 or target not in self.state_shapes:
                continue
            layer, old = owner(self.model, target), (array.shape[1] + 1) // 2
            if old not in (layer.window_size, layer.pretrained_window_size):
                changes[old, layer.window_size] = True
        return [
            f"position biases learned in windows of {old} x {old} are spread over {new} x {new};"
            f" pretrained_window_size={old} would keep their scale"
            for old, new in changes
        ]

    def shift_notes(self) -> list[str]:
        """Where timm's Swin gives other numbers: it shifts a map before it pads it, and each side by itself."""
        maps = {}
        for layer in self.model.sublayers():
            if isinstance(layer, Windows) and layer.shift_size and layer.map_size:
                (low, high), side = sorted(layer.map_size), layer.window_size
                # Padding at the end or before what came round: the same windows when that begins one.
                moved = any(size % side and (size - layer.shift_size) % side for size in layer.map_size)
                if moved if low > side else high > side:
                    maps[f"{layer.map_size[0]} x {layer.map_size[1]} in windows of {side} x {side}"] = True
        if not maps:
            return []
        return [f"timm shifts maps of {', '.join(maps)} in another way: its logits differ at this picture size"]

    def _table(self, target: str) -> Step:
        window = owner(self.model, target).window_size
        old = (math.isqrt(self.shapes[target][0]) + 1) // 2
        what = f"position biases of windows of {old} x {old} resized to {window} x {window}"
        return Step(lambda table: resize_bias_table(table, window), what)


def _patches(found: Shape, shape: Shape) -> Step:
    what = []
    if found[1] != shape[1]:
        how = "summed to 1" if shape[1] == 1 else f"repeated to {shape[1]}"
        what.append(f"{found[1]} input channels {how}")
    if found[2:] != shape[2:]:
        what.append(f"patches of {found[2]} x {found[3]} resized to {shape[2]} x {shape[3]}")

    def change(weight: np.ndarray) -> np.ndarray:
        weight = adapt_channels(weight, shape[1])
        return weight if found[2:] == shape[2:] else resize_patches(weight, (shape[2], shape[3]))

    return Step(change, " and ".join(what))


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _is_table(count: int) -> bool:
    side = math.isqrt(count)
    return side * side == count and side % 2 == 1


def _said(tokens: list[int]) -> str:
    return (
        " and ".join(f"one for the {('class', 'distillation')[token]} token" for token in tokens) or "none before them"
    )
