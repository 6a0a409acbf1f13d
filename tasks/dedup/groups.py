"""Groups of near-duplicates, and which image of each is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

ALONE = -1
BLOCK_ROWS = 1024
MOST_TO_CUT = 20_000  # complete linkage keeps half of all cosines of a group, in float64: 1.6 GB


@dataclass(frozen=True)
class Group:
    """Two rows or more, ascending, and the smallest cosine between two of them, in float32.

    `is_chain` tells that this cosine is below the one that makes a pair: the ends are joined through others alone.
    """

    rows: Rows
    smallest_cosine: float
    is_chain: bool


def group_numbers(
    n: int, i: Rows, j: Rows, embeddings: Floats, *, min_cosine: float, how: Literal["connected", "complete"]
) -> Rows:
    """Number the groups of near-duplicates.

    Parameters
    ----------
    n
        Number of images.
    i, j
        (m,) the pairs whose cosine is at least `min_cosine`.
    embeddings
        (n, d) float32, L2-normalised; read for ``complete`` alone.
    min_cosine
        Cosine that makes a pair.
    how
        ``connected``: images that a chain of pairs joins are one group. ``complete``: each connected group is cut by
        complete linkage (Sørensen 1948), so that every two images of a group are a pair.

    Returns
    -------
    ndarray
        (n,) int64: the number of each image's group, in the order of their first rows, or -1 for an image without any.

    Raises
    ------
    ValueError
        When a connected group is too large for complete linkage.
    """
    _, component = connected_components(
        coo_array((np.ones(len(i), dtype=np.bool_), (i, j)), shape=(n, n)), directed=False
    )
    numbers = component.astype(np.int64)
    if how == "complete":
        next_number = int(numbers.max(initial=-1)) + 1
        for rows in _members(numbers):
            if len(rows) > MOST_TO_CUT:
                raise ValueError(
                    f"a group of {len(rows):,} images is too large for complete linkage (most: {MOST_TO_CUT:,}): use connected"
                )
            if len(rows) > 2:
                parts = _cut(embeddings[rows], min_cosine)
                numbers[rows] = next_number + parts
                next_number += int(parts.max()) + 1
    return _renumbered(numbers)


def groups(numbers: Rows, embeddings: Floats, *, min_cosine: float) -> list[Group]:
    """The groups of `group_numbers`, the largest first, each with its smallest inner cosine."""
    found = []
    for rows in _members(numbers):
        smallest = _smallest_cosine(embeddings[rows].astype(np.float32, copy=False))
        found.append(Group(rows, smallest, smallest < min_cosine))
    return sorted(found, key=lambda group: (-len(group.rows), int(group.rows[0])))


def kept_rows(numbers: Rows, order: Sequence[tuple[Any, ...]]) -> npt.NDArray[np.bool_]:
    """Which images are kept: those without a group, and of each group the first in `order`.

    Parameters
    ----------
    numbers
        (n,) as of `group_numbers`.
    order
        (n,) of tuples that compare, such as `keep_order` makes; no two of a group equal.

    Returns
    -------
    ndarray
        (n,) boolean.
    """
    kept: npt.NDArray[np.bool_] = np.asarray(numbers == ALONE)
    for rows in _members(numbers):
        kept[min(rows, key=lambda row: order[row])] = True
    return kept


def keep_order(
    width_px: int, height_px: int, n_metadata: int, captured_at: float | None, image_id: str
) -> tuple[int, int, float, str]:
    """What an image is preferred by: most pixels, then most metadata, then the oldest, then the smallest id.

    An image without a date comes after all that have one.

    >>> keep_order(4, 3, 0, None, "b") < keep_order(3, 3, 9, 0.0, "a")
    True
    """
    return (-width_px * height_px, -n_metadata, float("inf") if captured_at is None else captured_at, image_id)


def _members(numbers: Rows) -> list[Rows]:
    """Rows of each group of two or more, in the order of their numbers; images alone are no group."""
    order = np.argsort(numbers, kind="stable")
    cuts = np.flatnonzero(np.diff(numbers[order])) + 1
    return [rows for rows in np.split(order, cuts) if len(rows) > 1 and numbers[rows[0]] != ALONE]


def _smallest_cosine(vectors: Floats) -> float:
    """The smallest cosine between two rows, block by block: a chain may be long."""
    smallest = np.inf
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[start : start + BLOCK_ROWS]
        cosines = block @ vectors[start:].T
        cosines[np.tril_indices(len(block))] = np.inf
        smallest = min(smallest, float(cosines.min(initial=np.inf)))
    return smallest


def _cut(vectors: Floats, min_cosine: float) -> Rows:
    """Parts, from 0, of one connected group, by complete linkage of 1 - cosine."""
    distance = 1.0 - (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(distance, 0.0)
    distance = np.maximum((distance + distance.T) / 2, 0.0)
    tree = linkage(squareform(distance, checks=False), method="complete")
    # A hair more than the distance of a pair that is just one, so that rounding does not part it.
    parts: Rows = fcluster(tree, 1.0 - min_cosine + 1e-7, criterion="distance").astype(np.int64) - 1
    return parts


def _renumbered(numbers: Rows) -> Rows:
    """Groups numbered by their first rows; images alone are -1."""
    result = np.full(len(numbers), ALONE, dtype=np.int64)
    for number, rows in enumerate(sorted(_members(numbers), key=lambda rows: int(rows.min()))):
        result[rows] = number
    return result
