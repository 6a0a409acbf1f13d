"""The FAISS index of an embeddings version: a cache that can always be rebuilt.

Row number in the index = row number in the Parquet shards, in the manifest's order. The sidecar ``manifest.json`` says
which shards it was built from; an index that does not match its table is refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from storage.atomic import atomic_path, write_bytes
from storage.errors import StoreError
from storage.store import Store, TableVersion
from storage.vectors import Vectors, read_vectors


def index_folder(store: Store, version: TableVersion) -> Path:
    """Where the index of an embeddings version lies."""
    return store.root / "indexes" / version.fingerprint


def build_index(store: Store, version: TableVersion) -> Path:
    """Build an exact inner-product index and write it with its sidecar; returns the index file."""
    vectors = read_vectors(version)
    faiss.normalize_L2(vectors)  # float16 rounds the length away from 1
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    path = index_folder(store, version) / "flat.faiss"
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))
    write_bytes(path.with_name("manifest.json"), json.dumps(_sidecar(version), indent=1).encode())
    return path


def has_index(store: Store, version: TableVersion) -> bool:
    """Whether a complete index of this version is there."""
    return (index_folder(store, version) / "manifest.json").is_file()


class SearchIndex:
    """A loaded index.

    Raises
    ------
    StoreError
        When the index is missing, or was built from other shards than the table now has.
    """

    def __init__(self, store: Store, version: TableVersion) -> None:
        folder = index_folder(store, version)
        try:
            sidecar = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            self._index = faiss.read_index(str(folder / "flat.faiss"))
        except (OSError, ValueError, RuntimeError) as error:
            raise StoreError(
                f"the index of embeddings {version.fingerprint} is missing or damaged: run `placeprint index`"
            ) from error
        if sidecar != _sidecar(version) or self._index.ntotal != version.rows:
            raise StoreError(f"the index in {folder} was built from another table: run `placeprint index`")

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
        """The k nearest rows of each query.

        Parameters
        ----------
        queries
            (m, d) float32, L2-normalised.
        k
            Neighbours wanted; fewer come back when the table is smaller.

        Returns
        -------
        cosine, row
            (m, k) float32 and int64, best first.
        """
        return self._index.search(np.ascontiguousarray(queries, dtype=np.float32), min(k, self._index.ntotal))


def _sidecar(version: TableVersion) -> dict[str, Any]:
    return {
        "table": version.table,
        "fingerprint": version.fingerprint,
        "rows": version.rows,
        "shards": list(version.manifest["shards"]),
        "type": "flat",
        "metric": "inner product of L2-normalised vectors = cosine",
        "ids": "row number in the order of `shards`",
    }
