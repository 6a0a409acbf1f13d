"""Pairs through an approximate index, for tables so large that comparing all with all takes too long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.dedup.pairs import Pairs, TooManyPairsError, pair_cosines

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
# (queries (m, d), k) -> cosines (m, k) and rows (m, k), best first, as `storage.index_search.SearchIndex.search`.
Search = Callable[[Floats, int], tuple[Floats, Rows]]

FIRST_NEIGHBOURS = 32
QUERIES_AT_ONCE = 4096
# By so much an index's own cosines may be off; pairs are scored anew.
SLACK = 0.02


@dataclass(frozen=True)
class IndexedPairs:
    """What was found, and which share of the pairs of `n_checked` rows drawn at random: 1 where these have none."""

    pairs: Pairs
    recall: float
    n_checked: int
    n_checked_pairs: int


def indexed_pairs(
    search: Search,
    embeddings: Floats,
    *,
    min_cosine: float,
    max_pairs: int,
    n_checked: int = 1000,
    seed: int = 0,
) -> IndexedPairs:
    """Pairs of rows with a cosine of at least `min_cosine`, as far as an index finds them.

    Each row's neighbours are asked for, twice as many again while the last is still near. What is found is scored as by
    `tasks.dedup.pairs.near_pairs`, so no pair is wrong, but some may be missing: their share is measured against all
    pairs of `n_checked` rows.

    Parameters
    ----------
    search
        Gives the k nearest rows of each query.
    embeddings
        (n, d) float32, L2-normalised, the rows that are in the index.

    Raises
    ------
    TooManyPairsError
        When there are more than `max_pairs`.
    """
    n = len(embeddings)
    found: list[Rows] = [np.empty((0, 2), np.int64)]
    n_found = 0
    for start in range(0, n, QUERIES_AT_ONCE):
        ends = _neighbours(search, embeddings, np.arange(start, min(start + QUERIES_AT_ONCE, n)), min_cosine)
        found.append(ends)
        n_found += len(ends)
        if n_found > 2 * max_pairs:  # each is found from both its ends
            raise TooManyPairsError(f"more than {max_pairs:,} pairs have a cosine of {min_cosine:.4g} or more")
    ends = np.unique(np.concatenate(found), axis=0)
    cosine = pair_cosines(embeddings, ends[:, 0], ends[:, 1])
    near = cosine >= np.float32(min_cosine)
    pairs = Pairs(ends[near, 0], ends[near, 1], cosine[near])
    checked = np.sort(np.random.default_rng(seed).permutation(n)[:n_checked])
    n_there, n_missing = _missing(pairs, embeddings, checked, np.float32(min_cosine))
    return IndexedPairs(pairs, 1 - n_missing / max(n_there, 1), len(checked), n_there)


def _neighbours(search: Search, embeddings: Floats, rows: Rows, min_cosine: float) -> Rows:
    """Pairs (m, 2), the smaller row first, of some rows and their neighbours of about `min_cosine` or more."""
    n, k = len(embeddings), FIRST_NEIGHBOURS
    parts = []
    while len(rows):
        k = min(k, n)
        cosines, others = search(embeddings[rows], k)
        near = np.logical_and(cosines >= min_cosine - SLACK, others >= 0)
        full = near.all(axis=1) & (k < n)  # there may be more
        at, column = np.nonzero(near & ~full.reshape(-1, 1))
        parts.append(np.stack([rows[at], others[at, column]], axis=1))
        rows = rows[full]
        k *= 2
    ends = np.concatenate([np.empty((0, 2), np.int64), *parts])
    ends = ends[ends[:, 0] != ends[:, 1]]
    return np.sort(ends, axis=1)


def _missing(pairs: Pairs, embeddings: Floats, rows: Rows, min_cosine: np.float32) -> tuple[int, int]:
    """How many pairs some rows have, and how many of them were not found."""
    n = len(embeddings)
    known = set((pairs.i * n + pairs.j).tolist())
    there: set[int] = set()
    for start in range(0, n, QUERIES_AT_ONCE):
        others = embeddings[start : start + QUERIES_AT_ONCE]
        at, column = np.nonzero(embeddings[rows] @ others.T >= min_cosine - np.float32(1e-4))
        i, j = rows[at], column + start
        i, j = np.minimum(i, j)[i != j], np.maximum(i, j)[i != j]
        near = pair_cosines(embeddings, i, j) >= min_cosine
        there |= set((i[near] * n + j[near]).tolist())
    return len(there), len(there - known)
