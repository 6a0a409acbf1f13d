"""Which images of each class are taken: caps, least sizes, nested subsets, and images swapped in from other sources."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tasks.split.draw import hashes
from tasks.split.label_matrix import name_codes

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


def rank_in_class(labels: npt.ArrayLike, ids: Sequence[str], *, seed: int) -> Numbers:
    """Place of each image in the random order of its class, from 0, (n,) int64."""
    _, number = name_codes(labels, "labels")
    if len(number) != len(ids):
        raise ValueError(f"{len(number)} labels, but {len(ids)} ids")
    order = np.lexsort((hashes(ids, seed), number))
    starts = np.searchsorted(number[order], number[order], side="left")
    rank = np.empty(len(number), dtype=np.int64)
    rank[order] = np.arange(len(number)) - starts
    return rank


def cap(labels: npt.ArrayLike, ids: Sequence[str], *, max_per_class: int, seed: int) -> Mask:
    """At most so many images of each class, drawn at random.

    Nested: with a lower cap the images are some of those with a higher one.

    Parameters
    ----------
    labels
        Label of each image, (n,).
    ids
        Id of each image: what is drawn does not depend on the order of the rows.
    max_per_class
        1 or more.
    seed
        Of the draw.

    Returns
    -------
    ndarray
        (n,) boolean, which are taken.

    Raises
    ------
    ValueError
        When lengths differ or the cap is below 1.

    Examples
    --------
    >>> taken = cap(["a"] * 5 + ["b"], [str(number) for number in range(6)], max_per_class=2, seed=0)
    >>> int(taken[:5].sum()), bool(taken[5])
    (2, True)
    """
    if max_per_class < 1:
        raise ValueError(f"max_per_class must be 1 or more, got {max_per_class}")
    return np.asarray(rank_in_class(labels, ids, seed=seed) < max_per_class)


def of_large_classes(labels: npt.ArrayLike, *, min_per_class: int) -> Mask:
    """Which images are of a class with at least so many, (n,) boolean.

    Examples
    --------
    >>> of_large_classes(["a", "a", "b"], min_per_class=2).tolist()
    [True, True, False]
    """
    names, number = name_codes(labels, "labels")
    return np.asarray(np.bincount(number, minlength=len(names))[number] >= min_per_class)


def nested_subsets(labels: npt.ArrayLike, ids: Sequence[str], *, sizes: Sequence[int], seed: int) -> dict[int, Mask]:
    """Subsets of so many images a class, each a part of the next larger: for curves of label efficiency.

    The same seed gives the same subsets in every experiment (Cole et al. 2022, section 4: 50, 100 and 200 images of each
    category of a chosen level; coarsen labels first with `tasks.split.hierarchy`). A class with fewer images than a size
    gives all that it has.

    Returns
    -------
    dict
        Size -> (n,) boolean.

    Examples
    --------
    >>> subsets = nested_subsets(["a"] * 9, [str(number) for number in range(9)], sizes=(2, 4), seed=0)
    >>> int(subsets[2].sum()), int(subsets[4].sum()), bool(subsets[4][subsets[2]].all())
    (2, 4, True)
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes must be 1 or more, got {list(sizes)}")
    rank = rank_in_class(labels, ids, seed=seed)
    return {size: np.asarray(rank < size) for size in sizes}


def mixed(labels: npt.ArrayLike, is_base: npt.ArrayLike, ids: Sequence[str], *, seed: int) -> Mask:
    """Replace images of each class by images of that class from other sources: fewer than half, and no class grows.

    Of a class with b images of the base and o others, min(o, ⌈b/2⌉ − 1) are replaced, drawn at random on both sides, so that
    more than half of each class is left and the total is that of the base (case study, section 5.3.1).

    Parameters
    ----------
    labels
        Label of each image, (n,).
    is_base
        Whether each image is of the base, (n,) boolean.
    ids
        Id of each image: what is drawn does not depend on the order of the rows.
    seed
        Of the draw.

    Returns
    -------
    ndarray
        (n,) boolean, which are taken: as many as there are in the base.

    Examples
    --------
    >>> labels, is_base = ["a"] * 5 + ["a"] * 9 + ["b"], [True] * 5 + [False] * 9 + [True]
    >>> taken = mixed(labels, is_base, [str(number) for number in range(15)], seed=0)
    >>> int(taken[:5].sum()), int(taken[5:14].sum()), bool(taken[14])
    (3, 2, True)
    """
    names, number = name_codes(labels, "labels")
    base = np.asarray(is_base, dtype=np.bool_)
    if len(base) != len(number):
        raise ValueError(f"{len(number)} labels, but {len(base)} of is_base")
    n_base, n_others = (np.bincount(number[mask], minlength=len(names)) for mask in (base, ~base))
    n_replaced = np.clip(np.minimum(n_others, (n_base + 1) // 2 - 1), 0, None)
    # Ranks within a class and a side.
    rank = rank_in_class([f"{name} {side}" for name, side in zip(number, base, strict=True)], ids, seed=seed)
    wanted = np.where(base, n_base[number] - n_replaced[number], n_replaced[number])
    return np.asarray(rank < wanted)


def single_positives(labels: npt.ArrayLike, ids: Sequence[str], *, seed: int) -> Mask:
    """One observed positive of each image, drawn uniformly from its labels (Cole et al. 2021, section 3).

    Meant for the training part alone: validation and test keep all their labels. The same seed gives the same draw.

    Parameters
    ----------
    labels
        (n, c) in {0, 1}.
    ids
        Id of each image.
    seed
        Of the draw.

    Returns
    -------
    ndarray
        (n, c) boolean, one a row.

    Raises
    ------
    ValueError
        When images have no label.

    Examples
    --------
    >>> single_positives([[1, 0, 0], [0, 1, 1]], ["x", "y"], seed=0).sum(axis=1).tolist()
    [1, 1]
    """
    given = np.asarray(labels, dtype=np.bool_)
    n_labels = given.sum(axis=1)
    without = np.flatnonzero(n_labels == 0)
    if len(without):
        raise ValueError(f"{len(without)} images have no label to observe, such as {ids[int(without[0])]!r}")
    draw = hashes(ids, seed) % n_labels.astype(np.uint64)
    nth = np.cumsum(given, axis=1) - 1
    return np.asarray(given & (nth == draw.astype(np.int64)[:, None]))
