"""An index read from its file, and the nearest rows that it finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import faiss
import numpy as np

from storage.errors import StoreError
from storage.index_gpu import GPU_KINDS, GPU_MAX_NEIGHBOURS, gpu_copy, has_gpu
from storage.index_recall import Rows, apply_search
from storage.index_sidecar import CURE, file_hash, index_folder, missing, read_sidecar
from storage.local_copies import local_copy
from storage.store import Store, TableVersion
from storage.vectors import Vectors

CLASSES = {"flat": "IndexFlatIP", "hnsw": "IndexHNSWFlat", "ivf_flat": "IndexIVFFlat", "ivf_pq": "IndexIVFPQ"}
GPU_MIN_QUERIES = 100  # fewer are answered from the memory map before the index would be on the GPU


class SearchIndex:
    """A loaded index: mapped into memory, so that processes share it and only what is looked at is read.

    Parameters
    ----------
    verify
        Read the whole file first and compare its hash. Else its size and its header are checked.

    Raises
    ------
    StoreError
        When the index is missing or damaged, or was built from other shards than the table now has.
    """

    def __init__(self, store: Store, version: TableVersion, *, verify: bool = False) -> None:
        sidecar = read_sidecar(store, version)
        path = index_folder(store, version) / sidecar["file"]["name"]
        if verify and file_hash(path) != sidecar["file"]["blake2b"]:
            raise StoreError(f"{path} is damaged: delete it and {CURE}")
        local = local_copy(path, f"{sidecar['file']['blake2b']}.faiss")
        try:
            index: Any = faiss.read_index(str(local), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
        except (RuntimeError, MemoryError) as error:  # the latter where a damaged header asks for too much
            raise missing(version) from error
        header = (type(index).__name__, index.ntotal, index.d, index.metric_type)
        if header != (CLASSES[sidecar["kind"]], version.rows, sidecar["dimension"], faiss.METRIC_INNER_PRODUCT):
            raise missing(version)
        apply_search(index, sidecar["search"])
        self.manifest: Mapping[str, Any] = sidecar
        self._index: Any = index  # FAISS types it by its base class
        self._on_gpu: faiss.Index | None = None
        self._gpu_wanted = sidecar["kind"] in GPU_KINDS and sidecar["search"].get("nprobe", 1) <= GPU_MAX_NEIGHBOURS

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """The k nearest rows of each query. A hundred queries or more are searched on the GPU where there is one.

        Parameters
        ----------
        queries
            (m, d) float32, L2-normalised.
        k
            Neighbours wanted; fewer come back when the table is smaller.

        Returns
        -------
        cosine, row
            (m, k) float32 and int64, best first. Of an ivf_pq index the cosines are those of the compressed vectors.

        Raises
        ------
        StoreError
            When the queries have another dimension than the table, or k is less than 1.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        n_rows, dimension = self._index.ntotal, self._index.d
        # A table without shards does not know its dimension.
        if k < 1 or queries.ndim != 2 or (n_rows and queries.shape[1] != dimension):
            raise StoreError(f"search: {k} neighbours of queries {queries.shape}, the index has dimension {dimension}")
        k = min(k, n_rows)
        if k == 0:
            return np.empty((len(queries), 0), dtype=np.float32), np.empty((len(queries), 0), dtype=np.int64)
        cosines, rows = self._searched(len(queries), k).search(queries, k)
        short = (rows < 0).any(axis=1)
        if short.any():
            cosines[short], rows[short] = self._exhaustive(queries[short], k)
        return cosines, rows

    def _searched(self, n_queries: int, k: int) -> faiss.Index:
        if self._gpu_wanted and self._on_gpu is None and n_queries >= GPU_MIN_QUERIES:
            self._on_gpu = gpu_copy(self._index) if has_gpu() else None
            self._gpu_wanted = self._on_gpu is not None
        return self._on_gpu if self._on_gpu is not None and k <= GPU_MAX_NEIGHBOURS else self._index

    def _exhaustive(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """For queries whose lists hold fewer than k rows, or whose walk through the graph met fewer: all are scored."""
        if self.manifest["kind"] == "hnsw":
            return faiss.downcast_index(self._index.storage).search(queries, k)
        parameters: Any = faiss.SearchParametersIVF
        found: tuple[Vectors, Rows] = self._index.search(queries, k, params=parameters(nprobe=self._index.nlist))
        return found
