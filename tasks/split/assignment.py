"""Units that hold several labels, whole, to parts: iterative stratification, then moves and swaps.

A unit is an image with its labels, or a group of images with how many of them have each label. Units that hold the same are
interchangeable and are one *kind*; what is computed is how many of each kind go to each part:

1. Of each kind, the share of every part, rounded down. With few kinds and many units that is nearly all.
2. The units left over, by iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011): a whole label at a time, the rarest among
   them first, each unit to the part that wants most of the label.
3. Exchanges of two units, or moves of one, that lower the sum of squared deviations of labels and parts, the best first.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import csr_array, hstack

from tasks.split.label_matrix import dictionary_codes
from tasks.split.sizes import Floats, Ints, part_totals, whole_part

# Units of either part that are looked at together for the best exchange.
CANDIDATES = 64
MAX_STEPS = 3000
LEAST_GAIN = 1e-9
AT_ONCE = 32  # exchanges tried after one look at the candidates
NOTHING = -1


def assigned_parts(
    counts: csr_array,
    sizes: Ints,
    shares: Floats,
    *,
    exact: bool = False,
    weight: Floats | None = None,
    classes: npt.NDArray[Any] | None = None,
) -> Ints:
    """Assign units to parts, every label in proportion.

    Nothing is drawn: of interchangeable units the first go to the first part, so give them in a random order.

    Parameters
    ----------
    counts
        (m, c) whole numbers: images of each label in each unit.
    sizes
        (m,) images of each unit.
    shares
        (k,), adding up to 1.
    exact
        Whether each part's number of units is its share of them by the largest remainder: for units of one image.
    weight
        (c,) what the squared deviations of a label count for, each divided by the label's number of images as in Pearson's χ²;
        1 by default.
    classes
        (c,) names of the labels, where each must be in every part.

    Returns
    -------
    ndarray
        (m,) int64, part of each unit; none is empty unless `exact` makes it so.

    Raises
    ------
    ValueError
        When there are more parts than units, or, with `classes`, a label cannot be in every part.

    References
    ----------
    .. [1] K. Sechidis, G. Tsoumakas, I. Vlahavas, On the stratification of multi-label data, ECML PKDD 2011.

    Examples
    --------
    >>> counts = csr_array([[2, 0], [0, 1], [1, 1], [1, 0], [0, 2]])
    >>> part = assigned_parts(counts, np.array([2, 1, 2, 1, 2]), np.array([0.5, 0.5]))
    >>> [counts[part == each].sum(axis=0).tolist() for each in (0, 1)]
    [[2, 2], [2, 2]]
    """
    if len(sizes) < len(shares):
        raise ValueError(f"{len(sizes)} images cannot fill {len(shares)} parts")
    kind, kinds = _kinds(csr_array(hstack([counts, sizes[:, None]], format="csr")))
    n_of_kind = np.bincount(kind)
    wanted = np.outer(n_of_kind @ kinds, shares)
    if exact:
        wanted[-1] = part_totals(len(sizes), shares)
    placed = whole_part(n_of_kind[:, None] * shares)
    _place_spare(kinds, n_of_kind - placed.sum(axis=1), placed, wanted, exact)
    of_labels = np.ones(counts.shape[1]) if weight is None else weight
    # A part's size counts for more than a label, the more of them there are: many small ones would rather have it wrong.
    weights = np.append(of_labels, max(1.0, np.sqrt(of_labels.sum()))) / np.maximum(wanted.sum(axis=1), 1)
    table = _Table(kinds, placed, wanted, weights)
    _refine(table, exact)
    if not exact:
        _fill_empty(table)
    if classes is not None:
        _fill_missing(table, classes)
    part = np.empty(len(sizes), dtype=np.int64)
    part[np.argsort(kind, kind="stable")] = np.repeat(np.tile(np.arange(len(shares)), len(n_of_kind)), placed.ravel())
    return part


def _kinds(units: csr_array) -> tuple[Ints, csr_array]:
    """The kind of each unit, numbered in the order of their first units, and what each holds."""
    units.sum_duplicates()
    units.eliminate_zeros()
    cells = np.stack([units.indices.astype(np.int64), units.data.astype(np.int64)], axis=1)
    ends = units.indptr.astype(np.int64) * cells.itemsize * 2
    # A row's columns and counts as one run of bytes, for Arrow to tell which rows are the same.
    rows = pa.Array.from_buffers(
        pa.large_binary(), units.shape[0], [None, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(cells))]
    )
    kind, _ = dictionary_codes(rows)
    _, first = np.unique(kind, return_index=True)
    return kind, units[first]


def _place_spare(kinds: csr_array, spare: Ints, placed: Ints, wanted: Floats, exact: bool) -> None:
    """Iterative stratification of the units left over; `placed` (kinds, k) is added to."""
    holders = csr_array(kinds.T)  # row: label, the last one: images
    total = holders.shape[0] - 1
    desire = (wanted - holders @ placed).tolist()
    remaining = (holders @ spare).tolist()
    left = spare.tolist()
    heap = [(n, label) for label, n in enumerate(remaining[:total]) if n]
    heapify(heap)

    def place(kind: int, label: int) -> list[int]:
        columns: list[int] = _row(kinds, kind)[0].tolist()
        counts: list[int] = _row(kinds, kind)[1].tolist()
        for _ in range(left[kind]):
            able = [part for part, n in enumerate(desire[total]) if n > 0.5] if exact else range(placed.shape[1])
            part = max(able, key=lambda each: (desire[label][each], desire[total][each]))
            placed[kind, part] += 1
            for column, count in zip(columns, counts, strict=True):
                desire[column][part] -= count
                remaining[column] -= count
        left[kind] = 0
        return columns

    while heap:
        n, label = heappop(heap)
        if n != remaining[label]:
            continue  # fewer are left since; an entry that says so follows
        columns, counts = _row(holders, label)
        touched: set[int] = set()
        for kind in columns[np.argsort(-counts, kind="stable")].tolist():  # the largest first: the small ones even out
            if left[kind]:
                touched.update(place(kind, label))
        for other in touched - {total}:
            if remaining[other]:
                heappush(heap, (remaining[other], other))
    for kind in np.flatnonzero(left).tolist():
        place(kind, total)  # units without labels


def _row(matrix: csr_array, row: int) -> tuple[Ints, Ints]:
    cells = slice(matrix.indptr[row], matrix.indptr[row + 1])
    return matrix.indices[cells], matrix.data[cells]


class _Table:
    """How many units of each kind are in each part, and how far that is from what is wanted.

    What is lowered is the sum over parts and labels of weight · above², where `above` (k, c + 1) are images above what is wanted.
    """

    def __init__(self, kinds: csr_array, placed: Ints, wanted: Floats, weight: Floats) -> None:
        self.kinds, self.placed, self.weight = kinds, placed, weight
        self.above = np.ascontiguousarray((kinds.T @ placed - wanted).T)
        self.squares = kinds.power(2) @ weight
        self.weighted = csr_array(kinds.multiply(weight))

    def improve(self, one: int, other: int, *, may_move: bool) -> bool:
        """Carry out exchanges of two parts that pay, the best first; False where none is found."""
        candidates = self._candidates(one, other, may_move)
        return sum(self._exchange(go, come, one, other) for go, come in candidates) > 0

    def _candidates(self, one: int, other: int, may_move: bool) -> list[tuple[int, int]]:
        """Kinds to go and to come (NOTHING: a move without another in return) that pay, the best first.

        Each is judged as if it were the only one. The best are looked for among units that are best to move alone.
        """
        rest = self.weighted @ (self.above[other] - self.above[one])
        go = np.where(self.placed[:, one] > 0, self.squares + rest, np.inf)
        come = np.where(self.placed[:, other] > 0, self.squares - rest, np.inf)
        here, there = _lowest(go), _lowest(come)
        costs = go[here, None] + come[there] - 2 * (self.weighted[here] @ self.kinds[there].T).toarray()
        if may_move:
            here, there = np.append(here, NOTHING), np.append(there, NOTHING)
            costs = np.pad(costs, (0, 1), constant_values=np.inf)
            costs[:-1, -1], costs[-1, :-1] = go[here[:-1]], come[there[:-1]]
        best = np.argsort(costs, axis=None, kind="stable")[:AT_ONCE]
        i, j = np.unravel_index(best[costs.ravel()[best] < -LEAST_GAIN], costs.shape)
        return list(zip(here[i].tolist(), there[j].tolist(), strict=True))

    def _exchange(self, go: int, come: int, one: int, other: int) -> bool:
        """Exchange units of two kinds as often as it pays; False where it does not."""
        moves = [
            (kind, source, target) for kind, source, target in ((go, one, other), (come, other, one)) if kind != NOTHING
        ]
        change = np.zeros(len(self.weight))
        for kind, source, _ in moves:
            columns, counts = _row(self.kinds, kind)
            change[columns] += counts if source == one else -counts
        weighted = self.weight * change
        # Half of what n of them add to the sum is n · rest + n² · square.
        rest, square = weighted @ (self.above[other] - self.above[one]), weighted @ change
        if rest + square >= -LEAST_GAIN:
            return False
        n = min(round(-rest / (2 * square)), *(int(self.placed[kind, source]) for kind, source, _ in moves))
        if n < 1:
            return False
        for kind, source, target in moves:
            self.placed[kind, source] -= n
            self.placed[kind, target] += n
        self.above[one] -= n * change
        self.above[other] += n * change
        return True


def _lowest(costs: Floats) -> Ints:
    if len(costs) <= CANDIDATES:
        return np.arange(len(costs))
    return np.sort(np.argpartition(costs, CANDIDATES)[:CANDIDATES])


def _refine(table: _Table, exact: bool) -> None:
    """Exchanges that lower the sum of squares, until none is found."""
    pairs = list(combinations(range(table.placed.shape[1]), 2))
    for _ in range(MAX_STEPS):
        if sum(table.improve(one, other, may_move=not exact) for one, other in pairs) == 0:
            return


def _fill_empty(table: _Table) -> None:
    """Give every part a unit, from a part that has more than one: the one that does the least harm."""
    for target in np.flatnonzero(table.placed.sum(axis=0) == 0).tolist():
        may_go = (table.placed > 0) & (table.placed.sum(axis=0) > 1)
        _move_cheapest(table, may_go, target)


def _fill_missing(table: _Table, classes: npt.NDArray[Any]) -> None:
    """Give every part a unit of every label, the rarest label first; no unit leaves a part that needs it."""
    holds = csr_array(table.kinds[:, :-1] > 0).astype(np.int64)
    n_units = holds.T @ table.placed
    missing = np.argwhere((n_units == 0) & (n_units.sum(axis=1) > 0)[:, None])
    for label, target in missing[np.argsort(n_units.sum(axis=1)[missing[:, 0]], kind="stable")].tolist():
        n_units = holds.T @ table.placed
        if n_units[label, target]:
            continue
        may_go = np.zeros(table.placed.shape, dtype=bool)
        for kind in np.flatnonzero(holds[:, [label]].toarray().ravel()).tolist():
            may_go[kind] = (table.placed[kind] > 0) & (n_units[_row(holds, kind)[0]].min(axis=0) > 1)
        if not may_go.any():
            raise ValueError(
                f"the class {classes[label].item()!r} could not be brought to every part without dividing a group"
            )
        _move_cheapest(table, may_go, target)


def _move_cheapest(table: _Table, may_go: npt.NDArray[np.bool_], target: int) -> None:
    """Of units that may go, (kinds, k), move the one that adds the least to the sum of squares."""
    costs = table.weighted @ (table.above[target] - table.above).T + table.squares[:, None]
    kind, source = np.unravel_index(np.where(may_go, costs, np.inf).argmin(), costs.shape)
    columns, counts = _row(table.kinds, int(kind))
    for part, sign in ((source, -1), (target, 1)):
        table.placed[kind, part] += sign
        table.above[part, columns] += sign * counts
