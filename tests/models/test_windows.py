"""Windows: which tokens they hold, which pairs they keep apart, and the bias of a pair."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlevit.models.swin import WindowAttention, window_partition, window_reverse
from paddlevit.models.windows import Windows, relative_position_index, select_bias
from tests.models import swin_checks


def numpy_map(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_window_partition_cuts_row_by_row():
    x = numpy_map(2, 6, 9, 4)
    windows = window_partition(paddle.to_tensor(x), 3).numpy()
    assert windows.shape == (2 * 2 * 3, 3, 3, 4)
    for number, (picture, row, column) in enumerate(np.ndindex(2, 2, 3)):
        expected = x[picture, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        np.testing.assert_array_equal(windows[number], expected)


def test_window_reverse_is_the_inverse():
    x = numpy_map(2, 6, 9, 4)
    np.testing.assert_array_equal(window_reverse(window_partition(x, 3), 3, 6, 9), x)
    windows = paddle.to_tensor(numpy_map(12, 3, 3, 4))
    again = window_partition(window_reverse(windows, 3, 6, 9), 3)
    np.testing.assert_array_equal(again.numpy(), windows.numpy())


@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 11), (5, 13)])
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_windows_hold_the_papers_tokens(height, width, shift):
    windows = Windows(4, shift)
    index, inverse, _ = windows(height, width)
    rows, columns = swin_checks.attended_places(windows, height, width)
    inside = (rows < height) & (columns < width)
    expected = np.where(inside, rows * width + columns, height * width)
    np.testing.assert_array_equal(index.numpy(), expected.reshape(-1))
    np.testing.assert_array_equal(index.numpy()[inverse.numpy()], np.arange(height * width))


@pytest.mark.parametrize(("side", "height", "width"), [(7, 56, 56), (4, 8, 12), (4, 9, 11), (5, 16, 6)])
def test_the_mask_keeps_opposite_edges_apart(side, height, width):
    windows = Windows(side, side // 2)
    mask = windows(height, width)[2].numpy()
    rows, columns = swin_checks.attended_places(windows, height, width)
    # Neighbours in a window are neighbours in the map unless one of them came round from the other edge.
    local_rows, local_columns = np.divmod(np.arange(side * side), side)
    apart = np.zeros(mask.shape, bool)
    for places, local in ((rows, local_rows), (columns, local_columns)):
        apart |= places[:, :, None] - places[:, None] != local[:, None] - local
    np.testing.assert_array_equal(mask, np.where(apart, -100.0, 0.0).astype("float32"))


def test_masked_pairs_at_56_by_56():
    mask = Windows(7, 3)(56, 56)[2].numpy()
    assert mask.shape == (64, 49, 49)
    # 14 windows at the right and bottom edges are cut 4 : 3, the corner both ways; the others are whole.
    assert 18240 == 14 * 2 * 28 * 21 + 49**2 - (16**2 + 2 * 12**2 + 9**2) == (mask != 0).sum()
    assert (mask[0] == 0).all()


def test_relative_position_index():
    index = relative_position_index(7)
    assert index[0, :3].tolist() == [84, 83, 82]
    assert (index.min(), index.max()) == (0, 168)
    for one in range(49):
        for other in range(49):
            down, right = one // 7 - other // 7, one % 7 - other % 7
            assert index[one, other] == (down + 6) * 13 + right + 6


def test_the_bias_of_a_pair_is_the_tables_row_of_its_offset():
    attn = WindowAttention(8, 3, 2)
    table = paddle.to_tensor(numpy_map(25, 2))
    expected = table.numpy()[relative_position_index(3)].transpose(2, 0, 1)
    np.testing.assert_array_equal(select_bias(attn, table).numpy(), expected)


def test_windows_are_computed_once_per_size():
    windows = Windows(4, 2)
    first = windows(8, 12)
    assert all(again is tensor for again, tensor in zip(windows(8, 12), first))
    assert windows(12, 8)[0] is not first[0]
    assert windows.state_dict() == {}


def test_a_window_that_covers_the_map_is_not_shifted():
    shifted, whole = Windows(7, 3), Windows(7, 0)
    for size in [(7, 7), (5, 6), (7, 20)]:
        assert shifted(*size)[2] is None
        np.testing.assert_array_equal(shifted(*size)[0].numpy(), whole(*size)[0].numpy())
    assert shifted(8, 9)[2] is not None
