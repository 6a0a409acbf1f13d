"""The FAISS index: every kind finds the neighbours, says how well, extends, and is refused when it is not the table's."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import schemas
from storage.errors import StoreError
from storage.faiss_index import SearchIndex, build_index, has_index, index_folder
from storage.index_kind import KINDS, IndexParameters, available_memory_bytes, choose_kind, fill_parameters
from storage.store import Recipe, Store, TableVersion
from storage.vectors import read_vectors, vector_column

GB = 10**9
# Just enough to train a compression.
PQ_ROWS, PQ_DIMENSION, PQ = 10_000, 8, {"kind": "ivf_pq", "n_lists": 64, "code_bytes": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "flat": {"kind": "flat"},
    "hnsw": {"kind": "hnsw"},
    "ivf_flat": {"kind": "ivf_flat", "n_lists": 64},
    "ivf_pq": PQ,
}


def clustered(n: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Unit vectors (n, d) float32 around 100 centres."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(100, dimension))
    vectors = centres[generator.integers(100, size=n)] + 0.5 * generator.normal(size=(n, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


ROWS_AND_QUERIES = clustered(PQ_ROWS + 300, PQ_DIMENSION)


def commit(store: Store, shards: list[np.ndarray], dtype: str = "float32", name: str = "") -> TableVersion:
    recipe = Recipe("encode", 1, {"dtype": dtype, "n": [len(shard) for shard in shards], "name": name})
    written, first = [], 0
    for index, vectors in enumerate(shards):
        table = pa.table(
            [[f"image-{first + row:05d}" for row in range(len(vectors))], vector_column(vectors, dtype)],
            schema=schemas.embeddings(vectors.shape[1], dtype),
        )
        written.append(store.write_shard("embeddings", recipe.fingerprint, index, table))
        first += len(vectors)
    return store.commit("embeddings", recipe, written)


def brute_force(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


def manifest_of(store: Store, version: TableVersion) -> dict[str, Any]:
    return json.loads((index_folder(store, version) / "manifest.json").read_text())


def recall_of(store: Store, version: TableVersion) -> dict[str, Any]:
    return json.loads((index_folder(store, version) / "recall.json").read_text())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Store, TableVersion, Path]]:
    """An index of every kind of the same 10,000 vectors in three shards, each in a store of its own."""
    found = {}
    for kind, chosen in SETTINGS.items():
        store = Store(tmp_path_factory.mktemp(kind))
        version = commit(store, np.array_split(ROWS_AND_QUERIES[:PQ_ROWS], 3))
        found[kind] = (store, version, build_index(store, version, n_recall_queries=200, **chosen))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_against_numpy_and_index_flat_ip(
    built: dict[str, tuple[Store, TableVersion, Path]], kind: str
) -> None:
    store, version, path = built[kind]
    vectors, queries = read_vectors(version), ROWS_AND_QUERIES[PQ_ROWS:]
    exact = brute_force(vectors, queries, 10)
    flat = faiss.IndexFlatIP(PQ_DIMENSION)
    flat.add(vectors)
    np.testing.assert_array_equal(flat.search(queries, 10)[1], exact)

    index = SearchIndex(store, version, verify=True)
    cosines, rows = index.search(queries, 10)
    assert path.name == f"{kind}.faiss"
    assert (cosines.shape, cosines.dtype) == ((300, 10), np.float32)
    assert (rows.shape, rows.dtype) == ((300, 10), np.int64)
    assert (np.diff(cosines, axis=1) <= 0).all()
    recall = np.mean([len(set(own) & set(right)) / 10 for own, right in zip(rows, exact, strict=True)])
    if kind == "flat":
        np.testing.assert_array_equal(rows, exact)
    else:
        assert recall >= {"hnsw": 0.98, "ivf_flat": 0.98, "ivf_pq": 0.6}[kind]
    own = np.take_along_axis(queries @ vectors.T, rows, axis=1)
    np.testing.assert_allclose(cosines, own, atol=0.15 if kind == "ivf_pq" else 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_recall_report_recomputed_by_hand(built: dict[str, tuple[Store, TableVersion, Path]], kind: str) -> None:
    store, version, path = built[kind]
    told = recall_of(store, version)
    vectors, index = read_vectors(version), faiss.read_index(str(path))
    generator = np.random.default_rng([0, 1])
    queries = np.sort(generator.choice(version.rows, 200, replace=False, shuffle=False))
    for cutoff in (1, 10, 100):
        _, found = index.search(vectors[queries], cutoff + 1)
        hits = 0
        for query, rows in zip(queries, found, strict=True):
            cosines = vectors @ vectors[query]
            cosines[query] = -np.inf
            right = np.argsort(-cosines, kind="stable")[:cutoff]
            hits += len(set(right) & set([row for row in rows if row != query][:cutoff]))
        assert told["recall"][str(cutoff)] == pytest.approx(hits / (200 * cutoff), abs=1e-4)
    assert told["n_queries"] == 200
    assert all(value > 0 for value in told["queries_per_s"].values())
    assert {"exact_100", "index_10"} <= told["queries_per_s"].keys()
    if kind == "flat":
        assert told["recall"] == {"1": 1.0, "10": 1.0, "100": 1.0}


@pytest.mark.parametrize(("kind", "name"), [("hnsw", "efSearch"), ("ivf_flat", "nprobe"), ("ivf_pq", "nprobe")])
def test_search_effort_is_the_least_that_reaches_the_goal(
    built: dict[str, tuple[Store, TableVersion, Path]], kind: str, name: str
) -> None:
    store, version, path = built[kind]
    tried = recall_of(store, version)["goal"]["tried"]
    chosen = manifest_of(store, version)["search"][name]
    recalls = {each[name]: each["recall_at_10"] for each in tried}
    least = 0.99 if max(recalls.values()) >= 0.99 else max(recalls.values()) - 0.005
    assert chosen == min(value for value, recall in recalls.items() if recall >= least)
    index = faiss.read_index(str(path))
    assert (index.hnsw.efSearch if kind == "hnsw" else index.nprobe) == chosen


@pytest.mark.parametrize(("kind", "least"), [("hnsw", {"efSearch": 16}), ("ivf_flat", {"nprobe": 1})])
def test_lower_goal_is_content_with_less(tmp_path: Path, kind: Any, least: dict[str, int]) -> None:
    store = Store(tmp_path)
    version = commit(store, [clustered(1000, 8)])
    build_index(store, version, kind=kind, recall_goal=0.0)
    assert manifest_of(store, version)["search"] == least


@pytest.mark.parametrize("kind", KINDS)
def test_same_table_and_settings_give_the_same_bytes(
    built: dict[str, tuple[Store, TableVersion, Path]], tmp_path: Path, kind: str
) -> None:
    store, version, path = built[kind]
    other = Store(tmp_path)
    shutil.copytree(store.root / "tables", other.root / "tables")
    n_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if n_threads > 1 else 2)
    try:
        again = build_index(other, other.version("embeddings"), n_recall_queries=200, **SETTINGS[kind])
    finally:
        faiss.omp_set_num_threads(n_threads)
    assert again.read_bytes() == path.read_bytes()
    assert manifest_of(other, version) == manifest_of(store, version)


def test_seed_decides_lists_and_queries(tmp_path: Path) -> None:
    store = Store(tmp_path)
    version = commit(store, [clustered(2000, 8)])
    files = [build_index(store, version, kind="ivf_flat", seed=seed).read_bytes() for seed in (0, 1, 0)]
    assert files[0] == files[2] != files[1]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf_flat"])
def test_extension_equals_rebuild(tmp_path: Path, kind: str) -> None:
    shards = np.array_split(clustered(3000, 16), 4)
    store, fresh = Store(tmp_path / "extended"), Store(tmp_path / "fresh")
    chosen = {"kind": kind, "n_recall_queries": 200, **({"n_lists": 16} if kind == "ivf_flat" else {})}
    for n_shards in (1, 2, 3):
        old = commit(store, shards[:n_shards], name="old")
        build_index(store, old, **chosen)
    new, same = commit(store, shards), commit(fresh, shards)
    path, rebuilt = build_index(store, new, **chosen), build_index(fresh, same, **chosen)
    # The largest first part is taken.
    assert manifest_of(store, new)["extended_from"] == old.fingerprint
    assert manifest_of(fresh, same)["extended_from"] is None
    if kind == "ivf_flat":  # the lists have the centroids of the first shard, the vectors are all there
        assert manifest_of(store, new)["parameters"] == manifest_of(store, old)["parameters"]
        assert recall_of(store, new)["recall"]["10"] >= 0.99
        index = SearchIndex(store, new)
        vectors = read_vectors(new)
        np.testing.assert_array_equal(index.search(vectors[::7], 1)[1][:, 0], np.arange(len(vectors))[::7])
    else:
        assert path.read_bytes() == rebuilt.read_bytes()
    assert SearchIndex(store, new, verify=True).search(shards[3][:5], 1)[1].ravel().tolist() == list(range(2250, 2255))


def test_what_is_not_extended(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shards = np.array_split(clustered(900, 8), 3)
    old = commit(store, shards[:2])
    path = build_index(store, old, kind="hnsw")
    whole = commit(store, shards)

    def source(version: TableVersion, **chosen: Any) -> str | None:
        build_index(store, version, n_recall_queries=20, **chosen)
        return manifest_of(store, version)["extended_from"]

    assert source(whole, kind="hnsw") == old.fingerprint
    assert source(whole, kind="flat") is None  # another kind
    assert source(whole, kind="hnsw", n_links=16) is None  # another setting
    assert source(commit(store, [shards[0], shards[2], shards[1]], name="order"), kind="hnsw") is None
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert source(whole, kind="hnsw") is None  # damaged inside


def test_lists_for_many_fewer_rows_are_not_extended() -> None:
    wanted = fill_parameters("ivf_flat", 1_000_000, 64)
    assert wanted == IndexParameters("ivf_flat", n_lists=2048, seed=0)
    for n_lists, extends in ((2048, True), (1024, True), (512, False)):
        assert wanted.can_extend({"kind": "ivf_flat", "n_lists": n_lists, "seed": 0}) == extends
    assert not wanted.can_extend({"kind": "ivf_flat", "n_lists": 2048, "seed": 1})


def test_index_of_another_table_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    version, other = (commit(store, [clustered(n, 8)]) for n in (50, 60))
    assert not has_index(store, version)
    with pytest.raises(StoreError, match="missing or damaged"):
        SearchIndex(store, version)
    for each in (version, other):
        build_index(store, each)
        assert has_index(store, each)
    shutil.rmtree(index_folder(store, version))
    index_folder(store, other).rename(index_folder(store, version))
    with pytest.raises(StoreError, match="built from another table"):
        SearchIndex(store, version)
    assert not has_index(store, version)


def test_index_of_changed_shards_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    version = commit(store, [clustered(50, 8)])
    build_index(store, version)
    path = version.folder / "_manifest.json"
    path.write_text(path.read_text().replace(version.manifest["shards"][0]["blake2b"], "0" * 32))
    with pytest.raises(StoreError, match="built from another table"):
        SearchIndex(store, store.version("embeddings"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "flat.faiss").unlink(),
        lambda folder: (folder / "flat.faiss").write_bytes((folder / "flat.faiss").read_bytes()[:-1]),
        lambda folder: (folder / "flat.faiss").write_bytes(b"\0" * (folder / "flat.faiss").stat().st_size),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").write_text('{"table": "embeddings", "type": "flat"}'),
        lambda folder: (folder / "manifest.json").write_text(
            (folder / "manifest.json").read_text().replace('"kind": "flat"', '"kind": "hnsw"')
        ),
    ],
)
def test_damaged_index_is_refused_and_built_again(tmp_path: Path, damage: Any) -> None:
    store = Store(tmp_path)
    version = commit(store, [clustered(50, 8)])
    build_index(store, version)
    damage(index_folder(store, version))
    with pytest.raises(StoreError, match="missing or damaged") as caught:
        SearchIndex(store, version)
    assert "\n" not in str(caught.value)
    assert not has_index(store, version)
    build_index(store, version)
    assert SearchIndex(store, version, verify=True).search(clustered(1, 8), 3)[1].shape == (1, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_anywhere_is_refused(built: dict[str, tuple[Store, TableVersion, Path]], kind: str) -> None:
    store, version, path = built[kind]
    whole = path.read_bytes()
    try:
        for share in (0.0, 0.1, 0.5, 0.9, 0.999):
            path.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(StoreError, match="missing or damaged"):
                SearchIndex(store, version)
    finally:
        path.write_bytes(whole)


def test_full_disk(tmp_path: Path) -> None:
    store = Store(tmp_path)
    version = commit(store, [clustered(500, 8)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(StoreError, match="is the disk full"):
            build_index(store, version)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(index_folder(store, version).iterdir()) == []
    assert not has_index(store, version)


def test_damage_inside_is_found_by_the_hash(tmp_path: Path) -> None:
    store = Store(tmp_path)
    version = commit(store, [clustered(500, 8)])
    path = build_index(store, version)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    SearchIndex(store, version)
    with pytest.raises(StoreError, match="is damaged: delete it"):
        SearchIndex(store, version, verify=True)


def test_another_kind_takes_the_place_of_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    version = commit(store, [clustered(700, 8)])
    for kind in ("flat", "ivf_flat", "hnsw", "flat"):
        build_index(store, version, kind=kind)
        assert SearchIndex(store, version).manifest["kind"] == kind
        names = sorted(path.name for path in index_folder(store, version).iterdir())
        assert names == sorted([f"{kind}.faiss", "manifest.json", "recall.json"])


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_neighbours_as_there_are_rows(built: dict[str, tuple[Store, TableVersion, Path]], kind: str) -> None:
    store, version, _ = built[kind]
    cosines, rows = SearchIndex(store, version).search(clustered(2, PQ_DIMENSION, seed=2), 2 * version.rows)
    assert rows.shape == (2, version.rows)
    assert [sorted(each) for each in rows.tolist()] == [list(range(version.rows))] * 2
    assert np.isfinite(cosines).all()


@pytest.mark.parametrize("kind", ["auto", "hnsw"])
@pytest.mark.parametrize("sizes", [[], [0], [1], [2, 0], [4]])
def test_tiny_tables(tmp_path: Path, kind: Any, sizes: list[int]) -> None:
    store = Store(tmp_path)
    shards = [clustered(size, 8, seed) for seed, size in enumerate(sizes)]
    version = commit(store, shards)
    build_index(store, version, kind=kind)
    cosines, rows = SearchIndex(store, version).search(clustered(3, 8), 10)
    assert cosines.shape == rows.shape == (3, sum(sizes))
    recall = recall_of(store, version)
    assert recall["n_queries"] == sum(sizes)
    assert set(recall["recall"].values()) == ({1.0} if sum(sizes) > 1 else {None})


def test_float16_table(tmp_path: Path) -> None:
    store = Store(tmp_path)
    version = commit(store, np.array_split(clustered(3000, 32), 2), "float16")
    vectors = read_vectors(version)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    build_index(store, version)
    cosines, rows = SearchIndex(store, version).search(vectors[:50], 10)
    np.testing.assert_array_equal(rows, brute_force(vectors, vectors[:50], 10))
    np.testing.assert_allclose(cosines[:, 0], 1.0, atol=1e-6)
    assert recall_of(store, version)["recall"] == {"1": 1.0, "10": 1.0, "100": 1.0}


def test_equal_vectors_are_no_loss_of_recall(tmp_path: Path) -> None:
    store = Store(tmp_path)
    version = commit(store, [np.repeat(clustered(100, 8), 3, axis=0), clustered(200, 8, seed=1)])
    build_index(store, version)
    assert recall_of(store, version)["recall"] == {"1": 1.0, "10": 1.0, "100": 1.0}


@pytest.mark.parametrize(
    ("n_rows", "dimension", "available_gb", "kind", "reason"),
    [
        (0, 0, 0, "flat", "0 rows are few enough (up to 1,000,000) for exact search"),
        (5_000, 512, 16, "flat", "5,000 rows are few enough"),
        (1_000_000, 512, 16, "flat", "1,000,000 rows are few enough"),
        (1_000_001, 512, 16, "ivf_flat", "1,000,001 rows are too many (over 1,000,000) for exact search, and fit"),
        (10_000_000, 512, 64, "ivf_flat", "10,000,000 rows are too many"),
        (10_000_000, 512, 16, "ivf_pq", "are 20.5 GB, more than half of the 16.0 GB of memory available, so they are"),
        (900_000, 768, 4, "ivf_pq", "900,000 vectors are 2.8 GB, more than half of the 4.0 GB"),
        (9_000, 100_000, 4, "flat", "too few to learn a compression from"),
    ],
)
def test_rule_of_auto(n_rows: int, dimension: int, available_gb: int, kind: str, reason: str) -> None:
    choice = choose_kind(n_rows, dimension, available_gb * GB)
    assert choice.kind == kind
    assert reason in choice.reason
    assert "\n" not in choice.reason


@given(st.integers(0, 10**9), st.integers(1, 4096), st.integers(0, 10**13))
def test_auto_never_chooses_what_cannot_be_built(n_rows: int, dimension: int, available_bytes: int) -> None:
    choice = choose_kind(n_rows, dimension, available_bytes)
    parameters = fill_parameters(choice.kind, n_rows, dimension)
    assert 39 * (parameters.n_lists or 0) <= n_rows
    assert parameters.code_bytes is None or dimension % parameters.code_bytes == 0


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.sampled_from(["float16", "float32"]),
    st.integers(1, 200),
    st.integers(0, 3),
)
@settings(max_examples=20)
def test_flat_is_numpy_whatever_the_shards(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], dtype: str, k: int, seed: int
) -> None:
    store = Store(tmp_path_factory.mktemp("any"))
    version = commit(store, [clustered(size, 8, 10 * seed + number) for number, size in enumerate(sizes)], dtype)
    build_index(store, version)
    vectors = read_vectors(version)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = clustered(3, 8, seed)
    cosines, rows = SearchIndex(store, version).search(queries, k)
    exact = -np.sort(-(queries @ vectors.T), axis=1)[:, :k]
    np.testing.assert_allclose(cosines, exact, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(queries @ vectors.T, rows, axis=1), exact, atol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"kind": "annoy"}, "no kind annoy, take one of auto, flat, hnsw, ivf_flat, ivf_pq"),
        ({"kind": "ivf_flat"}, "ivf_flat takes 624 rows to train, the table has 100: use flat"),
        ({"kind": "ivf_pq"}, "ivf_pq takes 9,984 rows to train, the table has 100"),
        ({"kind": "ivf_flat", "n_lists": 3}, "with 3 lists takes 117 rows"),
        ({"kind": "ivf_flat", "n_lists": 0}, "n_lists 0 must be 1 or more"),
        ({"kind": "hnsw", "n_links": 1}, "n_links 1 must be 2 or more"),
        ({"recall_goal": 1.5}, "recall_goal 1.5 must be 0 to 1"),
        ({"n_recall_queries": 0}, "n_recall_queries 0 1 or more"),
        ({"seed": -1}, "seed -1 0 to"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, chosen: dict[str, Any], message: str) -> None:
    store = Store(tmp_path)
    version = commit(store, [clustered(100, 8)])
    with pytest.raises(StoreError, match=message.replace("(", r"\(")) as caught:
        build_index(store, version, **chosen)
    assert "\n" not in str(caught.value)
    assert not index_folder(store, version).exists()


def test_code_bytes_must_divide_the_dimension() -> None:
    with pytest.raises(StoreError, match="code_bytes 5 does not divide the dimension 512"):
        fill_parameters("ivf_pq", 10**6, 512, code_bytes=5)
    assert fill_parameters("ivf_pq", 10**6, 512).code_bytes == 128
    assert fill_parameters("ivf_pq", 10**6, 17).code_bytes == 1


@pytest.mark.parametrize(("shape", "k"), [((1, 7), 3), ((8,), 3), ((1, 8), 0), ((1, 8), -2)])
def test_queries_that_do_not_fit(tmp_path: Path, shape: tuple[int, ...], k: int) -> None:
    store = Store(tmp_path)
    version = commit(store, [clustered(20, 8)])
    build_index(store, version)
    with pytest.raises(StoreError, match="the index has dimension 8"):
        SearchIndex(store, version).search(np.ones(shape, dtype=np.float32), k)


def test_memory_that_is_left_is_known() -> None:
    assert 0 < available_memory_bytes() < 2**50
