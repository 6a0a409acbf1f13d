"""Controlled rounding: a table of classes and parts in whole images, rows and columns adding up."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import eye_array, kron, vstack

from tasks.split.sizes import WHOLE, Floats, Ints, part_totals, whole_part


def controlled_rounding(class_sizes: npt.ArrayLike, shares: npt.ArrayLike, *, seed: int) -> Ints:
    """Share out every class in whole images, so that rows and columns add up.

    Each entry is ``class size * share`` rounded down or up; a row adds up to its class, a column to its part's total,
    ``n * share`` rounded by the largest remainder. Such a table is found as a flow (Cox 1987): among all of them one that
    is nearest to the exact one in squares. Classes of the same size are interchangeable, so that what is solved is the table
    of sizes and parts, itself rounded so where it can be; which of these classes are rounded up where is drawn. So of
    a hundred classes of one image fifteen are in a part of 15 %, and not always the same ones.

    There are tables, such as those of classes of 10 and 25 images with shares 0.16, 0.16, 0.48, 0.1 and 0.1, where no rounding of
    the entries has the totals of the largest remainder; then other totals are taken that are ``n * share`` rounded down
    or up: those always exist (Bacharach 1966).

    Parameters
    ----------
    class_sizes
        (c,) images of each class.
    shares
        (k,), adding up to 1.
    seed
        Of the draw among classes of the same size.

    Returns
    -------
    ndarray
        (c, k) int64.

    References
    ----------
    .. [1] M. Bacharach, Matrix rounding problems, Management Science 12 (9), 1966.
    .. [2] L. H. Cox, A constructive procedure for unbiased controlled rounding, Journal of the American Statistical Association
       82 (398), 1987.

    Examples
    --------
    >>> quotas = controlled_rounding([3, 3, 4], [0.7, 0.15, 0.15], seed=0)
    >>> quotas.sum(axis=0).tolist(), quotas.sum(axis=1).tolist()
    ([7, 2, 1], [3, 3, 4])
    """
    of_class, share = np.asarray(class_sizes, dtype=np.int64), np.asarray(shares, dtype=np.float64)
    if not of_class.any():
        return np.zeros((len(of_class), len(share)), dtype=np.int64)
    sizes, kind, n_classes = np.unique(of_class, return_inverse=True, return_counts=True)
    low = whole_part(sizes[:, None] * share)
    up = _rounded_up(sizes[:, None] * share - low, n_classes, int(of_class.sum()) * share, n_classes @ low)
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    quotas = low[kind]
    for number in range(len(sizes)):
        classes = generator.permutation(np.flatnonzero(kind == number))
        # Dealt in turn: a part comes at most once round, so no class is rounded up twice in it.
        parts = np.repeat(np.arange(len(share)), up[number])
        quotas[np.resize(classes, len(parts)), parts] += 1
    return quotas


def _rounded_up(fraction: Floats, n_classes: Ints, totals: Floats, low: Ints) -> Ints:
    """How many classes of each size are rounded up in each part, (sizes, k).

    `fraction` (sizes, k): what an entry has above the whole number below it; `n_classes` (sizes,); of the parts, (k,): the exact
    `totals`, and what they hold when everything is rounded down.
    """
    fraction = np.where(fraction > WHOLE, fraction, 0.0)
    exact = n_classes[:, None] * fraction
    rows = np.rint(exact.sum(axis=1))
    near = whole_part(exact), whole_part(exact) + (exact - whole_part(exact) > WHOLE)
    wide = np.zeros_like(fraction), np.where(fraction > 0, n_classes[:, None], 0)
    wanted = part_totals(round(totals.sum()), totals / totals.sum()) - low
    down = whole_part(totals)
    free = down - low, down + (totals - down > WHOLE) - low
    # To round up costs (1 - f)² instead of f². Totals come before the table of sizes, classes before totals.
    for cells, columns, above_low in (
        (near, (wanted, wanted), exact - near[0]),
        (wide, (wanted, wanted), fraction),
        (near, free, exact - near[0]),
    ):
        found = _cheapest_table(1 - 2 * above_low, cells, rows, columns)
        if found is not None:
            return found
    raise ArithmeticError("no controlled rounding was found, though one exists")


def _cheapest_table(
    cost: Floats,
    cells: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    rows: Floats,
    columns: tuple[Ints, Ints],
) -> Ints | None:
    """The table of whole numbers with entries and column sums between given ones and given row sums; None where there is none.

    The constraints are those of a flow, so the linear programme's corners are whole, and the solver has nothing to branch on.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    m, k = cost.shape
    sums = vstack([kron(eye_array(m), np.ones((1, k))), kron(np.ones((1, m)), eye_array(k))], format="csr")
    result = milp(
        cost.ravel(),
        integrality=np.ones(m * k),
        bounds=Bounds(cells[0].ravel(), cells[1].ravel()),
        constraints=LinearConstraint(sums, np.r_[rows, columns[0]], np.r_[rows, columns[1]]),
        options={"mip_rel_gap": 0.0},
    )
    return None if result.x is None else np.rint(result.x).astype(np.int64).reshape(m, k)
