"""Pictures: the right place, the right value, readable without colour."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

from paddlevit.complexity import attention_over_sizes
from paddlevit.explain import plots
from paddlevit.models.vit import VisualTransformer


def lightness(picture: np.ndarray) -> np.ndarray:
    """What a grey print shows."""
    return picture.astype(np.float64) @ [0.299, 0.587, 0.114]


def test_stretch():
    np.testing.assert_allclose(plots.stretch(np.array([2.0, 3.0, 6.0])), [0.0, 0.25, 1.0])
    np.testing.assert_array_equal(plots.stretch(np.full((2, 2), 5.0)), np.zeros((2, 2)))


@pytest.mark.parametrize("place", [(0, 0), (1, 4), (3, 5)])
def test_the_brightest_spot_lies_over_its_patch(place):
    heat = np.zeros((4, 6))
    heat[place] = 1.0
    shown = lightness(plots.overlay(np.full((256, 384, 3), 0.5), heat))
    assert shown.shape == (256, 384)  # patches of 64 x 64 pixels
    row, column = np.unravel_index(shown.argmax(), shown.shape)
    assert (row // 64, column // 64) == place
    centre = shown[64 * place[0] + 31, 64 * place[1] + 31]
    assert centre == pytest.approx(shown.max(), abs=3)
    assert centre - shown.min() > 80


def test_small_pictures_are_enlarged():
    picture = np.random.default_rng(0).random((20, 30, 1))
    assert plots.enlarged(picture).shape == (240, 360, 1)
    assert plots.enlarged(np.zeros((300, 400, 3))).shape == (300, 400, 3)
    assert plots.overlay(picture, np.eye(3)).shape == (240, 360, 3)


def test_colours_grow_lighter_with_the_value():
    shades = lightness(plots.heat_map(np.linspace(0, 1, 50)[None])[0])
    assert (np.diff(shades) > 0).all()


def test_component_colours():
    grid = np.full((3, 11, 3), 0.5)
    for component in range(3):
        grid[component, :, component] = np.linspace(0, 1, 11)
    colours = plots.component_colours(grid)
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert (np.diff(lightness(colours[0])) > 0).all()
    red, green, blue = colours[1, -1] - colours[1, 0]
    assert min(red, green) > 0 > blue  # from blue to yellow
    # Red and green never go apart by more than blue and yellow: that is the axis which many do not see.
    apart = np.ptp(colours[..., 0] - colours[..., 1])
    assert apart < 0.5 * np.ptp(colours[..., 2] - colours[..., :2].mean(axis=-1))


def test_every_drawing_is_written(tmp_path):
    rng = np.random.default_rng(0)
    plots.draw_tiles({"a": rng.random((8, 9, 3)), "b": rng.random((8, 9, 1))}, tmp_path / "tiles.png", "two")
    plots.draw_map(rng.random((8, 12, 3)), rng.random((2, 3)), tmp_path / "map.png", "map")
    plots.draw_positions(rng.random((16, 20, 16, 20)), tmp_path / "positions.png")
    plots.draw_filters(rng.normal(size=(5, 3, 4, 4)), np.full(5, 0.1), tmp_path / "filters.png")
    plots.draw_distances(np.array([[3.0, 9.0, np.nan], [2.0, 4.0, 5.0]]), tmp_path / "distance.png")

    def build(size):
        return VisualTransformer(size, 8, embed_dim=16, depth=1, num_heads=2, num_classes=2)

    with paddle.no_grad():
        points = attention_over_sizes(build, [16, 32])
    plots.draw_complexity(points, tmp_path / "complexity.png", "small ViT")
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert np.ptp(np.asarray(image.convert("L"))) > 100
    assert len(list(tmp_path.iterdir())) == 6


def test_a_point_is_marked_in_the_picture(tmp_path):
    for name, point in (("plain", None), ("marked", (2, 6))):
        plots.draw_map(np.full((8, 12, 3), 0.5), np.zeros((2, 3)), tmp_path / f"{name}.png", "map", point)
    plain, marked = (np.asarray(Image.open(tmp_path / f"{name}.png"), np.int64) for name in ("plain", "marked"))
    row, column = (places.mean() for places in np.nonzero((plain != marked).any(axis=-1)))
    assert row > plain.shape[0] / 2  # y is 6 of 8
    assert column < plain.shape[1] / 4  # x is 2 of 12 in the left half


def test_tiles_fill_their_rows_evenly(tmp_path):
    tiles = {str(i): np.zeros((10, 10, 3)) for i in range(8)}
    plots.draw_tiles(tiles, tmp_path / "narrow.png", "", columns=6)  # two rows of four
    plots.draw_tiles(tiles, tmp_path / "wide.png", "", columns=8, side=1.0)
    with Image.open(tmp_path / "narrow.png") as narrow, Image.open(tmp_path / "wide.png") as wide:
        assert narrow.width == pytest.approx(4 * 2.2 * 120, rel=0.05)
        assert wide.width == pytest.approx(8 * 1.0 * 120, rel=0.1)
        assert narrow.height > 1.5 * wide.height
