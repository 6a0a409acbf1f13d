"""Stratified splits of multi-label data: every label in proportion, pairs of labels too where wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, sparray, spmatrix

from tasks.split.assignment import assigned_parts
from tasks.split.draw import draw_order
from tasks.split.label_matrix import check_groups_fill, group_codes, group_counts, label_matrix, numbered, with_pairs
from tasks.split.sizes import Floats, checked_sizes

# What a pair counts for beside its rarer label: measured, labels are then as even as without pairs, give or take half an image.
PAIR_WEIGHT = 0.3


def multilabel_split(
    labels: npt.ArrayLike | sparray | spmatrix,
    *,
    sizes: Mapping[str, float],
    seed: int,
    groups: npt.ArrayLike | None = None,
    order: Literal[1, 2] = 1,
    ids: npt.ArrayLike | None = None,
) -> npt.NDArray[np.str_]:
    """Assign every image to a part, each label in proportion.

    Iterative stratification, a whole label at a time, and exchanges after it (see `tasks.split.assignment`). Without groups the
    totals of the parts are exact, by the largest remainder. With groups, what is assigned is whole groups with how often they
    hold each label, and totals are as near as the groups allow.

    Parameters
    ----------
    labels
        (n, c) in {0, 1}, dense or scipy.sparse. An image may have no label.
    sizes
        Part name -> share; shares add up to 1.
    seed
        Of the draw.
    groups
        (n,) group of each image: a group is never divided.
    order
        1: labels are in proportion. 2: also pairs of labels that occur together, counted like labels.
    ids
        (n,) id of each image, all different: the order of the rows then does not matter.

    Returns
    -------
    ndarray
        (n,) part name of each image.

    Raises
    ------
    ValueError
        When labels have another shape or other values, shares do not add up to 1, lengths differ, groups are missing, ids occur
        twice, `order` is another, or there are more parts than images or groups.

    References
    ----------
    .. [1] K. Sechidis, G. Tsoumakas, I. Vlahavas, On the stratification of multi-label data, ECML PKDD 2011.
    .. [2] P. Szymański, T. Kajdanowicz, A network perspective on stratification of multi-label data, LIDTA 2017 (PMLR 74).

    Examples
    --------
    >>> labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0]] * 10)
    >>> parts = multilabel_split(labels, sizes={"train": 0.8, "test": 0.2}, seed=0)
    >>> labels[parts == "test"].sum(axis=0).tolist(), int((parts == "test").sum())
    ([4, 4], 8)
    """
    names, shares = checked_sizes(sizes)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    matrix = label_matrix(labels)
    n = matrix.shape[0]
    group = None
    if groups is not None:
        group_names, group = group_codes(groups, n)
        check_groups_fill(group_names, group, len(names))
    drawn = draw_order(n, seed, ids)
    matrix, weight = _counted(matrix[drawn], order)
    unit = np.arange(n) if group is None else numbered(group[drawn])
    unit_sizes = np.bincount(unit)
    counts = matrix if group is None else group_counts(matrix, unit, len(unit_sizes))
    part = assigned_parts(counts, unit_sizes, shares, exact=group is None, weight=weight)
    of_row = np.empty(n, dtype=np.int64)
    of_row[drawn] = part[unit]
    return np.array(names)[of_row]


def _counted(labels: csr_array, order: int) -> tuple[csr_array, Floats]:
    """What is kept in proportion, (n, labels or labels + pairs), and what each counts for."""
    n_of_label = labels.sum(axis=0)
    if order == 1:
        return labels, np.ones(len(n_of_label))
    matrix, pairs = with_pairs(labels)
    n_of_pair = matrix.sum(axis=0)[len(n_of_label) :]
    # So that a pair's deviation is divided by the count of its rarer label, not by its own, which is often one or two.
    of_pairs = PAIR_WEIGHT * n_of_pair / n_of_label[pairs].min(axis=1)
    return matrix, np.append(np.ones(len(n_of_label)), of_pairs)
