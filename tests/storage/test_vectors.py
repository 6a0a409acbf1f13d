"""Embeddings through Parquet, DuckDB and FAISS: the same vectors, the same neighbours."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from storage import schemas
from storage.catalog import connect, refresh_catalog
from storage.errors import StoreError
from storage.faiss_index import SearchIndex, build_index
from storage.store import Recipe, Store, TableVersion
from storage.vectors import column_vectors, read_vectors, vector_column


def query(store: Store, sql: str) -> list[tuple[object, ...]]:
    return connect(store).sql(sql).fetchall()


def unit_vectors(n: int, dimension: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def commit_vectors(store: Store, vectors: np.ndarray, dtype: str = "float32", n_shards: int = 3) -> TableVersion:
    recipe = Recipe("encode", 1, {"dtype": dtype, "n": len(vectors)})
    shards = []
    for index, rows in enumerate(np.array_split(np.arange(len(vectors)), n_shards)):
        table = pa.table(
            [[f"image-{row:05d}" for row in rows], vector_column(vectors[rows], dtype)],
            schema=schemas.embeddings(vectors.shape[1], dtype),
        )
        shards.append(store.write_shard("embeddings", recipe.fingerprint, index, table))
    return store.commit("embeddings", recipe, shards)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    vectors = unit_vectors(1000, 16)
    found = read_vectors(commit_vectors(Store(tmp_path), vectors, dtype))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, vectors.astype(dtype).astype(np.float32))


def test_sliced_column_keeps_its_offset() -> None:
    vectors = unit_vectors(10, 4)
    column = pa.chunked_array([vector_column(vectors, "float32")]).slice(3, 5)
    np.testing.assert_array_equal(column_vectors(column), vectors[3:8])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numpy_duckdb_and_faiss_agree_on_ten_neighbours(tmp_path: Path, dtype: str) -> None:
    store = Store(tmp_path)
    version = commit_vectors(store, unit_vectors(25_000, 32), dtype)
    build_index(store, version)
    vectors = read_vectors(version)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for number in (0, 9_999, 12_345, 24_999):
        exact = np.argsort(-(vectors @ vectors[number]), kind="stable")[:10]
        _, rows = SearchIndex(store, version).search(vectors[number : number + 1], 10)
        assert rows[0].tolist() == exact.tolist()
        nearest = query(
            store,
            f"""
            select other.image_id from embeddings other, embeddings own where own.image_id = 'image-{number:05d}'
            order by array_cosine_similarity(other.embedding, own.embedding) desc limit 10
            """,
        )
        assert [row[0] for row in nearest] == [f"image-{row:05d}" for row in exact]


def test_older_version_is_named_by_its_fingerprint(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, new = (commit_vectors(store, unit_vectors(n, 8)) for n in (50, 60))
    counts = [
        query(store, f"select count(*) from {name}")
        for name in ("embeddings", f"embeddings_at('{old.fingerprint}')", f"embeddings_at('{new.fingerprint[:8]}')")
    ]
    assert counts == [[(60,)], [(50,)], [(60,)]]


def test_catalog_is_read_only_and_says_what_is_wrong(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="holds no tables yet"):
        refresh_catalog(store)
    commit_vectors(store, unit_vectors(5, 8))
    with pytest.raises(duckdb.CatalogException, match="imagez"):
        query(store, "select * from imagez")
    with pytest.raises(duckdb.Error, match="read-only"):
        query(store, "create table new as select 1")


def test_catalog_is_replaced_while_it_is_being_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit_vectors(store, unit_vectors(5, 8))
    reader = connect(store)
    commit_vectors(store, unit_vectors(7, 8))
    refresh_catalog(store)
    assert reader.sql("select count(*) from embeddings").fetchall() == [(5,)]
    reader.close()
    assert query(store, "select count(*) from embeddings") == [(7,)]
