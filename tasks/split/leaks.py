"""Whether images that belong together lie in different parts of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Rows = npt.NDArray[np.int64]
Parts = npt.NDArray[np.str_]


@dataclass(frozen=True)
class Leaks:
    """Pairs of images (m,) that lie in different parts, and why each may not: ``pair``, ``group`` or ``cell``."""

    i: Rows
    j: Rows
    why: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.i)


def find_leaks(
    parts: npt.ArrayLike,
    *,
    pairs: tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    groups: npt.ArrayLike | None = None,
    cells: npt.ArrayLike | None = None,
    ignored: Sequence[str] = (),
) -> Leaks:
    """Images that lie in different parts although they are near-duplicates, or share a group or a cell.

    Parameters
    ----------
    parts
        Part of each image, (n,).
    pairs
        Rows i and j, (m,) each, of near-duplicates.
    groups, cells
        Of each image, (n,). Of each one that lies in more than one part, the first image of the first part is named with the
        first image of each other part.
    ignored
        Parts that nothing is learned from or judged on, such as ``buffer``.

    Returns
    -------
    Leaks
        Empty where the split is clean.

    Examples
    --------
    >>> leaks = find_leaks(["train", "test", "test"], pairs=([0], [1]), groups=[1, 2, 2])
    >>> leaks.i.tolist(), leaks.j.tolist(), leaks.why
    ([0], [1], ('pair',))
    """
    part = np.asarray(parts, dtype=np.str_)
    used = ~np.isin(part, list(ignored))
    found: list[tuple[int, int, str]] = []
    if pairs is not None:
        i, j = (np.asarray(rows, dtype=np.int64) for rows in pairs)
        across = used[i] & used[j] & (part[i] != part[j])
        found += [(int(a), int(b), "pair") for a, b in zip(i[across], j[across], strict=True)]
    for why, given in (("group", groups), ("cell", cells)):
        if given is not None:
            found += [(a, b, why) for a, b in _divided(np.asarray(given), part, used)]
    return Leaks(
        np.array([each[0] for each in found], dtype=np.int64),
        np.array([each[1] for each in found], dtype=np.int64),
        tuple(each[2] for each in found),
    )


def _divided(group: npt.NDArray[np.generic], part: Parts, used: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Of each group that lies in more than one part, a row of its first part with one of each other."""
    rows = np.flatnonzero(used)
    _, number = np.unique(group[rows], return_inverse=True)
    _, part_number = np.unique(part[rows], return_inverse=True)
    _, first = np.unique(np.stack([number, part_number]), axis=1, return_index=True)
    first_of: dict[int, int] = {}
    divided = []
    for at in first.tolist():
        start = first_of.setdefault(int(number[at]), at)
        if start != at:
            divided.append((int(rows[start]), int(rows[at])))
    return divided


def without_leaks(parts: npt.ArrayLike, leaks: Leaks, *, into: str = "train") -> Parts:
    """The split with all images that a chain of leaks joins in one part.

    Moving images into the training part alone costs test images, and lets no test image be known from training.

    Parameters
    ----------
    parts
        Part of each image, (n,).
    into
        Where they go.

    Returns
    -------
    ndarray
        Part of each image, (n,). A group of which only some images were named may still be divided: ask `find_leaks` again.

    Examples
    --------
    >>> parts = ["train", "test", "test"]
    >>> without_leaks(parts, find_leaks(parts, pairs=([0], [1]))).tolist()
    ['train', 'train', 'test']
    """
    part = np.array(parts, dtype=object)
    n = len(part)
    graph = coo_array((np.ones(len(leaks), dtype=np.bool_), (leaks.i, leaks.j)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    named = np.unique(component[np.concatenate([leaks.i, leaks.j])])
    part[np.isin(component, named)] = into
    return np.asarray(part, dtype=np.str_)
