"""One shard of embeddings: made from pictures, written, and believed only when it was read again.

A shard's file carries the rows of its images and, in its metadata, the images that could not be read: so that every image
of a shard is accounted for by one file that is there wholly or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from storage import schemas
from storage.errors import StoreError
from storage.s3_path import StorePath, parquet_file, read_parquet
from storage.vectors import Vectors, column_vectors, vector_column
from tasks.images import ImageError

_REJECTS, _CONTENT = b"placeprint.rejects", b"placeprint.content"
# The largest deviation from length 1: float16 keeps about three digits of each number.
_NORM_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Rejected:
    """An image that has no embedding: its id, a RejectReason, and what went wrong."""

    image_id: str
    reason: str
    detail: str


def shard_table(
    image_ids: Sequence[str],
    rows: Sequence[int],
    embeddings: Vectors,
    features: Vectors | None,
    errors: Mapping[int, ImageError],
    dtype: str,
    metadata: Mapping[bytes, bytes] | None = None,
) -> pa.Table:
    """The table of a shard.

    Parameters
    ----------
    image_ids
        Of all images of the shard.
    rows, embeddings, features
        Which of them have vectors, and these: (n, d) and (n, w) float32.
    errors
        Why the others have none; kept in the schema's metadata.
    dtype
        ``float16`` or ``float32``, of the stored vectors.
    metadata
        What the file says of itself besides.
    """
    columns = [pa.array([image_ids[row] for row in rows], pa.string()), vector_column(embeddings, dtype)]
    if features is not None:
        columns.append(vector_column(features, dtype))
    n_features = None if features is None else features.shape[1]
    schema = schemas.embeddings(embeddings.shape[1], dtype, n_features)
    content = _content_hash([image_ids[row] for row in rows], column_vectors(pa.chunked_array([columns[1]])))
    rejects = [[image_ids[row], error.reason.value, error.detail] for row, error in sorted(errors.items())]
    return pa.table(
        columns, schema=schema.with_metadata({**(metadata or {}), _CONTENT: content, _REJECTS: json.dumps(rejects)})
    )


def checked_shard(path: StorePath, image_ids: Sequence[str]) -> list[Rejected]:
    """Read a shard again and check it against the images that it must account for; returns those without a row.

    Raises
    ------
    StoreError
        When it cannot be read, belongs to other images, or has vectors that are not finite or not of unit length.
    """
    try:
        rows = read_parquet(path, page_checksum_verification=True)
        rejected = [Rejected(*entry) for entry in json.loads((rows.schema.metadata or {})[_REJECTS])]
        found = rows["image_id"].to_pylist()
        vectors = column_vectors(rows["embedding"])
    # A damaged footer may say that the columns are of other types.
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} cannot be read: {str(error).splitlines()[0] if str(error) else error!r}") from error
    without = {each.image_id for each in rejected}
    if found != [identity for identity in image_ids if identity not in without] or len(without) + len(found) != len(
        image_ids
    ):
        raise StoreError(f"{path} does not hold the images that it should")
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(vectors).all() or not np.allclose(norms, 1.0, atol=_NORM_TOLERANCE):
        raise StoreError(f"{path} holds vectors that are not finite or not of unit length")
    if "features" in rows.column_names and not np.isfinite(column_vectors(rows["features"])).all():
        raise StoreError(f"{path} holds features that are not finite")
    if rows.schema.metadata.get(_CONTENT) != _content_hash(found, vectors):
        raise StoreError(f"{path} does not hold the vectors that were written")
    return rejected


def shard_content(path: StorePath) -> str:
    """blake2b-128 of the ids and the embeddings of a shard, hex: the same in versions whose files say other things of themselves."""
    content: bytes = parquet_file(path).schema_arrow.metadata[_CONTENT]
    return content.decode()


def _content_hash(image_ids: Sequence[str], vectors: Vectors) -> bytes:
    content = hashlib.blake2b("\n".join(image_ids).encode(), digest_size=16)
    content.update(vectors.tobytes())
    return content.hexdigest().encode()
