"""The largest rectangle of True cells in a mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


def largest_rectangle(mask: Bools) -> tuple[int, int, int, int]:
    """The largest axis-aligned rectangle of True cells, by number of cells; exact, O(width · height).

    Parameters
    ----------
    mask
        Rows from top to bottom, (height, width), bool.

    Returns
    -------
    tuple[int, int, int, int]
        x and y of its upper left cell, width and height in cells; all 0 when no cell is True. Of equally large
        rectangles always the same one is taken: one whose lowest row comes first.
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"a mask is a 2-D bool array, not {mask.ndim}-D {mask.dtype}")
    if not mask.any():
        return 0, 0, 0, 0
    left, right, top = maximal_rectangles(mask)
    bottom = np.arange(1, mask.shape[0] + 1)[:, None]
    areas = np.where(mask, (right - left) * (bottom - top), 0)
    y, x = np.unravel_index(int(areas.argmax()), mask.shape)
    west, north = int(left[y, x]), int(top[y, x])
    return west, north, int(right[y, x]) - west, int(y) + 1 - north


def maximal_rectangles(mask: Bools) -> tuple[Indices, Indices, Indices]:
    """For each True cell: its run of True cells upwards, widened to both sides as far as all its rows are True.

    The rectangle of the cell (y, x) has the columns ``left <= column < right`` and the rows ``top <= row <= y``. Every
    rectangle that cannot be made larger is among them: above one of its columns there is a False cell or the edge.

    Returns
    -------
    tuple[Indices, Indices, Indices]
        `left`, `right`, `top`, each (height, width); without meaning where `mask` is False.
    """
    height, width = mask.shape
    columns, rows = np.arange(width), np.arange(height)[:, None]
    left = np.maximum.accumulate(np.where(mask, 0, columns + 1), axis=1)
    right = np.minimum.accumulate(np.where(mask, width, columns)[:, ::-1], axis=1)[:, ::-1]
    top = np.maximum.accumulate(np.where(mask, 0, rows + 1), axis=0)
    # False cells bound nothing below them: there a run starts anew.
    left, right = np.where(mask, left, 0), np.where(mask, right, width)
    for y in range(1, height):
        np.maximum(left[y], left[y - 1], out=left[y], where=mask[y])
        np.minimum(right[y], right[y - 1], out=right[y], where=mask[y])
    return left, right, top
