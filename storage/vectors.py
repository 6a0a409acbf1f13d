"""Vectors in Parquet columns of fixed-size lists, to and from numpy without a copy for each row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.errors import StoreError
from storage.s3_path import StorePath, read_parquet, store_path
from storage.schemas import ENCODER_ID, embedding_type
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


def read_vectors(source: TableVersion | Sequence[StorePath | str], column: str = "embedding") -> Vectors:
    """All vectors of a version, or of files that were copied out of a store, in row order, (n, d) float32.

    Raises
    ------
    StoreError
        When the files are of several encoders, which gives cosines that mean nothing, or of several widths.
    """
    paths = source.files if isinstance(source, TableVersion) else [store_path(path) for path in source]
    tables = [read_parquet(path, columns=[column]) for path in paths]
    for what, found in (
        ("encoders", {_encoder_of(table) for table in tables}),
        ("widths", {str(table.schema.field(column).type.list_size) for table in tables}),
    ):
        if len(found) > 1:
            raise StoreError(
                f"{paths[0].parent}: these vectors are of several {what}: {', '.join(sorted(found))}: read those of one"
            )
    return column_vectors(pa.concat_tables(tables)[column])


def _encoder_of(table: pa.Table) -> str:
    said: bytes = (table.schema.metadata or {}).get(ENCODER_ID, b"one that the file does not name")
    return said.decode()
