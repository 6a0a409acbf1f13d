"""What a store keeps and what goes: nothing that is needed, everything that is not, and nothing by halves."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import retention
from storage.errors import StoreError
from storage.image_files import put_image
from storage.leases import Leases
from storage.retention import Removal, collect_garbage, plan_removals, remove
from storage.runs import recorded
from storage.s3_path import S3Path, StorePath, files_below
from storage.store import Recipe, Store, TableVersion, write_recipe

DAY_S = 86_400.0
MONTH_S = 30 * DAY_S
Files = dict[str, int]


def later() -> float:
    """A time at which all that lies in a store now is old."""
    return time.time() + 40 * DAY_S


def gc(store: Store, *, keep_last: int = 1, older_than_s: float = MONTH_S, now: float | None = None) -> list[Removal]:
    return collect_garbage(store, keep_last=keep_last, older_than_s=older_than_s, now=now or later())


def plan(store: Store, *, keep_last: int = 1) -> list[Removal]:
    return plan_removals(store, keep_last=keep_last, older_than_s=MONTH_S, now=later())


def files(root: StorePath) -> Files:
    """Every file and its size."""
    return {file.name: file.bytes for file in files_below(root)}


def check_reconciles(before: Files, after: Files, removed: list[Removal]) -> None:
    """What is gone is what was said to be: nothing is new, and the bytes agree."""
    assert after.items() <= before.items()
    assert sum(each.bytes for each in removed) == sum(before.values()) - sum(after.values())


def commit(store: Store, table: str = "things", seed: int = 0, step: str = "step", **inputs: str) -> TableVersion:
    recipe = Recipe(step, 1, {"seed": seed}, inputs)
    rows = pa.table({"seed": [seed]})
    return store.commit(table, recipe, [store.write_shard(table, recipe.fingerprint, 0, rows)])


def commit_images(store: Store, seed: int, contents: list[bytes]) -> TableVersion:
    recipe = Recipe("collect", 1, {"seed": seed})
    named = [put_image(store.root, data, ".jpg") for data in contents]
    rows = pa.table({"image_id": [each[0] for each in named], "file": [each[1] for each in named]})
    for table in ("rejects", "images"):
        version = store.commit(table, recipe, [store.write_shard(table, recipe.fingerprint, 0, rows)])
    return version


def put(path: StorePath, data: bytes = b"data") -> StorePath:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def recipe_of(version: TableVersion) -> Recipe:
    return Recipe(**version.manifest["recipe"])


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> StorePath:
    """A place for a store, of either kind."""
    if request.param == "folder":
        return tmp_path / "root"
    return request.getfixturevalue("bucket") / "root"


def test_a_store_of_two_generations(root: StorePath) -> None:
    """On a disk and on S3: the old generation goes with all that hangs on it, the new one stays whole."""
    store = Store(root)
    generations = []
    for seed, contents in ((0, [b"shared", b"old"]), (1, [b"shared", b"new"])):
        images = commit_images(store, seed, contents).fingerprint
        embeddings = commit(store, "embeddings", seed, "encode", images=images, encoder="ViT@abc").fingerprint
        metrics = commit(store, "metrics", seed, "fit", embeddings=embeddings).fingerprint
        put(root / "indexes" / embeddings / "manifest.json")
        put(root / "indexes" / embeddings / "flat.faiss", b"index" * 100)
        put(root / "heads" / metrics / "head.safetensors")
        put(root / "collections" / "photos" / images / "README.md")
        report = Recipe("publish", 1, {}, {"metrics": metrics})
        write_recipe(root / "reports" / report.fingerprint, report)
        put(root / "reports" / report.fingerprint / "index.html")
        generations.append({images, embeddings, metrics, report.fingerprint})
    stays = [
        "labels/duplicates/20260101T000000.000000Z-00000000.json",
        "labels/duplicates/.x.json.1-00000000.tmp",
        f"plans/{'0' * 16}.json",
        "runs/20260101T000000Z-000000.json",
        "listings/osf-0/0001/items.parquet",
        f"originals/ab/ab{'0' * 30}.jpg",
        f"quarantine/ab/ab{'0' * 30}.bin",
        "images/holiday.jpg",
        f"reports/{'0' * 16}/index.html",  # by an older placeprint: it does not say on what it is
    ]
    goes = [
        f"images/ab/ab{'0' * 30}.jpg",
        "work/0123456789ab/000-0.images.parquet",
        f"tables/splits/{'0' * 16}/part-00000.parquet",
        f"heads/{'1' * 16}/checkpoints/x.safetensors",
        f"reports/{'1' * 16}/metrics.csv",
        "runs/.x.json.1-00000000.tmp",
        ".catalog.duckdb.12-0a0b0c0d.tmp.wal",
    ]
    for name in (*stays, *goes):
        put(root / name)
    before = files(root)
    removed = gc(store)
    after = files(root)
    check_reconciles(before, after, removed)
    old, new = generations
    assert not [name for name in after if any(fingerprint in name for fingerprint in old)]
    assert {name for name in before if any(fingerprint in name for fingerprint in new)} <= set(after)
    assert set(stays) <= set(after)
    assert not set(goes) & set(after)
    read = store.version("images").read(["file"])["file"].to_pylist()
    assert [(root / file).read_bytes() for file in read] == [b"shared", b"new"]
    kinds = [each.kind for each in removed]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "table versions": 4,
        "indexes": 1,
        "heads": 2,
        "collection cards": 1,
        "unfinished versions": 1,
        "reports": 2,
        "work folders": 1,
        "temporary files": 2,
        "images": 2,
    }
    assert gc(store) == []
    assert files(root) == after


def test_a_plan_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in range(3):
        commit_images(store, seed, [bytes([seed])])
    put(tmp_path / "work/0123456789ab/part")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")}
    assert len(plan(store)) == 2 * 2 + 2 + 1
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in tmp_path.rglob("*")} == before


def test_what_is_young_stays_with_what_it_was_made_from(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = [commit(store, "photos", seed) for seed in range(4)]
    made = [commit(store, "metrics", seed, "fit", photos=each.fingerprint) for seed, each in enumerate(old)]
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))
    os.utime(made[1].folder / "part-00000.parquet")
    gc(store, now=time.time())
    assert [each.fingerprint for each in store.versions("photos")] == [old[n].fingerprint for n in (1, 3)]
    assert [each.fingerprint for each in store.versions("metrics")] == [made[n].fingerprint for n in (1, 3)]


def test_the_newest_of_each_step_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    study = commit(store, "metrics", 0, "case-study")
    fits = [commit(store, "metrics", seed, "fit") for seed in range(3)]
    assert store.reuse(recipe_of(fits[0]), ["metrics"])  # selected, though the oldest
    gc(store)
    assert {each.fingerprint for each in store.versions()} == {each.fingerprint for each in (study, fits[0], fits[2])}


STEPS = (("a", "s"), ("a", "t"), ("b", "s"), ("c", "u"))


@settings(max_examples=25)
@given(data=st.data())
def test_whatever_versions_there_are(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        made: list[TableVersion] = []
        for number in range(data.draw(st.integers(1, 10), label="n")):
            table, step = data.draw(st.sampled_from(STEPS))
            inputs = data.draw(st.lists(st.sampled_from(made), max_size=2)) if made else []
            named = {f"input {n}": each.fingerprint for n, each in enumerate(inputs)}
            made.append(commit(store, table, number, step, **named, encoder="ViT@abc"))
        now = time.time()
        for each in made:
            if data.draw(st.booleans(), label="old"):
                for path in each.folder.glob("*"):
                    os.utime(path, (now - 40 * DAY_S,) * 2)
        for each in data.draw(st.lists(st.sampled_from(made)), label="selected"):
            store.select(each.table, each.fingerprint)
        selected = {table: store.version(table).fingerprint for table in {each.table for each in made}}
        keep_last = data.draw(st.integers(1, 3), label="keep_last")
        wanted = plan_removals(store, keep_last=keep_last, older_than_s=MONTH_S, now=now)
        before = files(store.root)
        removed = gc(store, keep_last=keep_last, now=now)
        assert removed == wanted
        check_reconciles(before, files(store.root), removed)
        left = {each.fingerprint for each in store.versions()}
        for each in made:
            if each.fingerprint in left:
                assert store.version(each.table, each.fingerprint).read().num_rows == 1
                assert left.issuperset(set(recipe_of(each).inputs.values()) - {"ViT@abc"})
        for table, fingerprint in selected.items():
            assert store.version(table).fingerprint == fingerprint
        for table, step in STEPS:
            newest = [each.fingerprint for each in made if (each.table, each.step) == (table, step)][-keep_last:]
            assert left.issuperset(newest)
        assert gc(store, keep_last=keep_last, now=now) == []


def test_a_lease_that_is_held_protects(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store)
    part = put(store.folder("embeddings", "a" * 16) / "part-00000.parquet")
    with Leases(part.parent / "leases").held("part-00001") as mine:
        assert mine
        assert gc(store) == []
    assert [each.kind for each in gc(store)] == ["unfinished versions"]
    assert not part.parent.exists()


KILLED = """
import os, sys
from pathlib import Path
from storage.atomic import atomic_path
from storage.runs import recorded
from storage.store import Store

store = Store(Path(sys.argv[1]))
with recorded(store, "collect", {}), atomic_path(store.new_work_folder() / "000.images.parquet"):
    with atomic_path(store.root / "searches" / "egypt.html") as temporary:
        temporary.write_bytes(b"half")
        (store.new_work_folder()).mkdir(parents=True)
        (store.folder("embeddings", "a" * 16)).mkdir(parents=True)
        (store.folder("embeddings", "a" * 16) / "part-00000.parquet").write_bytes(b"half")
        os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store)
    quiet = files(tmp_path)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command, check=False, cwd=Path(__file__).parents[2]).returncode == -9
    assert gc(store, now=time.time()) == []  # it is young; the lease of the killed run is no hindrance
    assert sorted(each.kind for each in gc(store)) == ["leases", "temporary files", "unfinished versions"]
    assert files(tmp_path) == quiet


def test_nothing_is_removed_while_a_run_is_under_way(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in range(2):
        commit(store, seed=seed)
    with recorded(store, "outer", {}), recorded(store, "inner", {}):
        with pytest.raises(StoreError, match=r"runs are under way in .* \(1\): nothing was removed"):
            gc(store)
        assert len(plan(store)) == 1
    assert len(store.versions()) == 2
    assert len(gc(store)) == 1
    assert not list((tmp_path / "leases").iterdir())


def test_a_run_waits_for_a_removal(tmp_path: Path) -> None:
    store = Store(tmp_path)
    order = []

    def run() -> None:
        with recorded(store, "run", {}):
            order.append("run")

    with retention.removal_under_way(store):
        waiting = threading.Thread(target=run)
        waiting.start()
        time.sleep(1.0)
        order.append("removal")
        with pytest.raises(StoreError, match="another gc is under way"), retention.removal_under_way(store):
            pass
    waiting.join(30)
    assert order == ["removal", "run"]


def test_what_was_selected_since_it_was_planned_stays_with_its_images(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = commit_images(store, 0, [b"old"])
    commit_images(store, 1, [b"new"])
    planned = plan(store)
    assert [each.kind for each in planned] == ["table versions", "table versions", "images"]
    assert store.reuse(recipe_of(old), ["rejects", "images"])
    before = files(tmp_path)
    assert remove(store, planned) == []
    assert files(tmp_path) == before


def test_what_is_selected_in_the_very_moment_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    old = commit(store, seed=0)
    commit(store, seed=1)
    is_selected, seen = retention._is_selected, []

    def select_in_between(store: Store, fingerprint: str) -> bool:
        seen.append(store.has("things", fingerprint))
        if len(seen) == 2:
            store.select("things", fingerprint)
        return is_selected(store, fingerprint)

    monkeypatch.setattr(retention, "_is_selected", select_in_between)
    assert gc(store) == []
    assert seen == [True, False]
    assert store.version("things").manifest == old.manifest


def test_reuse_sees_that_a_version_went_in_the_very_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    old, new = commit(store, seed=0), commit(store, seed=1)
    select = store.select

    def remove_before(table: str, fingerprint: str) -> None:
        gc(store)
        select(table, fingerprint)

    monkeypatch.setattr(store, "select", remove_before)
    assert not store.reuse(recipe_of(old), ["things"])
    assert store.version("things").fingerprint == new.fingerprint
    monkeypatch.undo()
    commit(store, seed=0)  # made again
    assert store.version("things").manifest["recipe"] == old.manifest["recipe"]


def test_a_killed_removal_leaves_whole_versions_and_the_next_one_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    for seed in range(3):
        images = commit_images(store, seed, [bytes([seed])])
        commit(store, "metrics", seed, "fit", images=images.fingerprint)
    planned = plan(store)

    def kill(_path: StorePath) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(retention, "remove_folder", kill)
        with pytest.raises(KeyboardInterrupt):
            remove(store, planned)
    assert all(version.read().num_rows == 1 for version in store.versions())
    unfinished = [each.path for each in plan(store) if each.kind == "unfinished versions"]
    assert unfinished == [planned[0].path]  # of the newest: what was made from another goes before it
    gc(store)
    assert len(store.versions()) == 3
    assert [path.read_bytes() for path in (tmp_path / "images").rglob("*.jpg")] == [b"\x02"]
    assert not plan(store)


def test_two_at_once_do_no_harm(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for seed in range(20):
        commit_images(store, seed, [bytes([seed, n]) for n in range(10)])
    planned = plan(store)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(remove, store, planned) for _ in range(2)]
        done = {each.path for future in both for each in future.result()}
    assert done == {each.path for each in planned}
    assert len(store.versions()) == 2
    assert len(list((tmp_path / "images").rglob("*.jpg"))) == 10


@pytest.mark.parametrize("damaged", ["_manifest.json", "part-00000.parquet"])
def test_a_damaged_store_loses_nothing(tmp_path: Path, damaged: str) -> None:
    store = Store(tmp_path)
    commit_images(store, 0, [b"old"])
    new = commit_images(store, 1, [b"new"])
    put(new.folder / damaged, b"{")
    before = files(tmp_path)
    with pytest.raises(StoreError, match=r"delete .* and run again"):
        gc(store)
    assert files(tmp_path) == before


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path / f"images/ab/ab{'0' * 30}.jpg")
    with pytest.raises(StoreError, match="holds no tables yet"):
        gc(Store(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_at_least_one_version_stays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        plan(Store(tmp_path), keep_last=0)


def test_files_below_a_folder_that_is_none(root: StorePath) -> None:
    assert list(files_below(root / "nowhere")) == []
    put(root / "a/b/c.txt", b"12345")
    put(root / "d", b"")
    assert files(root) == {"a/b/c.txt": 5, "d": 0}
    assert abs(max(file.changed_s for file in files_below(root)) - time.time()) < 60
    assert isinstance(root, S3Path) or not list(files_below(root / "d"))
