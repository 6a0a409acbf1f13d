"""Vectors in Parquet columns of fixed-size lists, to and from numpy without a copy for each row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.schemas import embedding_type
from storage.store import TableVersion

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


def vector_column(vectors: npt.NDArray[np.floating], dtype: str) -> pa.FixedSizeListArray:
    """An (n, d) array as an Arrow column of fixed-size lists, float16 or float32."""
    values = pa.array(np.ascontiguousarray(vectors, dtype=dtype).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, type=embedding_type(vectors.shape[1], dtype))


def column_vectors(column: pa.ChunkedArray) -> Vectors:
    """The column as an (n, d) float32 array; a float16 column is widened, since cosines are scored in float32."""
    dimension = column.type.list_size
    # flatten(), not values: the latter ignores the offset of a slice.
    chunks = [chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, dimension) for chunk in column.chunks]
    if not chunks:
        return np.empty((0, dimension), dtype=np.float32)
    return np.concatenate(chunks).astype(np.float32, copy=False)


def read_vectors(version: TableVersion, column: str = "embedding") -> Vectors:
    """All vectors of a version in row order, (n, d) float32."""
    return column_vectors(version.read([column])[column])
