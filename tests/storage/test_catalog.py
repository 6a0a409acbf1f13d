"""The catalog: views, older versions, and readers beside writers."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import pyarrow as pa

from storage.catalog import connect, query, refresh_catalog
from storage.store import Recipe, Store


def commit(store: Store, seed: int, n_shards: int = 2, **more: object) -> str:
    """A version of `things`: `n_shards` shards of `seed + 10` rows that hold `seed`."""
    recipe = Recipe("step", 1, {"seed": seed}, {"images": f"images-{seed}"})
    rows = pa.table(
        {
            "seed": pa.array([seed] * (seed + 10), pa.int64()),
            **{name: [value] * (seed + 10) for name, value in more.items()},
        }
    )
    shards = [store.write_shard("things", recipe.fingerprint, index, rows) for index in range(n_shards)]
    store.commit("things", recipe, shards, notes={"classes": ["it's", "b"]})
    return recipe.fingerprint


def test_versions_and_all_of_them(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = commit(store, 1), commit(store, 2, added="x")
    store.select("things", first)
    store.write_shard("things", Recipe("step", 1, {"seed": 3}).fingerprint, 0, pa.table({"seed": [3]}))  # not committed
    with connect(store) as connection:
        assert connection.sql("select count(*) from things").fetchall() == [(22,)]
        assert connection.sql(f"select count(*) from things_at('{second}')").fetchall() == [(24,)]
        found = connection.sql(
            "select version, selected, rows, recipe ->> '$.inputs.images', (notes -> '$.classes')::varchar[] from versions order by rows"
        )
        classes = ["it's", "b"]
        assert found.fetchall() == [(first, True, 22, "images-1", classes), (second, False, 24, "images-2", classes)]
        every = connection.sql(
            "select version, seed, max(added), count(*) from things_all() group by all order by seed"
        )
        assert every.fetchall() == [(first, 1, None, 22), (second, 2, "x", 24)]
        assert connection.sql(f"select count(*) from things_all('{first[:6]}')").fetchall() == [(22,)]


def test_refreshed_catalog_is_seen_when_the_last_reader_is_gone(tmp_path: Path) -> None:
    """DuckDB keeps one database a path and process: who closes it gets the new one."""
    store = Store(tmp_path)
    for seed in (1, 2, 3):
        commit(store, seed)
        with connect(store) as connection:
            assert connection.sql("select any_value(seed) from things").fetchall() == [(seed,)]


def _write_versions(root: Path, started: Event, stop: Event) -> None:
    store = Store(root)
    seed = 0
    while not stop.is_set():
        seed = seed % 40 + 1
        commit(store, seed)
        refresh_catalog(store)  # as a run does at its end
        started.set()


def test_queries_while_a_run_writes(tmp_path: Path) -> None:
    """Every answer is that of one whole version, and no query fails."""
    context = multiprocessing.get_context("spawn")
    started, stop = context.Event(), context.Event()
    writer = context.Process(target=_write_versions, args=(tmp_path, started, stop))
    writer.start()
    try:
        assert started.wait(60)
        store = Store(tmp_path)
        seen = set()
        for _ in range(50):
            relation = query(store, "select min(seed), max(seed), count(*) from things")
            assert relation is not None
            least, most, n = relation.fetchall()[0]
            assert (least, n) == (most, 2 * (most + 10))
            seen.add(most)
            del relation
            with connect(store) as connection:
                found = connection.sql(
                    "select version, count(*), any_value(seed) from things_all() group by version"
                ).fetchall()
            assert all(n == 2 * (seed + 10) for _, n, seed in found)
        assert writer.is_alive()
    finally:
        stop.set()
        writer.join(60)
    assert writer.exitcode == 0
    assert len(seen) > 3
