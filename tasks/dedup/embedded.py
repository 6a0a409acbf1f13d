"""Images that have an embedding, with what is known of them."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from storage.store import Recipe, Store, TableVersion
from storage.vectors import Vectors, read_vectors
from tasks.collect.steps import unique_images

# What an image can be known to have, besides its pixels.
METADATA = ("label", "latitude", "longitude", "captured_at", "licence", "attribution", "url", "metadata")


@dataclass(frozen=True)
class EmbeddedImages:
    """Images that have an embedding, row by row."""

    image_id: list[str]
    rows: pa.Table
    vectors: Vectors
    row_of: dict[str, int]


def read_images(store: Store, recipe: Recipe, embeddings: TableVersion) -> EmbeddedImages:
    """Join the embeddings with what is known of their images."""
    columns = ["image_id", "file", "source", "width", "height", *METADATA]
    rows = unique_images(store.version("images", recipe.inputs["images"]), columns)
    row_of_image = {identity: row for row, identity in enumerate(rows["image_id"].to_pylist())}
    image_ids = embeddings.read(["image_id"])["image_id"].to_pylist()
    return EmbeddedImages(
        image_id=image_ids,
        rows=rows.take(pa.array([row_of_image[identity] for identity in image_ids], pa.int64())),
        vectors=read_vectors(embeddings),
        row_of={identity: row for row, identity in enumerate(image_ids)},
    )
