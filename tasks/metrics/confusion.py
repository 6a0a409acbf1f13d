"""Confusion counts and the orders in which the study shows them.

Source: ``spec/case_study.md`` §8. Countries and regions are shown alphabetically, by descending diagonal, and grouped
(countries by region, regions by continent). The keys say 'countries' and 'regions' whatever the labels are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ConfusionView:
    """A confusion matrix in the order in which it is shown.

    Attributes
    ----------
    matrix
        Counts, (m, m) int64: truth down, prediction across.
    names
        Name of each row and column, m of them.
    groups
        Group of each name, m of them, neighbours together; or None.
    """

    matrix: Counts
    names: tuple[str, ...]
    groups: tuple[str, ...] | None = None


def confusion_counts(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, n_classes: int) -> Counts:
    """Images of each true class (down) by predicted class (across). Those of several seeds may be added up.

    Parameters
    ----------
    y_true, y_pred
        Class indices, (n,) integers; n may be 0.
    n_classes
        Number of classes.

    Returns
    -------
    Counts
        (n_classes, n_classes) int64.

    Raises
    ------
    ValueError
        When the lengths differ, or an index is not one of 0 to n_classes - 1.

    Examples
    --------
    >>> confusion_counts([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    truth, predicted = (np.asarray(each) for each in (y_true, y_pred))
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise ValueError(f"y_true and y_pred must be two equally long lists, got {truth.shape} and {predicted.shape}")
    if not len(truth):
        return np.zeros((n_classes, n_classes), dtype=np.int64)
    for name, classes in (("y_true", truth), ("y_pred", predicted)):
        if classes.dtype.kind not in "iu":
            raise ValueError(f"{name} must hold class indices, got {classes.dtype}")
        if classes.min() < 0 or classes.max() >= n_classes:
            raise ValueError(f"{name} reaches from {classes.min()} to {classes.max()}, not within 0 to {n_classes - 1}")
    cell = truth.astype(np.int64) * n_classes + predicted.astype(np.int64)
    return np.bincount(cell, minlength=n_classes**2).reshape(n_classes, n_classes).astype(np.int64)


def confusion_views(
    counts: npt.ArrayLike,
    names: Sequence[str],
    regions: Sequence[str] | None,
    continents: Sequence[str] | None,
    *,
    keep_empty: bool = False,
) -> dict[str, ConfusionView]:
    """The six views of the study, or those for which there are names.

    Parameters
    ----------
    counts
        Confusion counts, (n, n) integers: truth down, prediction across.
    names
        Name of each class, n of them.
    regions, continents
        Region and continent of each class, n of each. Without regions only the countries are shown, and not by region;
        without continents regions are not shown by continent.
    keep_empty
        Whether classes with neither truth nor prediction stay in the views.

    Returns
    -------
    dict
        ``countries`` (by name), ``countries-by-diagonal`` (largest first, ties by name), ``countries-by-region``
        (regions by continent and name, countries by name inside), ``regions``, ``regions-by-diagonal`` and
        ``regions-by-continent``, as `ConfusionView`. A region whose classes lie on several continents counts to that
        of most of its classes, ties by name.

    Raises
    ------
    ValueError
        When the matrix is not square, or the names, regions or continents are not one a class.

    Examples
    --------
    >>> views = confusion_views([[1, 0], [0, 3]], ["Chad", "Peru"], None, None)
    >>> views["countries-by-diagonal"].names
    ('Peru', 'Chad')
    """
    table = np.asarray(counts, dtype=np.int64)
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"counts must be a square matrix, got {table.shape}")
    for what, given in (("names", names), ("regions", regions), ("continents", continents)):
        if given is not None and len(given) != len(table):
            raise ValueError(f"{what} must be one a class, got {len(given)} for {len(table)} classes")
    views = _by_name_and_diagonal("countries", _filled(table, names, keep_empty))
    if regions is None:
        return views
    continent_of = {} if continents is None else _commonest(regions, continents)
    countries = _filled(table, names, keep_empty, regions)
    views["countries-by-region"] = _grouped(countries, continent_of)
    of_regions = _summed(table, regions)
    views |= _by_name_and_diagonal("regions", _filled(*of_regions, keep_empty))
    if continents is not None:
        own_continent = [continent_of[region] for region in of_regions[1]]
        views["regions-by-continent"] = _grouped(_filled(*of_regions, keep_empty, own_continent), {})
    return views


def row_shares(matrix: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Each row as shares of its sum, 0 where the row is empty.

    Parameters
    ----------
    matrix
        Counts, (m, n).

    Returns
    -------
    array
        (m, n) float64.
    """
    counts: npt.NDArray[np.float64] = np.asarray(matrix, dtype=np.float64)
    sums = counts.sum(axis=1, keepdims=True)
    shares = np.zeros_like(counts)
    np.divide(counts, sums, out=shares, where=sums > 0)
    return shares


def cropped(view: ConfusionView, keep: int) -> ConfusionView:
    """The first `keep` classes of a view, such as its top 25; what was predicted beyond them is left out.

    Raises
    ------
    ValueError
        When `keep` is not positive.
    """
    if keep < 1:
        raise ValueError(f"keep must be positive, got {keep}")
    return _taken(view, range(min(keep, len(view.names))))


def within_group(view: ConfusionView, group: str) -> ConfusionView:
    """The classes of one group, such as the countries of a region; what was predicted outside of it is left out.

    Raises
    ------
    ValueError
        When the view has no such group.
    """
    rows = [row for row, own in enumerate(view.groups or ()) if own == group]
    if not rows:
        raise ValueError(f"the view has no group {group!r}")
    return _taken(view, rows)


def _taken(view: ConfusionView, rows: Iterable[int]) -> ConfusionView:
    """Some of a view's classes, in the order given."""
    chosen = list(rows)
    groups = None if view.groups is None else tuple(view.groups[row] for row in chosen)
    return ConfusionView(view.matrix[np.ix_(chosen, chosen)], tuple(view.names[row] for row in chosen), groups)


def _filled(
    matrix: Counts, names: Sequence[str], keep_empty: bool, groups: Sequence[str] | None = None
) -> ConfusionView:
    """A view without the classes that have neither truth nor prediction, unless they are to stay."""
    view = ConfusionView(matrix, tuple(names), None if groups is None else tuple(groups))
    occurs = matrix.any(axis=0) | matrix.any(axis=1) | keep_empty
    return _taken(view, np.flatnonzero(occurs).tolist())


def _by_name_and_diagonal(what: str, view: ConfusionView) -> dict[str, ConfusionView]:
    by_name = sorted(range(len(view.names)), key=lambda row: view.names[row])
    by_diagonal = sorted(by_name, key=lambda row: -int(view.matrix[row, row]))
    return {what: _taken(view, by_name), f"{what}-by-diagonal": _taken(view, by_diagonal)}


def _grouped(view: ConfusionView, above: dict[str, str]) -> ConfusionView:
    """Classes by group, and by name inside; groups by what lies above them, where it is known, and by name."""
    groups = view.groups or ()
    return _taken(
        view,
        sorted(range(len(groups)), key=lambda row: (above.get(groups[row], ""), groups[row], view.names[row])),
    )


def _commonest(regions: Sequence[str], continents: Sequence[str]) -> dict[str, str]:
    """Region -> the continent that most of its classes have; of equally many the first by name."""
    classes: dict[str, Counter[str]] = {}
    for region, continent in zip(regions, continents, strict=True):
        classes.setdefault(region, Counter())[continent] += 1
    return {region: min(n, key=lambda continent: (-n[continent], continent)) for region, n in classes.items()}


def _summed(matrix: Counts, regions: Sequence[str]) -> tuple[Counts, list[str]]:
    """The matrix summed over each region's classes, down and across, and the regions' names."""
    names = sorted(set(regions))
    index = {name: position for position, name in enumerate(names)}
    region = [index[name] for name in regions]
    summed = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(summed, np.ix_(region, region), matrix)
    return summed, names
