"""The whole pipe on real input, as flows against a real Prefect server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import picture
from image_corpus import BAD, JPEG

from flows.settings import Settings, load_settings
from storage.catalog import connect
from storage.errors import PlaceprintError, StoreError
from storage.store import Store
from storage.vectors import read_vectors

pytestmark = pytest.mark.usefixtures("prefect_server")
CONFIGS = Path(__file__).parents[2] / "configs"


def demo(store: Path, *overrides: str) -> Settings:
    return load_settings(
        CONFIGS / "demo.yaml",
        [f"store={store}", "collect.sources.0.images_per_country=2", "fit.n_resamples=100", *overrides],
    )


def folder(store: Path, photos: Path, *overrides: str) -> Settings:
    return load_settings(
        CONFIGS / "folder.yaml",
        [f"store={store}", f"collect.sources.0.path={photos}", "fit.n_resamples=100", *overrides],
    )


@pytest.fixture(scope="module")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo at about a tenth of its size, from an empty store."""
    from flows.pipeline import pipeline

    root = tmp_path_factory.mktemp("demo") / "store"
    page = pipeline(demo(root))
    assert page is not None
    assert page.is_file()
    return root


def test_demo_at_a_tenth(demo_store: Path) -> None:
    store = Store(demo_store)
    counts = store.version("images").counts
    assert counts["listed"] == counts["kept"] + counts["rejected"] + counts["exact_duplicates"]
    images = pl.from_arrow(store.version("images").read())
    assert isinstance(images, pl.DataFrame)
    assert images["source"].unique().sort().to_list() == ["elevation", "relief", "satellite"]
    assert images["label"].n_unique() >= 120
    assert 0.02 < images["planted_copy_of"].is_not_null().mean() < 0.04
    assert set(images["planted_copy_of"].drop_nulls()) <= set(images["image_id"])
    assert all((demo_store / file).is_file() for file in images["file"])
    vectors = read_vectors(store.version("embeddings"))
    assert len(vectors) == images["image_id"].n_unique()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert store.version("prompts").rows == 2 * 211


def test_places_stay_whole_in_the_split(demo_store: Path) -> None:
    rows = connect(Store(demo_store)).sql(
        "select split, count(distinct part) from splits join images using (image_id) group by split, label, latitude, longitude"
    )
    assert set(rows.fetchall()) == {("stratified", 1), ("spatial", 1)}
    for split in ("stratified", "spatial"):
        counted = f"select part, count(*) from splits where split = '{split}' group by part"
        shares = dict(connect(Store(demo_store)).sql(counted).fetchall())
        assert shares["test"] / (shares["test"] + shares["train"]) == pytest.approx(0.15, abs=0.03)
        assert (shares.get("zero_shot", 0) > 0) == (split == "stratified")


def test_planted_copies_are_suspected(demo_store: Path) -> None:
    """The threshold was fitted to other edits, made for it; these came with the images."""
    store = Store(demo_store)
    version = store.version("embeddings")
    vectors = read_vectors(version)
    row_of = {identity: row for row, identity in enumerate(version.read(["image_id"])["image_id"].to_pylist())}
    images = store.version("images").read(["image_id", "planted_copy_of"]).to_pylist()
    planted = [(row_of[row["image_id"]], row_of[row["planted_copy_of"]]) for row in images if row["planted_copy_of"]]
    cosines = np.array([vectors[copy] @ vectors[original] for copy, original in planted])
    model = store.version("duplicates").notes["model"]
    assert len(planted) > 20
    assert (cosines >= model["suspected"]).mean() >= 0.95
    assert model["auc"] > 0.7


def test_metrics_can_be_recomputed_from_predictions(demo_store: Path) -> None:
    connection = connect(Store(demo_store))
    stored = connection.sql(
        "select split, head, configuration, value, n from metrics "
        "where metric = 'accuracy' and part = 'test' and source = 'all'"
    ).fetchall()
    assert len(stored) == 2 * 4
    for split, head, configuration, value, n in stored:
        (again,) = connection.sql(
            f"""
            select avg((label_true = label_pred)::int), count(*) from predictions join splits using (split, image_id)
            where split = '{split}' and part = 'test' and head = '{head}' and configuration = '{configuration}'
            """
        ).fetchall()
        assert again == (pytest.approx(value), n)


def test_cosine_by_sql_is_that_of_numpy(demo_store: Path) -> None:
    store = Store(demo_store)
    image_id, prompt, cosine = (
        connect(store)
        .sql(
            """
        select image_id, prompt, array_cosine_similarity(images.embedding, prompts.embedding) as cosine
        from embeddings images, prompts order by cosine desc, image_id, prompt limit 1
        """
        )
        .fetchall()[0]
    )
    images, prompts = store.version("embeddings"), store.version("prompts")
    row = images.read(["image_id"])["image_id"].to_pylist().index(image_id)
    column = prompts.read(["prompt"])["prompt"].to_pylist().index(prompt)
    assert read_vectors(images)[row] @ read_vectors(prompts)[column] == pytest.approx(cosine, abs=1e-5)


def test_second_run_does_no_work(demo_store: Path) -> None:
    from flows.pipeline import pipeline
    from flows.plan import Plan

    before = {
        path: path.stat().st_mtime_ns
        for path in demo_store.rglob("*")
        if path.suffix in (".parquet", ".html", ".jpg", ".faiss")
    }
    page = pipeline(demo(demo_store))
    after = {
        path: path.stat().st_mtime_ns
        for path in demo_store.rglob("*")
        if path.suffix in (".parquet", ".html", ".jpg", ".faiss")
    }
    assert before == after
    latest = max((demo_store / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    run = json.loads(latest.read_text())
    assert run["status"] == "completed"
    assert set(run["reused"]) == {"collect", "embeddings", "prompts", "dedup", "split", "fit", "publish"}
    plan = Plan.of(demo(demo_store))
    assert plan is not None
    assert plan.finished_page(Store(demo_store), demo(demo_store)) == page


def test_artifacts_are_there_for_the_ui(demo_store: Path) -> None:  # noqa: ARG001  (the run that left them)
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        artifacts = {artifact.key: artifact for artifact in client.read_latest_artifacts()}
    assert {"metrics", "report", "collect-progress", "encode-progress"} <= set(artifacts)
    assert artifacts["collect-progress"].data == 100.0
    rows = json.loads(str(artifacts["metrics"].data))
    heads = ["majority-class", "zero-shot", "zero-shot", "logistic-regression"]
    assert [(row["split"], row["head"]) for row in rows] == [
        (split, head) for split in ("stratified", "spatial") for head in heads
    ]
    assert "logistic-regression" in str(artifacts["report"].data)


def test_changed_setting_redoes_only_what_depends_on_it(demo_store: Path) -> None:
    from flows.plan import Plan

    first, second = Plan.of(demo(demo_store)), Plan.of(demo(demo_store, "split.seed=99"))
    assert first is not None
    assert second is not None
    assert (first.images, first.embeddings, first.prompts) == (second.images, second.embeddings, second.prompts)
    assert first.splits.fingerprint != second.splits.fingerprint
    assert first.metrics.fingerprint != second.metrics.fingerprint


def test_bad_inputs_are_rows_and_counts_reconcile(photos: Path, tmp_path: Path) -> None:
    from flows.pipeline import pipeline

    for name, (data, _) in BAD.items():
        (photos / "Egypt" / f"bad_{name}.jpg").write_bytes(data)
    (photos / "Egypt" / "copy.jpg").write_bytes((photos / "Egypt" / "00.jpg").read_bytes())
    (photos / "Japan" / "copy.jpg").write_bytes((photos / "Egypt" / "00.jpg").read_bytes())
    (photos / "notes.txt").write_text("not a picture")
    picture(99).convert("CMYK").save(photos / "France" / "cmyk.jpg")
    settings = folder(tmp_path / "store", photos)
    assert pipeline(settings) is not None
    store = Store(tmp_path / "store")
    assert dict(store.version("images").counts) == {
        "listed": 24 + len(BAD) + 4,
        "kept": 25,
        "rejected": len(BAD) + 1,
        "exact_duplicates": 2,
        "unreachable": 0,
    }
    reasons = {row["path"]: (row["reason"], row["detail"]) for row in store.version("rejects").read().to_pylist()}
    for name, (_, reason) in BAD.items():
        assert reasons[f"Egypt/bad_{name}.jpg"][0] == reason.value
    assert "where its label is 'Egypt' and not 'Japan'" in reasons["Japan/copy.jpg"][1]
    assert store.version("embeddings").rows == 25


def test_unlabelled_folder_ends_after_encoding(photos: Path, tmp_path: Path) -> None:
    from flows.pipeline import pipeline

    assert pipeline(folder(tmp_path / "store", photos / "Egypt")) is None
    store = Store(tmp_path / "store")
    assert store.version("embeddings").rows == 8
    assert not store.versions("splits")


def test_label_outside_the_set_stops_before_any_work(photos: Path, tmp_path: Path) -> None:
    from flows.pipeline import pipeline

    (photos / "Egipt").mkdir()
    (photos / "Egipt" / "a.jpg").write_bytes(JPEG)
    with pytest.raises(PlaceprintError, match=r"label 'Egipt' \(nearest: Egypt"):
        pipeline(folder(tmp_path / "store", photos, "labels=country211"))
    assert not (tmp_path / "store" / "tables").exists()
    assert not (tmp_path / "store" / "images").exists()


def test_folder_of_rubbish_is_one_line(tmp_path: Path) -> None:
    from flows.collect import collect

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    (tmp_path / "photos" / "b.jpg").write_bytes(b"x")
    with pytest.raises(PlaceprintError, match="none of 2 inputs is a usable image: 1 empty, 1 not_an_image"):
        collect(folder(tmp_path / "store", tmp_path / "photos"))
    assert not Store(tmp_path / "store").versions()


def test_stages_alone_read_what_was_made_last_and_refuse_what_does_not_fit(photos: Path, tmp_path: Path) -> None:
    from flows.collect import collect
    from flows.dedup import dedup
    from flows.encode import encode
    from flows.fit import fit
    from flows.publish import publish
    from flows.split import split

    settings = folder(tmp_path / "store", photos)
    with pytest.raises(StoreError, match="holds no table images yet"):
        encode(settings)
    collect(settings)
    encode(settings)
    with pytest.raises(StoreError, match="run `placeprint dedup` first, or set dedup=off"):
        split(settings)
    dedup(settings)
    split(settings)
    fit(settings)
    assert publish(settings).is_file()
    (photos / "Egypt" / "new.jpg").write_bytes(JPEG)
    collect(settings)
    with pytest.raises(StoreError, match="are not known: run `placeprint dedup` first"):
        split(settings)
    split(folder(tmp_path / "store", photos, "dedup=off"))
    with pytest.raises(StoreError, match="belong to different images"):
        fit(settings)
