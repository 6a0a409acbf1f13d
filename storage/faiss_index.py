"""The FAISS index of an embeddings version: a cache that can always be rebuilt.

Row number in the index = row number in the Parquet shards, in the manifest's order. Scores are inner products of
L2-normalised vectors, so cosines, whatever the kind. The sidecar ``manifest.json``, written last, says which shards
the index was built from; an index that does not match its table is refused. ``recall.json`` says how good it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import faiss

from storage.atomic import atomic_path, write_bytes
from storage.errors import StoreError
from storage.index_kind import KINDS, Kind, KindChoice, available_memory_bytes, choose_kind, fill_parameters
from storage.index_recall import GOAL_CUTOFF, apply_search, draw_sample, report, tune
from storage.index_rows import vector_dimension
from storage.index_search import SearchIndex
from storage.index_sidecar import describe_index, find_extensible, index_folder
from storage.index_training import add_shards, build, skip_random_levels
from storage.local_copies import local_copy
from storage.s3_path import StorePath
from storage.store import Store, TableVersion

__all__ = ["SearchIndex", "build_index", "has_index", "index_folder"]


def build_index(
    store: Store,
    version: TableVersion,
    *,
    kind: Kind | Literal["auto"] = "auto",
    n_links: int = 32,
    ef_construction: int = 80,
    n_lists: int | None = None,
    code_bytes: int | None = None,
    recall_goal: float = 0.99,
    n_recall_queries: int = 1000,
    seed: int = 0,
) -> StorePath:
    """Build the index of a version, or extend that of an earlier one, and write it, its recall and its sidecar.

    The same table and settings give the same bytes, with one thread or two (compared with FAISS 1.15.1 for every
    kind); another FAISS or another type of CPU may round otherwise. Where there is an index of the first shards of
    this version, of the same kind and parameters, it is extended instead: a flat one then has the same bytes as a new
    one, and so has an HNSW one; one of lists keeps the centroids that it was trained with.

    Parameters
    ----------
    kind
        ``flat``, ``hnsw``, ``ivf_flat``, ``ivf_pq``, or ``auto`` for the rule of `storage.index_kind.choose_kind`.
    n_links, ef_construction
        hnsw: links of a node, and candidates looked at for them.
    n_lists
        ivf: lists of vectors; by default about four times the root of the number of rows.
    code_bytes
        ivf_pq: bytes that a vector is compressed to; by default one for every four dimensions.
    recall_goal
        recall@10, 0 to 1, up to which nprobe or efSearch is raised.
    n_recall_queries
        Rows that serve as queries of the recall report.
    seed
        Of the sample to train with, of k-means, and of the queries.

    Returns
    -------
    Path
        The index file.

    Raises
    ------
    StoreError
        When the table is damaged or too small for the kind, a setting makes no sense, or the disk is full.
    """
    _check(kind, recall_goal, n_recall_queries, seed)
    dimension = vector_dimension(version)
    if kind == "auto":
        choice = choose_kind(version.rows, dimension, available_memory_bytes())
    else:
        choice = KindChoice(kind, "asked for")
    parameters = fill_parameters(
        choice.kind,
        version.rows,
        dimension,
        n_links=n_links,
        ef_construction=ef_construction,
        n_lists=n_lists,
        code_bytes=code_bytes,
        seed=seed,
    )
    extensible = find_extensible(store, version, dimension, parameters)
    if extensible is not None:
        path, old = extensible
        index = _extended(path, old, version)
        used = {"kind": choice.kind, **old["parameters"]}
        built = {"built_on": old["built_on"], "extended_from": old["fingerprint"]}
    else:
        index, on_gpu = build(version, parameters, dimension)
        used = parameters.as_json()
        built = {"built_on": "gpu" if on_gpu else "cpu", "extended_from": None}

    sample = draw_sample(version, n_recall_queries, seed)
    search, tried = tune(index, choice.kind, sample, recall_goal)
    apply_search(index, search)
    recall = {
        "fingerprint": version.fingerprint,
        "kind": choice.kind,
        "rows": version.rows,
        **report(index, sample),
        "seed": seed,
        "search": search,
        "goal": {f"recall_at_{GOAL_CUTOFF}": recall_goal, "tried": tried},
    }
    path = index_folder(store, version) / f"{choice.kind}.faiss"
    _write(index, path)
    write_bytes(path.with_name("recall.json"), json.dumps(recall, indent=1).encode())
    sidecar = describe_index(version, dimension, path, used, choice.reason, search, built)
    write_bytes(path.with_name("manifest.json"), json.dumps(sidecar, indent=1).encode())
    for other in path.parent.glob("[!.]*.faiss"):
        if other != path:
            other.unlink(missing_ok=True)
    return path


def has_index(store: Store, version: TableVersion, kind: Kind | Literal["auto"] = "auto") -> bool:
    """Whether an index of this version, and of this kind, is there that can be loaded."""
    try:
        found = SearchIndex(store, version).manifest["kind"]
    except StoreError:
        return False
    return kind in ("auto", found)


def _extended(path: StorePath, sidecar: Mapping[str, Any], version: TableVersion) -> faiss.Index:
    """The index of a file, with the vectors of the shards that it lacks."""
    index = faiss.read_index(str(local_copy(path, f"{sidecar['file']['blake2b']}.faiss")))
    if sidecar["kind"] == "hnsw":
        skip_random_levels(index)
    add_shards(index, version, sidecar["kind"], first_shard=len(sidecar["shards"]))
    return index


def _write(index: faiss.Index, path: StorePath) -> None:
    with atomic_path(path) as temporary:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError as error:  # FAISS does not tell a full disk from other reasons
            raise StoreError(f"cannot write {path}: is the disk full, or the folder not writable?") from error


def _check(kind: str, recall_goal: float, n_recall_queries: int, seed: int) -> None:
    if kind not in ("auto", *KINDS):
        raise StoreError(f"index: there is no kind {kind}, take one of auto, {', '.join(KINDS)}")
    if not 0 <= recall_goal <= 1 or n_recall_queries < 1 or not 0 <= seed < 2**31:
        raise StoreError(
            f"index: recall_goal {recall_goal} must be 0 to 1, n_recall_queries {n_recall_queries} 1 or more, "
            f"seed {seed} 0 to 2147483647"
        )
