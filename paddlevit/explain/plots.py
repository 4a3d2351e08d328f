"""Drawing what the other modules compute.

All colours come from scales that grow from dark to bright and differ in blue and yellow, so that a picture says the
same in grey print and to colour-blind eyes. Matplotlib is an extra and is imported on use.

Shapes: H W image height and width, h heads; a picture is [H, W, C] with values in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from paddlevit.complexity import SizePoint

HEAT = "cividis"
MIN_SIDE = 224


def _matplotlib() -> Any:
    try:
        import matplotlib.figure
    except ImportError as error:
        raise ImportError('Pictures need Matplotlib: pip install "paddlevit[plot]".') from error
    return matplotlib


def _figure(width: float, height: float, layout: str | None = "constrained") -> Any:
    """An empty figure of some inches, without Matplotlib's global state."""
    return _matplotlib().figure.Figure(figsize=(width, height), dpi=120, layout=layout)


def stretch(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1, the smallest to the largest; all 0 when they are equal."""
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def enlarge(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[rows, columns] -> [H, W], bilinear; the middle of each cell keeps its value."""
    grid = Image.fromarray(values.astype(np.float32))
    return np.asarray(grid.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map over its picture: the picture in grey, the map from dark blue (its least) to yellow (its most).

    Args:
        picture: [H, W, C]; small pictures are enlarged to 224 pixels first.
        heat: [rows, columns].

    Returns:
        uint8 [H', W', 3].
    """
    grey = enlarged(picture).mean(axis=2)  # [H', W']
    colours = heat_map(enlarge(stretch(heat), grey.shape))
    return np.rint(255 * (0.3 * grey[:, :, None] + 0.7 * colours)).astype(np.uint8)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """A picture of at least 224 pixels, every pixel repeated as often as that needs."""
    factor = max(1, math.ceil(MIN_SIDE / min(picture.shape[:2])))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def heat_map(heat: np.ndarray) -> np.ndarray:
    """[rows, columns] -> [rows, columns, 3], from dark blue (the least) to yellow (the most), in 0..1."""
    return _matplotlib().colormaps[HEAT](stretch(heat))[:, :, :3]


def save(picture: np.ndarray, path: Path) -> None:
    """Write a picture, bytes or values in 0..1, as a PNG."""
    pixels = picture if picture.dtype == np.uint8 else np.rint(255 * picture).astype(np.uint8)
    Image.fromarray(pixels).save(path)


def component_colours(components: np.ndarray) -> np.ndarray:
    """Three principal components as colours: the first is lightness, the second blue to yellow, the third a tint.

    Args:
        components: [rows, columns, 3], each in 0..1.

    Returns:
        [rows, columns, 3], red, green and blue in 0..1.
    """
    light, yellow, tint = components[..., 0], components[..., 1] - 0.5, components[..., 2] - 0.5
    colours = (
        0.15 + 0.7 * light[..., None] + yellow[..., None] * [0.35, 0.15, -0.6] + tint[..., None] * [0.2, -0.1, 0.1]
    )
    return np.clip(colours, 0.0, 1.0)


def _shown(picture: np.ndarray) -> np.ndarray:
    """[H, W, C] as Matplotlib takes it: three channels are colours, any other number is averaged to grey."""
    return picture if picture.shape[2] == 3 else picture.mean(axis=2)


def draw_tiles(tiles: Mapping[str, np.ndarray], path: Path, title: str, columns: int = 6, side: float = 2.2) -> None:
    """Pictures side by side, each under its name, as a PNG.

    Args:
        tiles: Names and pictures, [H, W, C] in 0..1 or bytes.
        path: Where to write.
        title: One line above them.
        columns: Most pictures in a row.
        side: Width of one in inches.
    """
    rows = math.ceil(len(tiles) / columns)
    columns = math.ceil(len(tiles) / rows)
    height, width = next(iter(tiles.values())).shape[:2]
    gap, name_height, title_height = 0.06, 0.24, 0.3
    cell_width, cell_height = side + gap, side * height / width + name_height
    total_width, total_height = cell_width * columns + gap, cell_height * rows + title_height + gap
    figure = _figure(total_width, total_height, layout=None)
    for i, (name, tile) in enumerate(tiles.items()):
        left, bottom = gap + i % columns * cell_width, gap + (rows - 1 - i // columns) * cell_height
        box = (left / total_width, bottom / total_height, side / total_width, side * height / width / total_height)
        axis = figure.add_axes(box)
        axis.imshow(_shown(tile), cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        axis.set_title(name, fontsize=8, pad=2)
        axis.set_axis_off()
    figure.text(0.5, 1 - 0.5 * title_height / total_height, title, ha="center", va="center", fontsize=10)
    figure.savefig(path)


def draw_map(
    picture: np.ndarray, heat: np.ndarray, path: Path, title: str, point: tuple[int, int] | None = None
) -> None:
    """A map beside its picture, with a scale of its values, as a PNG.

    Args:
        picture: [H, W, C] in 0..1.
        heat: [rows, columns].
        path: Where to write.
        title: One line above both.
        point: x and y of a pixel of the picture, to be marked.
    """
    height, width = picture.shape[:2]
    figure = _figure(6.6, 3.0 * height / width + 0.5)
    left, right = figure.subplots(1, 2)
    left.imshow(_shown(picture), cmap="gray", vmin=0, vmax=1)
    shown = right.imshow(heat, cmap=HEAT, extent=(0, width, height, 0), interpolation="nearest")
    figure.colorbar(shown, ax=right, shrink=0.85)
    for axis in (left, right):
        axis.set_axis_off()
    if point is not None:
        left.plot(*point, marker="+", color="white", markersize=15, markeredgewidth=4)
        left.plot(*point, marker="+", color="black", markersize=13, markeredgewidth=2)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)


def draw_positions(similarity: np.ndarray, path: Path) -> None:
    """`position_similarity` as a grid of grids: where each patch stands, how alike all others are to it.

    Args:
        similarity: [rows, columns, rows, columns].
        path: Where to write the PNG.
    """
    rows, columns = similarity.shape[:2]
    # At most 14 rows and columns of grids; more would be too small to see.
    shown_rows, shown_columns = (
        np.unique(np.linspace(0, n - 1, min(n, 14)).round().astype(int)) for n in (rows, columns)
    )
    shown = similarity[shown_rows][:, shown_columns]  # [R, S, rows, columns]
    shown = np.pad(shown, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)  # a white line between the grids
    shown = shown.transpose(0, 2, 1, 3).reshape(len(shown_rows) * (rows + 1), len(shown_columns) * (columns + 1))
    figure = _figure(8.0, 6.6 * shown.shape[0] / shown.shape[1] + 0.5)
    axis = figure.subplots()
    image = axis.imshow(shown[:-1, :-1], cmap=HEAT, vmin=-1.0, vmax=1.0, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title("Cosine similarity of a patch's position to all others", fontsize=10)
    figure.colorbar(image, ax=axis, shrink=0.7)
    figure.savefig(path)


def draw_filters(components: np.ndarray, shares: np.ndarray, path: Path) -> None:
    """`patch_filters` as small pictures, as a PNG."""
    tiles = {
        f"{i + 1}: {share:.1%}": stretch(component.transpose(1, 2, 0))
        for i, (component, share) in enumerate(zip(components, shares))
    }
    draw_tiles(
        tiles, path, "Principal components of the patch filters, and the variance they explain", columns=7, side=1.3
    )


def draw_distances(distances: np.ndarray, path: Path) -> None:
    """`attention_distance`, [layers, h], as one point per head over the depth, as a PNG."""
    figure = _figure(6.0, 4.0)
    axis = figure.subplots()
    depth = np.arange(len(distances))
    for head in np.sort(distances, axis=1).T:  # NaN last
        axis.scatter(depth, head, color="#00224e", s=16, alpha=0.7, linewidths=0)
    axis.plot(depth, np.nanmean(distances, axis=1), color="#b59f2d", linewidth=2, label="mean of the heads")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("attention layer")
    axis.set_ylabel("mean attention distance in pixels")
    axis.set_ylim(0.0, 1.15 * np.nanmax(distances))
    axis.legend(frameon=False)
    figure.savefig(path)


def draw_complexity(points: Sequence[SizePoint], path: Path, title: str, windows: str = "7") -> None:
    """What attention costs over the image size: counted, and by both formulas of the Swin paper, as a PNG.

    Args:
        points: Of `complexity.attention_over_sizes`.
        path: Where to write.
        title: The model's name.
        windows: M of the windowed formula; `M` where layers differ.
    """
    figure = _figure(6.4, 4.2)
    axis = figure.subplots()
    sizes = [point.image_size for point in points]
    windows = "each layer's own" if windows == "M" else windows
    lines = [
        ("whole model, counted", "total", dict(color="0.6", marker="s", linestyle=":")),
        (r"global: $4hwC^2 + 2(hw)^2C$", "global_formula", dict(color="#00224e", linestyle="-")),
        (rf"windows: $4hwC^2 + 2M^2hwC$, M = {windows}", "window_formula", dict(color="#b59f2d", linestyle="--")),
        ("attention, counted", "counted", dict(color="black", marker="o", linestyle="none", fillstyle="none")),
    ]
    for label, field, style in lines:
        axis.plot(sizes, [getattr(point, field) / 1e9 for point in points], label=label, **style)
    axis.set_xlabel("image size in pixels")
    axis.set_ylabel("multiply-adds in billions")
    axis.set_yscale("log")
    axis.set_title(title, fontsize=10)
    axis.legend(frameon=False, fontsize=9)
    figure.savefig(path)
