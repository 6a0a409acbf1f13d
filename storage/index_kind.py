"""Which kind of FAISS index a table gets, with which parameters, and why."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from storage.errors import StoreError

Kind = Literal["flat", "hnsw", "ivf_flat", "ivf_pq"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FLAT_MAX_ROWS = 1_000_000
MEMORY_SHARE = 0.5  # of the memory available: while an index grows it holds its vectors twice
ROWS_PER_CENTROID = 39  # below that FAISS itself warns that k-means has too little to go by
MIN_LISTS = 16
PQ_CENTROIDS = 256  # of each code byte


@dataclass(frozen=True)
class KindChoice:
    """A kind of index and the reason for it, one sentence fit to print."""

    kind: Kind
    reason: str


@dataclass(frozen=True)
class IndexParameters:
    """What an index is built with, apart from the vectors. Of a kind's own parameters those of the others are None.

    Parameters
    ----------
    kind
        One of `KINDS`.
    n_links
        hnsw: links of a node (twice as many on the lowest level).
    ef_construction
        hnsw: candidates looked at for the links of a new node.
    n_lists
        ivf: lists that the vectors are shared out to, each around a centroid.
    code_bytes
        ivf_pq: bytes that a vector is compressed to; divides the dimension.
    seed
        ivf: of the training sample and of k-means.
    """

    kind: Kind
    n_links: int | None = None
    ef_construction: int | None = None
    n_lists: int | None = None
    code_bytes: int | None = None
    seed: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The parameters that the kind has."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def can_extend(self, other: Mapping[str, Any]) -> bool:
        """Whether an index built with the parameters `other` may be extended instead of building one with these.

        Lists that are up to twice too long are put up with, since new centroids would mean a new index; that is
        until the table has grown to four times the rows that they were found for.
        """
        own = self.as_json()
        n_lists, found = own.pop("n_lists", 0), dict(other)
        n_found = found.pop("n_lists", 0)
        return found == own and n_lists <= 2 * n_found


def choose_kind(n_rows: int, dimension: int, available_bytes: int) -> KindChoice:
    """The kind that `auto` stands for.

    Exact search up to a million rows, lists beyond, and compressed lists where the vectors do not fit in memory.
    HNSW is never chosen: it takes several times longer to build than lists that answer with the same recall.

    Parameters
    ----------
    n_rows, dimension
        Size of the table of vectors.
    available_bytes
        Memory that may be used; half of it is planned with.
    """
    n_bytes = 4 * n_rows * dimension
    if n_bytes > MEMORY_SHARE * available_bytes:
        need = (
            f"{n_rows:,} vectors are {_gb(n_bytes)}, more than half of the {_gb(available_bytes)} of memory available"
        )
        if n_rows < min_rows("ivf_pq"):
            return KindChoice("flat", f"{need}, but they are too few to learn a compression from")
        return KindChoice("ivf_pq", f"{need}, so they are compressed")
    if n_rows <= FLAT_MAX_ROWS:
        return KindChoice("flat", f"{n_rows:,} rows are few enough (up to {FLAT_MAX_ROWS:,}) for exact search")
    return KindChoice(
        "ivf_flat", f"{n_rows:,} rows are too many (over {FLAT_MAX_ROWS:,}) for exact search, and fit in memory"
    )


def min_rows(kind: Kind, n_lists: int = MIN_LISTS) -> int:
    """Rows that it takes to train an index of this kind."""
    if kind in ("flat", "hnsw"):
        return 0
    return ROWS_PER_CENTROID * max(n_lists, PQ_CENTROIDS if kind == "ivf_pq" else 0)


def fill_parameters(
    kind: Kind,
    n_rows: int,
    dimension: int,
    *,
    n_links: int = 32,
    ef_construction: int = 80,
    n_lists: int | None = None,
    code_bytes: int | None = None,
    seed: int = 0,
) -> IndexParameters:
    """The parameters of an index of this kind, those left out by the size of the table.

    Raises
    ------
    StoreError
        When a parameter makes no sense, or there are too few rows to train with.
    """
    if kind == "flat":
        return IndexParameters(kind)
    if kind == "hnsw":
        if n_links < 2 or ef_construction < 1:
            raise StoreError(f"index: n_links {n_links} must be 2 or more, ef_construction {ef_construction} 1 or more")
        return IndexParameters(kind, n_links=n_links, ef_construction=ef_construction)
    if n_lists is not None and n_lists < 1:
        raise StoreError(f"index: n_lists {n_lists} must be 1 or more")
    if n_rows < (needed := min_rows(kind, n_lists or MIN_LISTS)):
        lists = f" with {n_lists} lists" if n_lists else ""
        raise StoreError(f"index: {kind}{lists} takes {needed:,} rows to train, the table has {n_rows:,}: use flat")
    lists_of_rows = n_lists or _power_of_two(min(4 * math.sqrt(n_rows), n_rows / ROWS_PER_CENTROID))
    if kind == "ivf_flat":
        return IndexParameters(kind, n_lists=lists_of_rows, seed=seed)
    if code_bytes is not None and (code_bytes < 1 or dimension % code_bytes):
        raise StoreError(f"index: code_bytes {code_bytes} does not divide the dimension {dimension}")
    return IndexParameters(
        kind, n_lists=lists_of_rows, code_bytes=code_bytes or _divisor(dimension, dimension / 4), seed=seed
    )


def available_memory_bytes() -> int:
    """Memory that this process can still take: what the machine has left, or its container, if that is less."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):  # not Linux: all that the machine has
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")
        return available if limit == "max" else max(0, min(available, int(limit) - int(used)))
    except (OSError, ValueError):  # no such limit here
        return available


def _power_of_two(most: float) -> int:
    return 1 << int(math.log2(most))


def _divisor(number: int, most: float) -> int:
    """The largest divisor up to `most`, or 1."""
    return max((each for each in range(1, int(most) + 1) if number % each == 0), default=1)


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
