"""FAISS indexes of every kind: made empty, trained on a seeded sample, filled block by block."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from storage.index_gpu import cpu_copy, gpu_copy, has_gpu
from storage.index_kind import PQ_CENTROIDS, IndexParameters, Kind
from storage.index_rows import sample_vectors, vector_blocks
from storage.store import TableVersion

TRAINING_ROWS_PER_CENTROID = 64


def empty_index(parameters: IndexParameters, dimension: int) -> Any:
    """An untrained index for vectors of this dimension; its scores are inner products."""
    given = parameters.as_json()
    if parameters.kind == "flat":
        return faiss.IndexFlatIP(dimension)
    if parameters.kind == "hnsw":
        index = faiss.IndexHNSWFlat(dimension, given["n_links"], faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = given["ef_construction"]
        return index
    coarse = faiss.IndexFlatIP(dimension)
    if parameters.kind == "ivf_flat":
        return faiss.IndexIVFFlat(coarse, dimension, given["n_lists"], faiss.METRIC_INNER_PRODUCT)
    return faiss.IndexIVFPQ(coarse, dimension, given["n_lists"], given["code_bytes"], 8, faiss.METRIC_INNER_PRODUCT)


def build(version: TableVersion, parameters: IndexParameters, dimension: int) -> tuple[faiss.Index, bool]:
    """An index of all vectors, with the GPU for k-means and adding where there is one.

    In memory are the index, the training sample (64 rows for each list, at least 16,384) and one block of the table.

    Returns
    -------
    index
        On the CPU.
    on_gpu
        Whether it was trained and filled on a GPU.
    """
    # A flat index has nothing to train, and adding to it is a copy: the GPU would only cost the way there and back.
    if parameters.kind in ("ivf_flat", "ivf_pq") and has_gpu():
        index = gpu_copy(_seeded(empty_index(parameters, dimension), parameters))
        if index is not None:
            try:
                return cpu_copy(_filled(_seeded(index, parameters), version, parameters)), True
            except RuntimeError as error:  # most likely its memory; the CPU has more
                logging.getLogger(__name__).warning("FAISS stays on the CPU: %s", str(error).splitlines()[0])
    return _filled(_seeded(empty_index(parameters, dimension), parameters), version, parameters), False


def add_shards(index: faiss.Index, version: TableVersion, kind: Kind, first_shard: int = 0) -> None:
    """Add the vectors of the shards from `first_shard` on, in row order.

    HNSW is filled with all threads only by a FAISS (1.15.1 does so) whose graph does not depend on their number;
    else by one.
    """
    with _threads_for_adding(kind):
        for _, vectors in vector_blocks(version, first_shard):
            index.add(vectors)


def skip_random_levels(index: Any) -> None:
    """Bring the random numbers of an HNSW index that was read from a file to where they were when it was written.

    A file does not hold their state: nodes added to it would repeat the levels of the first ones.
    """
    for _ in range(index.ntotal):
        index.hnsw.random_level()


def _filled(index: faiss.Index, version: TableVersion, parameters: IndexParameters) -> faiss.Index:
    if not index.is_trained:
        n_rows = TRAINING_ROWS_PER_CENTROID * max(parameters.n_lists or 0, PQ_CENTROIDS)
        _, vectors = sample_vectors(version, n_rows, np.random.default_rng([parameters.seed or 0, 0]))
        index.train(vectors)
    add_shards(index, version, parameters.kind)
    return index


def _seeded(index: Any, parameters: IndexParameters) -> Any:
    if hasattr(index, "cp"):  # k-means of the lists
        index.cp.seed = parameters.seed
    if hasattr(index, "pq"):  # k-means of the code bytes
        index.pq.cp.seed = parameters.seed
    return index


@contextmanager
def _threads_for_adding(kind: Kind) -> Iterator[None]:
    n_threads = faiss.omp_get_max_threads()
    if kind == "hnsw" and not hasattr(faiss, "hnsw_add_vertices_deterministic"):
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(n_threads)
