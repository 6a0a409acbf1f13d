from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pandas
import polars
import pyarrow as pa
import pyarrow.dataset
import pytest

from storage.errors import StoreError
from storage.store import Recipe, Store

ROWS = pa.table({"name": ["a", "b", "c"], "number": [1, 2, 3]})
RECIPE = Recipe("step", 1, {"seed": 1, "names": ["x", "y"]}, {"images": "abc"})


def commit(store: Store, recipe: Recipe = RECIPE, rows: pa.Table = ROWS) -> None:
    store.commit("things", recipe, [store.write_shard("things", recipe.fingerprint, 0, rows)], counts={"in": 3})


def test_committed_version_is_read_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store)
    version = store.version("things")
    assert version.read().equals(ROWS)
    assert (version.rows, version.counts, version.fingerprint) == (3, {"in": 3}, RECIPE.fingerprint)


def test_crash_before_the_manifest_leaves_no_version(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_shard("things", RECIPE.fingerprint, 0, ROWS)
    assert store.versions() == []
    with pytest.raises(StoreError, match="holds no table things yet"):
        store.version("things")
    commit(store)  # the next run replaces the shard and finishes
    assert store.version("things").read().equals(ROWS)


def test_fingerprint_depends_on_what_made_it_and_nothing_else() -> None:
    same = Recipe("step", 1, {"names": ["x", "y"], "seed": 1}, {"images": "abc"})
    assert same.fingerprint == RECIPE.fingerprint == "8287e083842fcb21"
    others = [
        Recipe("other", 1, RECIPE.settings, RECIPE.inputs),
        Recipe("step", 2, RECIPE.settings, RECIPE.inputs),
        Recipe("step", 1, {"seed": 2, "names": ["x", "y"]}, RECIPE.inputs),
        Recipe("step", 1, {"seed": 1, "names": ["y", "x"]}, RECIPE.inputs),
        Recipe("step", 1, RECIPE.settings, {"images": "abd"}),
    ]
    assert len({recipe.fingerprint for recipe in (RECIPE, *others)}) == 6


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    shards = [Store(tmp_path / name).write_shard("things", "f", 0, ROWS) for name in ("one", "two")]
    assert shards[0] == shards[1]


def test_reuse_selects_an_older_version(tmp_path: Path) -> None:
    store = Store(tmp_path)
    newer = Recipe("step", 1, {"seed": 2})
    commit(store)
    commit(store, newer, ROWS.slice(0, 1))
    assert store.version("things").fingerprint == newer.fingerprint
    assert store.reuse(RECIPE, ["things"])
    assert store.version("things").fingerprint == RECIPE.fingerprint
    assert not store.reuse(Recipe("step", 1, {"seed": 3}), ["things"])
    assert [version.rows for version in store.versions("things")] == [3, 1]


def test_versions_are_found_by_their_first_digits(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store)
    assert store.version("things", RECIPE.fingerprint[:5]).fingerprint == RECIPE.fingerprint
    with pytest.raises(StoreError, match="holds no version zzz"):
        store.version("things", "zzz")


def test_damaged_shard_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store)
    (shard,) = store.version("things").files
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreError, match="missing or damaged"):
        store.version("things").read()


def test_damaged_manifest_is_refused_with_what_to_do(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store)
    (store.folder("things", RECIPE.fingerprint) / "_manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"delete .* and run again"):
        store.version("things")


def test_lost_pointer_falls_back_to_the_newest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store)
    (tmp_path / "tables/things/selected").write_text("gone")
    assert store.version("things").fingerprint == RECIPE.fingerprint


def test_store_on_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for root in (file, file / "below"):
        with pytest.raises(StoreError, match="is a file, give a folder"):
            Store(root)


def _commit_many(root: Path, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    store = Store(root)
    for seed in range(20):
        commit(store, Recipe("step", 1, {"seed": seed}))
    results.put(True)  # type: ignore[attr-defined]


def test_two_writers_of_the_same_versions(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    writers = [context.Process(target=_commit_many, args=(tmp_path, start, results)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    store = Store(tmp_path)
    assert len(store.versions("things")) == 20
    assert all(version.read().equals(ROWS) for version in store.versions("things"))
    assert not list(tmp_path.rglob("*.tmp"))
    for manifest in tmp_path.rglob("_manifest.json"):
        assert json.loads(manifest.read_text())["rows"] == 3


def test_versions_made_before_the_manifest_had_its_name_are_read_selected_and_reused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store)
    made = store.version("things")
    (made.folder / "_manifest.json").rename(made.folder / "manifest.json")
    assert store.has("things", RECIPE.fingerprint)
    assert store.version("things").manifest == made.manifest
    assert [each.fingerprint for each in store.versions()] == [RECIPE.fingerprint]
    assert store.reuse(RECIPE, ["things"])


def test_a_folder_of_a_version_is_a_table_to_other_tools(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store)
    made = store.version("things")
    assert {path.name for path in made.folder.iterdir()} == {"_manifest.json", "part-00000.parquet"}
    assert len(pandas.read_parquet(made.folder)) == made.rows
    assert pyarrow.dataset.dataset(made.folder).count_rows() == made.rows
    assert polars.read_parquet(f"{made.folder}/*.parquet").height == made.rows
