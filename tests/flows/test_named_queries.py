"""The named queries on a real store; each answer is computed a second time, without DuckDB."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from conftest import picture, write_photos

from flows import cli
from flows.named_queries import named_queries, named_query, summary
from flows.search import embed_image, embed_text
from flows.sql import ask
from storage.errors import PlaceprintError
from storage.store import Recipe, Store
from storage.vectors import read_vectors

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ready:
    """A store with two versions of all tables, and its photographs."""

    store: Store
    photos: Path

    def frame(self, table: str, fingerprint: str | None = None) -> pl.DataFrame:
        found = pl.from_arrow(self.store.version(table, fingerprint).read())
        assert isinstance(found, pl.DataFrame)
        return found

    def versions(self, table: str) -> tuple[str, str]:
        first, second = self.store.versions(table)
        return first.fingerprint, second.fingerprint

    def answer(self, name: str, **parameters: str) -> list[dict[str, Any]]:
        with redirect_stdout(io.StringIO()) as printed:
            ask(self.store, named_query(name), parameters, form="json")
        answer: list[dict[str, Any]] = json.loads(printed.getvalue())
        return answer


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Ready:  # noqa: ARG001
    """Photographs in two collections that share some, then fewer of them and a head fitted otherwise."""
    from flows.pipeline import pipeline
    from flows.settings import load_settings

    root = tmp_path_factory.mktemp("named")
    photos, album = write_photos(root / "photos"), root / "album"
    (album / "Japan").mkdir(parents=True)
    for number in (2, 5):  # the same bytes
        shutil.copy(photos / "Japan" / f"{number:02d}.jpg", album / "Japan" / f"copy of {number:02d}.jpg")
    picture(100).save(album / "Japan" / "another.jpg")
    settings = [f"store={root / 'store'}", "fit.n_resamples=100"]
    settings.append(f"collect.sources=[{{kind: folder, path: {photos}}}, {{kind: folder, path: {album}}}]")
    assert pipeline(load_settings(ROOT / "configs/folder.yaml", settings)) is not None
    for name in ("Egypt/00", "Egypt/03", "France/01"):
        (photos / f"{name}.jpg").unlink()
    picture(200).save(photos / "France" / "new.jpg")
    assert pipeline(load_settings(ROOT / "configs/folder.yaml", [*settings, "fit.logistic.C=10"])) is not None
    return Ready(Store(root / "store"), photos)


def near(found: object, expected: object) -> bool:
    return bool(found == pytest.approx(expected, abs=1e-5))


def test_label_balance(ready: Ready) -> None:
    images = ready.frame("images")
    expected = images.group_by("label").agg(
        pl.col("image_id").n_unique().alias("images"), pl.col("source").n_unique().alias("sources")
    )
    total, largest = expected["images"].sum(), expected["images"].max()
    found = ready.answer("label-balance")
    assert {(row["label"], row["images"], row["sources"]) for row in found} == set(
        expected.select("label", "images", "sources").iter_rows()
    )
    assert [row["images"] for row in found] == sorted((row["images"] for row in found), reverse=True)
    for row in found:
        assert near(row["share"], row["images"] / total)
        assert near(row["times_more_in_largest"], largest / row["images"])


def test_duplicates_across_sources(ready: Ready) -> None:
    group = {row["image_id"]: row for row in ready.frame("duplicates").iter_rows(named=True)}
    places = defaultdict(list)
    for row in ready.frame("images").iter_rows(named=True):
        copy = group.get(row["image_id"])
        places[row["image_id"] if copy is None else f"group {copy['group_id']}"].append((row["source"], row["path"]))
    expected = {
        (key, *place) for key, them in places.items() if len({source for source, _ in them}) > 1 for place in them
    }
    found = ready.answer("duplicates-across-sources")
    assert {(row["copies"], row["source"], row["path"]) for row in found} == expected
    assert len(found) == len(expected)
    paths = {row["path"] for row in found}
    assert {"Japan/copy of 02.jpg", "Japan/02.jpg", "Japan/copy of 05.jpg", "Japan/05.jpg"} <= paths
    assert {row["certainty"] for row in found if not row["copies"].startswith("group")} == {"identical"}


def test_groups_of_copies_across_sources(tmp_path: Path) -> None:
    """Small pictures hold no pairs that dedup is sure of: here its table is written by hand."""
    store = Store(tmp_path)
    places = [("one", "a"), ("two", "b"), ("two", "c"), ("one", "d"), ("one", "e"), ("one", "f")]
    images = [{"image_id": path, "source": source, "path": path, "label": "x"} for source, path in places]
    groups = [
        (0, "b", True),
        (0, "a", False),
        (0, "c", False),
        (1, "d", True),
        (1, "e", False),
    ]  # the second: one source
    duplicates = [
        {
            "group_id": group,
            "image_id": image,
            "kept": kept,
            "certainty": "certain",
            "cosine_to_kept": None if kept else {"a": 0.97, "c": 0.99}.get(image, 0.98),
        }
        for group, image, kept in groups
    ]
    recipe = Recipe("test", 1)
    for table, rows in (("images", images), ("duplicates", duplicates)):
        shard = store.write_shard(table, recipe.fingerprint, 0, pa.Table.from_pylist(rows))
        store.commit(table, recipe, [shard])
    found = Ready(store, tmp_path).answer("duplicates-across-sources")
    assert [(row["copies"], row["path"], row["kept"]) for row in found] == [
        ("group 0", "b", True),
        ("group 0", "c", False),
        ("group 0", "a", False),
    ]


def test_hardest_images(ready: Ready) -> None:
    classes = ready.store.version("predictions").notes["classes"]
    tested = ready.frame("splits").filter(pl.col("part") == "test").select("split", "image_id")
    judged = (
        ready.frame("predictions").join(tested, on=["split", "image_id"]).filter(pl.col("head") != "majority-class")
    )
    expected = {}
    for (split, image), rows in judged.group_by("split", "image_id"):
        ranks = []
        for truth, scores in zip(rows["label_true"], rows["scores"], strict=True):
            values = np.array(scores)
            ranks.append(1 + int((values > values[classes.index(truth)]).sum()))
        wrong = [
            prediction
            for truth, prediction in zip(rows["label_true"], rows["label_pred"], strict=True)
            if truth != prediction
        ]
        expected[split, image] = (len(rows), len(wrong), float(np.mean(ranks)), sorted(set(wrong)))
    found = ready.answer("hardest-images")
    assert {(row["split"], row["image_id"]) for row in found} == set(expected)
    for row in found:
        heads, wrong, rank, taken_for = expected[row["split"], row["image_id"]]
        assert (row["heads"], row["wrong_heads"], row["taken_for"]) == (heads, wrong, taken_for)
        assert near(row["mean_rank"], rank)
    order = [(-row["wrong_heads"] / row["heads"], -row["mean_rank"]) for row in found]
    assert order == sorted(order)
    assert any(row["wrong_heads"] for row in found)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_nearest_images(ready: Ready, kind: str) -> None:
    version = ready.store.version("embeddings")
    photo = ready.photos / "France" / "04.jpg"
    vector = (embed_text(version, "a map of Egypt") if kind == "text" else embed_image(version, photo))[0]
    vectors = read_vectors(version)
    cosines = vectors @ vector / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vector)
    ids = version.read(["image_id"])["image_id"].to_pylist()
    found = ready.answer("nearest-images", **{kind: "a map of Egypt" if kind == "text" else str(photo)})
    assert len(found) == 20
    assert near([row["cosine"] for row in found], sorted(cosines.tolist(), reverse=True)[:20])
    by_id = dict(zip(ids, cosines.tolist(), strict=True))
    assert all(near(row["cosine"], by_id[row["image_id"]]) for row in found)
    assert len({row["image_id"] for row in found}) == 20
    if kind == "image":
        assert (found[0]["path"], near(found[0]["cosine"], 1)) == ("France/04.jpg", True)
        with pytest.raises(PlaceprintError, match="does not exist"):
            ready.answer("nearest-images", image="nowhere.jpg")


def test_drift_labels(ready: Ready) -> None:
    before, after = ready.versions("images")
    ids: Callable[[str], dict[str, set[str]]] = lambda version: {  # noqa: E731
        label: set(rows["image_id"]) for (label,), rows in ready.frame("images", version).group_by("label")
    }
    old, new = ids(before), ids(after)
    n_old, n_new = (sum(map(len, each.values())) for each in (old, new))
    found = {row["label"]: row for row in ready.answer("drift-labels", before=before, after=after)}
    assert found.keys() == old.keys() | new.keys()
    for label, row in found.items():
        assert (row["images_before"], row["images_after"]) == (len(old[label]), len(new[label]))
        assert (row["added"], row["removed"]) == (len(new[label] - old[label]), len(old[label] - new[label]))
        assert near(row["share_change"], len(new[label]) / n_new - len(old[label]) / n_old)
    assert (found["Egypt"]["removed"], found["France"]["added"]) == (2, 1)


def test_drift_embeddings(ready: Ready) -> None:
    versions = [ready.store.version("embeddings", each) for each in ready.versions("embeddings")]
    means: list[dict[str, tuple[int, np.ndarray]]] = []
    for version in versions:
        images = ready.frame("images", version.manifest["recipe"]["inputs"]["images"])
        label = dict(images.select("image_id", "label").iter_rows())
        labels = np.array([label[each] for each in version.read(["image_id"])["image_id"].to_pylist()])
        vectors = read_vectors(version).astype(float)
        groups = {name: vectors[labels == name] for name in set(labels)} | {"(all)": vectors}
        means.append({name: (len(group), group.mean(axis=0)) for name, group in groups.items()})
    found = ready.answer("drift-embeddings", before=versions[0].fingerprint, after=versions[1].fingerprint)
    assert {row["label"] for row in found} == means[0].keys()
    for row in found:
        (n, a), (m, b) = (each[row["label"]] for each in means)
        assert (row["images_before"], row["images_after"]) == (n, m)
        assert near(row["cosine_of_means"], a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert min(row["cosine_of_means"] for row in found) < 0.9999
    same = ready.answer("drift-embeddings", before=versions[0].fingerprint[:8], after=versions[0].fingerprint)
    assert near([row["cosine_of_means"] for row in same], [1.0] * len(same))


def test_metric_history(ready: Ready) -> None:
    frames = []
    for version in ready.versions("metrics"):
        rows = ready.frame("metrics", version).filter(
            (pl.col("metric") == "accuracy") & (pl.col("part") == "test") & (pl.col("source") == "all")
        )
        frames.append({row[:3]: row[3] for row in rows.select("split", "head", "configuration", "value").iter_rows()})
    found = ready.answer("metric-history", metric="accuracy")
    assert len(found) == sum(map(len, frames))
    for row in found:
        head = (row["split"], row["head"], row["configuration"])
        position = ready.versions("metrics").index(row["version"])
        assert near(row["value"], frames[position][head])
        change = frames[1][head] - frames[0][head] if position and head in frames[0] else None
        assert row["change"] is None if change is None else near(row["change"], change)
    assert any(row["change"] is not None for row in found)
    assert {row["configuration"] for row in found} >= {"C=0.1", "C=10"}


def test_each_says_what_it_answers_and_how_it_is_asked() -> None:
    for name, sql in named_queries().items():
        assert sql.startswith("-- ")
        assert summary(sql).endswith(".")
        assert f"-- Example: placeprint sql --named {name}" in sql


def test_they_are_in_the_wheel() -> None:
    """Where `named_queries` looks first."""
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert hatch["wheel"]["force-include"] == {"docs/queries": "flows/queries"}


def test_ui_names_server_reports_and_store(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("PREFECT_HOME", "PREFECT_API_URL"):  # which the command sets, or takes away
        monkeypatch.setenv(name, "kept")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0))
    monkeypatch.setattr(sys, "argv", ["placeprint", "ui", "--store", str(ready.store.root), "--port", "4321"])
    with pytest.raises(SystemExit):
        cli.main()
    server, *reports, store = capfd.readouterr().out.splitlines()
    assert "http://127.0.0.1:4321 " in server
    pages = sorted(ready.store.root.glob("reports/*/index.html"), key=lambda page: -page.stat().st_mtime)
    assert [line.split()[-1] for line in reports] == [page.as_uri() for page in pages]
    assert len(pages) == 2
    assert store.split()[-1] == ready.store.root.as_uri()
