"""How many of the exact neighbours an index finds, how fast, and how hard it must look for them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from storage.index_kind import Kind
from storage.index_rows import sample_vectors, vector_blocks
from storage.store import TableVersion
from storage.vectors import Vectors

Rows = npt.NDArray[np.int64]

CUTOFFS = (1, 10, 100)
GOAL_CUTOFF = 10
DEPTH = 128  # exact neighbours kept of each query: the spare ones tell ties at the hundredth place
TIE = 1e-6  # cosines that differ by less are equal in float32, and either order of them is right
MAX_EF_SEARCH = 1024
NO_GAIN = 0.005  # recall that is not worth looking harder for, where the goal is out of reach


@dataclass(frozen=True)
class Sample:
    """Queries drawn from the table's own rows, and the exact answer without the query's own row.

    Parameters
    ----------
    row
        (m,) int64, the queries' rows.
    vectors
        (m, d) float32, L2-normalised.
    exact_rows, exact_cosines
        (m, min(128, n - 1)) int64 and float32, best first.
    exact_seconds
        Wall time of the exact search, without the reading of the table.
    """

    row: Rows
    vectors: Vectors
    exact_rows: Rows
    exact_cosines: Vectors
    exact_seconds: float


def draw_sample(version: TableVersion, n_queries: int, seed: int) -> Sample:
    """Draw the queries, and search the whole table for each, block by block."""
    row, queries = sample_vectors(version, n_queries, np.random.default_rng([seed, 1]))
    rows = np.empty((len(row), 0), dtype=np.int64)
    cosines = np.empty((len(row), 0), dtype=np.float32)
    seconds = 0.0
    if len(row):
        for first_row, vectors in vector_blocks(version):
            start = time.perf_counter()
            n_kept = min(DEPTH + 1, len(vectors))
            found_cosines, found_rows = faiss.knn(queries, vectors, n_kept, metric=faiss.METRIC_INNER_PRODUCT)
            rows = np.hstack([rows, found_rows + first_row])
            cosines = np.hstack([cosines, found_cosines])
            best = np.argsort(-cosines, axis=1, kind="stable")[:, : DEPTH + 1]
            rows, cosines = np.take_along_axis(rows, best, axis=1), np.take_along_axis(cosines, best, axis=1)
            seconds += time.perf_counter() - start
    own_last = _own_last(rows, row)
    return Sample(
        row, queries, np.take_along_axis(rows, own_last, 1), np.take_along_axis(cosines, own_last, 1), seconds
    )


def neighbours(index: faiss.Index, sample: Sample, k: int) -> Rows:
    """The k rows that the index finds for each query without the query's own, (m, k) int64; -1 where it finds none."""
    _, rows = index.search(sample.vectors, k + 1)
    return np.take_along_axis(rows, _own_last(rows, sample.row), axis=1)


def recall_at(sample: Sample, found: Rows) -> float:
    """Share of the found rows, (m, k) int64, that are among the k exact ones or as near as the last of those."""
    k = found.shape[1]
    right = sample.exact_cosines >= sample.exact_cosines[:, k - 1 : k] - TIE
    hits = sum(
        int(np.isin(own, rows[near]).sum()) for own, rows, near in zip(found, sample.exact_rows, right, strict=True)
    )
    return hits / found.size


def tune(index: Any, kind: Kind, sample: Sample, goal: float) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Set how hard the index looks: the least nprobe or efSearch, doubled from step to step, that reaches the goal.

    Where the goal is out of reach it is the least that comes within 0.005 of the best.

    Parameters
    ----------
    goal
        recall@10 on the sample, 0 to 1.

    Returns
    -------
    setting
        Name and value, as `apply_search` takes them; empty for a flat index.
    tried
        Every value tried, and its recall.
    """
    values = _values(index, kind)
    k = min(GOAL_CUTOFF, sample.exact_rows.shape[1])
    if not values or k == 0:
        return values[-1] if values else {}, []
    tried: list[dict[str, Any]] = []
    for value in values:
        apply_search(index, value)
        tried.append({**value, f"recall_at_{GOAL_CUTOFF}": recall_at(sample, neighbours(index, sample, k))})
        if tried[-1][f"recall_at_{GOAL_CUTOFF}"] >= goal:
            break
    recalls = [each[f"recall_at_{GOAL_CUTOFF}"] for each in tried]
    enough = goal if recalls[-1] >= goal else max(recalls) - NO_GAIN
    chosen = next(value for value, recall in zip(values, recalls, strict=False) if recall >= enough)
    return chosen, tried


def apply_search(index: Any, setting: dict[str, int]) -> None:
    """Set nprobe or efSearch of an index."""
    if "nprobe" in setting:
        index.nprobe = setting["nprobe"]
    if "efSearch" in setting:
        index.hnsw.efSearch = setting["efSearch"]


def report(index: faiss.Index, sample: Sample) -> dict[str, Any]:
    """Recall at 1, 10 and 100 (None where there is no other row) and queries a second on the CPU, all in one batch.

    In a table of fewer rows than a cutoff the recall is that of all its other rows.
    """
    n_others = sample.exact_rows.shape[1]
    recall: dict[str, float | None] = {str(cutoff): None for cutoff in CUTOFFS}
    speed: dict[str, float] = {}
    if n_others:
        speed["exact_100"] = len(sample.row) / sample.exact_seconds
        # A search for more neighbours looks harder, so each cutoff has a search of its own.
        for cutoff in CUTOFFS:
            start = time.perf_counter()
            found = neighbours(index, sample, min(cutoff, n_others))
            speed[f"index_{cutoff}"] = len(sample.row) / (time.perf_counter() - start)
            recall[str(cutoff)] = recall_at(sample, found)
    return {
        "recall": recall,
        "queries_per_s": {name: round(value, 1) for name, value in speed.items()},
        "n_queries": len(sample.row),
        "left_out": "each query's own row, of the exact neighbours and of the found ones",
    }


def _values(index: Any, kind: Kind) -> list[dict[str, int]]:
    if kind == "flat":
        return []
    name, least, most = ("efSearch", 16, MAX_EF_SEARCH) if kind == "hnsw" else ("nprobe", 1, index.nlist)
    doubled = [least << step for step in range((most // least).bit_length())]
    return [{name: value} for value in sorted({*doubled, most})]


def _own_last(rows: Rows, own: Rows) -> Rows:
    """Where to take the columns of `rows` from, so that each query's own row is left out, else the last one."""
    return np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :-1]
