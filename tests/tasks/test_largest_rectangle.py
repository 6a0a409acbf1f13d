from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tasks.collect.largest_rectangle import largest_rectangle


def brute_force_area(mask: np.ndarray) -> int:
    """Every rectangle, by a table of sums."""
    height, width = mask.shape
    table = np.zeros((height + 1, width + 1), dtype=int)
    table[1:, 1:] = mask.cumsum(0).cumsum(1)
    best = 0
    for top in range(height):
        for bottom in range(top + 1, height + 1):
            for left in range(width):
                rights = np.arange(left + 1, width + 1)
                true = table[bottom, rights] - table[top, rights] - table[bottom, left] + table[top, left]
                areas = (bottom - top) * (rights - left)
                best = max(best, int(areas[true == areas].max(initial=0)))
    return best


def test_all_masks_of_4_by_4() -> None:
    numbers = np.arange(1 << 16)
    best = np.zeros(len(numbers), dtype=int)
    for top, left in np.ndindex(4, 4):
        for bottom, right in np.ndindex(4 - top, 4 - left):
            cells = [(top + y) * 4 + left + x for y, x in np.ndindex(bottom + 1, right + 1)]
            bits = sum(1 << cell for cell in cells)
            best = np.maximum(best, np.where(numbers & bits == bits, len(cells), 0))
    masks = (numbers[:, None] >> np.arange(16) & 1).astype(bool).reshape(-1, 4, 4)
    for mask, area in zip(masks, best.tolist(), strict=True):
        x, y, width, height = largest_rectangle(mask)
        assert width * height == area
        assert mask[y : y + height, x : x + width].all()


@settings(max_examples=300)
@given(st.data())
def test_larger_masks_of_any_shape(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    mask = data.draw(arrays.arrays(bool, shape, fill=st.just(True)))
    x, y, width, height = largest_rectangle(mask)
    assert width * height == brute_force_area(mask)
    assert mask[y : y + height, x : x + width].all()
    assert largest_rectangle(np.asfortranarray(mask)) == (x, y, width, height)
    *_, turned_width, turned_height = largest_rectangle(mask.T)
    assert turned_width * turned_height == width * height


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (7, 3)])
def test_nothing_in_a_mask_without_true_cells(shape: tuple[int, int]) -> None:
    assert largest_rectangle(np.zeros(shape, dtype=bool)) == (0, 0, 0, 0)


def test_the_whole_mask_and_a_part_of_it() -> None:
    assert largest_rectangle(np.ones((3, 7), dtype=bool)) == (0, 0, 7, 3)
    mask = np.ones((3, 7), dtype=bool)
    mask[0, 2] = False
    assert largest_rectangle(mask) == (0, 1, 7, 2)


@pytest.mark.parametrize("mask", [np.ones(4, dtype=bool), np.ones((4, 4, 1), dtype=bool), np.full((4, 4), 255)])
def test_what_is_no_mask_is_an_error(mask: np.ndarray) -> None:
    with pytest.raises(ValueError, match="2-D bool array"):
        largest_rectangle(mask)


def test_a_thumbnail_takes_a_moment() -> None:
    mask = np.random.default_rng(0).random((632, 632)) < 0.999
    started = time.process_time()
    largest_rectangle(mask)
    assert time.process_time() - started < 1  # some hundredths of a second; a slow machine may be busy
