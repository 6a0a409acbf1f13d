"""The vectors of a table in blocks of bounded size, and seeded samples of them."""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.s3_path import parquet_file
from storage.store import ROW_GROUP_ROWS, TableVersion
from storage.vectors import Vectors, column_vectors

COLUMN = "embedding"


def vector_dimension(version: TableVersion) -> int:
    """Dimension of the vectors; 0 where there is no shard to tell it."""
    files = version.files
    return int(parquet_file(files[0]).schema_arrow.field(COLUMN).type.list_size) if files else 0


def vector_blocks(version: TableVersion, first_shard: int = 0) -> Iterator[tuple[int, Vectors]]:
    """The vectors in row order, in blocks of at most 10,000 rows that begin anew with every shard.

    Yields
    ------
    first_row
        Row number of the block's first vector.
    vectors
        (b, d) float32, L2-normalised again: float16 rounds the length away from 1.
    """
    first_row = sum(int(shard["rows"]) for shard in version.manifest["shards"][:first_shard])
    for path in version.files[first_shard:]:
        with parquet_file(path) as file:
            for batch in file.iter_batches(batch_size=ROW_GROUP_ROWS, columns=[COLUMN]):
                vectors = column_vectors(pa.chunked_array([batch.column(0)]))
                faiss.normalize_L2(vectors)
                yield first_row, vectors
                first_row += len(vectors)


def sample_vectors(
    version: TableVersion, n_wanted: int, generator: np.random.Generator
) -> tuple[npt.NDArray[np.int64], Vectors]:
    """Rows drawn without replacement, or all of them where there are not more.

    Returns
    -------
    row
        (m,) int64, ascending.
    vectors
        (m, d) float32, L2-normalised.
    """
    rows = np.sort(generator.choice(version.rows, min(n_wanted, version.rows), replace=False, shuffle=False))
    parts = []
    for first_row, vectors in vector_blocks(version):
        start, stop = np.searchsorted(rows, [first_row, first_row + len(vectors)])
        parts.append(vectors[rows[start:stop] - first_row])
    if not parts:
        return rows, np.empty((0, vector_dimension(version)), dtype=np.float32)
    return rows, np.concatenate(parts)
