"""The case study from photographs to verdicts: numbers against their sources, a second run, a kill, changed and wrong plans."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command_line import start
from conftest import picture
from PIL import Image
from playwright.sync_api import Browser
from sklearn.metrics import accuracy_score

from flows.settings import Settings, load_settings
from storage.catalog import query
from storage.errors import PlaceprintError
from storage.s3_path import StorePath
from storage.store import Store
from tasks.heads.regional import RegionalMLP
from tasks.labels.label_set import load_label_set
from tasks.metrics.mixed import mixed_scores
from tasks.settings import SettingsError

pytestmark = pytest.mark.usefixtures("prefect_server")
ROOT = Path(__file__).parents[2]
COLLECTIONS = ("geoguessr", "tourist", "aerial")
COUNTRIES = ("Egypt", "Libya", "France", "Germany", "Japan")
SEEDS = (4808, 4947, 5723)
FEW_FIGURES = "case_study.figures={tsne_points: 0, sets: [], collections: []}"


def write_collections(root: Path) -> Path:
    """Three collections of five countries: 24 images a country in the first, 12 in the others; one country has too few."""
    for number, collection in enumerate(COLLECTIONS):
        for place, country in enumerate((*COUNTRIES, "Chile")):
            folder = root / collection / country
            folder.mkdir(parents=True)
            n = 3 if country == "Chile" else 24 if number == 0 else 12
            for each in range(n):
                # Countries differ in colour, so that there is something to learn.
                image = np.asarray(picture(1000 * number + 100 * place + each)).astype(float)
                image[..., place % 3] += 40 * (1 + place // 3)
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{each:02d}.png")
    return root


def options(photos: Path, store: Path, hypotheses: Path | None = None) -> list[str]:
    sources = ", ".join(f"{{kind: folder, name: {name}, path: {photos / name}}}" for name in COLLECTIONS)
    return [
        f"store={store}",
        f"collect.sources=[{sources}]",
        "split.splits.0.base=geoguessr",
        "split.splits.0.weak_cap=18",
        "split.splits.0.strong_cap=10",
        "case_study.collections={}",
        f"case_study.hypotheses={hypotheses or ROOT / 'configs/hypotheses.yaml'}",
        f"case_study.seeds={list(SEEDS)}",
        "case_study.zero_shot.n_folds=4",
        "case_study.heads={hidden: 12, epochs: 2, n_folds: 3, batch_size: 16, learning_rate: 0.01, device: cpu}",
        "case_study.n_resamples=100",
        "case_study.published=true",
        "case_study.figures={tsne_points: 30, tsne_iterations: 250, tsne_seeds: [0], sets: [weakly], collections: [aerial]}",
    ]


def settings_of(photos: Path, store: Path, hypotheses: Path | None = None, *more: str) -> Settings:
    return load_settings(ROOT / "configs/case_study_demo.yaml", [*options(photos, store, hypotheses), *more])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collections(tmp_path_factory.mktemp("study") / "photos")


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> tuple[Settings, StorePath]:  # noqa: ARG001
    """Settings and page of one whole run; its store is not changed by the tests."""
    from flows.case_study import case_study

    settings = settings_of(photos, tmp_path_factory.mktemp("made") / "store")
    return settings, case_study(settings)


def frame(store: Store, table: str) -> pl.DataFrame:
    return pl.DataFrame(store.version(table).read())


def test_every_metric_follows_from_the_predictions(made: tuple[Settings, StorePath]) -> None:
    store = Store(made[0].store)
    classes = load_label_set("country211", [])
    predictions = frame(store, "predictions").filter(pl.col("experiment") == "regional")
    parts = frame(store, "splits").select("split", "image_id", "part")
    metrics = frame(store, "metrics").filter((pl.col("experiment") == "regional") & (pl.col("source") == "all"))
    judged = predictions.join(parts, on=["split", "image_id"])
    assert judged.height == predictions.height
    n_checked = 0
    for (split, loss, seed, part), rows in judged.group_by(["split", "configuration", "seed", "part"]):
        truth, predicted = (
            [classes.index[name] for name in rows[column].to_list()] for column in ("label_true", "label_pred")
        )
        own = metrics.filter(
            (pl.col("split") == split)
            & (pl.col("configuration") == loss)
            & (pl.col("seed") == seed)
            & (pl.col("part") == part)
        )
        value = dict(zip(own["metric"].to_list(), own["value"].to_list(), strict=True))
        assert value["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
        assert value["mixed_f1"] == pytest.approx(mixed_scores(truth, predicted, classes.region_index).f1)
        assert own["n"].unique().to_list() == [len(truth)]
        n_checked += 1
    assert n_checked == 5 * 4 * 3 * 2  # sets, losses, seeds, parts


def test_counts_reconcile(made: tuple[Settings, StorePath]) -> None:
    store = Store(made[0].store)
    metrics = frame(store, "metrics")
    folds = metrics.filter((pl.col("part") == "fold") & (pl.col("metric") == "accuracy"))
    per_collection = folds.group_by("source", "configuration", "seed").agg(pl.col("n").sum(), pl.len().alias("folds"))
    assert set(per_collection["folds"].to_list()) == {4}
    sizes = {"geoguessr": 5 * 24 + 3, "tourist": 5 * 12 + 3, "aerial": 5 * 12 + 3}
    assert {row[0]: row[1] for row in per_collection.select("source", "n").iter_rows()} == sizes
    assert per_collection.height == 3 * 3 * 3  # collections, prompts with the ensemble, seeds
    zero_shot = frame(store, "predictions").filter(pl.col("experiment") == "zero-shot")
    assert zero_shot.height == 3 * sum(sizes.values())
    # No head has seen Chile: its images are the zero-shot test set, and no head names it.
    seen = frame(store, "predictions").filter(pl.col("experiment") == "regional")
    assert seen.filter(pl.col("label_pred") == "Chile").height == 0
    assert seen.filter(pl.col("label_true") == "Chile").height == 9 * 5 * 4 * 3
    training = frame(store, "training")
    assert training.height == 5 * 4 * 3 * 2 * 3  # sets, losses, seeds, epochs, segments
    losses = training.select("class_training", "region_training", "class_validation", "region_validation").to_numpy()
    assert np.isfinite(losses).all()
    assert (training["region_training"] <= training["class_training"] + 1e-6).all()


def test_the_kept_heads_are_those_that_were_judged(made: tuple[Settings, StorePath]) -> None:
    store = Store(made[0].store)
    version = store.version("predictions")
    path = store.root / "heads" / version.fingerprint / "weakly-L50.safetensors"
    head = RegionalMLP.from_bytes(path.read_bytes())
    assert head.random_state == SEEDS
    embeddings = pl.DataFrame(store.version("embeddings").read())
    rows = pl.DataFrame(version.read()).filter(
        (pl.col("split") == "weakly") & (pl.col("configuration") == "L50") & (pl.col("seed") == SEEDS[1])
    )
    vectors = rows.join(embeddings, on="image_id", how="left", maintain_order="left")["embedding"].to_numpy()
    names = np.array(load_label_set("country211", []).names)
    predicted = head.predict_proba_each(np.stack(vectors))[1].argmax(axis=1)
    assert names[predicted].tolist() == rows["label_pred"].to_list()
    assert not (path.parent / "checkpoints").exists()


def test_the_printed_queries_give_the_tables(made: tuple[Settings, StorePath]) -> None:
    settings, page = made
    store = Store(settings.store)
    text = page.read_text()
    queries = re.findall(r"<pre>((?:select|with).*?)</pre>", text, re.DOTALL)
    assert len(queries) == 12
    for name, sql in zip(re.findall(r'<h3 id="([a-z0-9-]+)">', text), queries, strict=True):
        relation = query(store, html.unescape(sql))
        assert relation is not None
        csv = pl.read_csv((page.parent / "tables" / f"{name}.csv").read_bytes(), infer_schema_length=None)
        assert relation.pl().sort(pl.all()).height == csv.height
        assert relation.columns == csv.columns
        for kind in ("md", "tex", "parquet"):
            assert (page.parent / "tables" / f"{name}.{kind}").stat().st_size > 20
    table = pl.read_csv((page.parent / "tables" / "table-3.csv").read_bytes())
    metrics = frame(store, "metrics").filter(
        (pl.col("part") == "test") & (pl.col("source") == "all") & (pl.col("metric") == "mixed_f1")
    )
    means = metrics.group_by("split", pl.col("configuration").alias("loss")).agg(pl.col("value").mean())
    both = table.join(means, on=["split", "loss"])
    assert both.height == 20
    np.testing.assert_allclose(both["F1"].to_numpy(), both["value"].to_numpy())
    assert "[0.429]" in (page.parent / "tables" / "table-3.md").read_text()  # what the study printed


def test_verdicts_come_from_the_tests(made: tuple[Settings, StorePath]) -> None:
    store = Store(made[0].store)
    verdicts, tests = frame(store, "verdicts"), frame(store, "tests")
    assert verdicts["hypothesis"].sort().to_list() == ["H1", "H2", "H3", "H4", "H5"]
    assert set(verdicts["verdict"].to_list()) <= {"accepted", "rejected", "not supported"}
    for row in verdicts.iter_rows(named=True):
        outcomes = tests.filter(pl.col("hypothesis") == row["hypothesis"])["outcome"].to_list()
        assert [row[name] for name in ("supports", "contradicts", "neither", "untestable")] == [
            outcomes.count(name) for name in ("supports", "contradicts", "neither", "untestable")
        ]
    assert tests.filter(pl.col("hypothesis") == "table-5-mixed_f1").height == 5 * 6


def test_the_page_names_figures_that_are_there(made: tuple[Settings, StorePath]) -> None:
    _, page = made
    text = page.read_text()
    named = re.findall(r'(?:src|href)="((?:figures|tables)/[^"]+)"', text)
    assert len(set(named)) > 60
    assert not [name for name in set(named) if not (page.parent / name).is_file()]
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)


@pytest.mark.browser
def test_the_page_opens_without_a_word_in_the_console(made: tuple[Settings, StorePath], browser: Browser) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("requestfailed", lambda request: said.append(request.url))
    tab.goto(Path(str(made[1])).as_uri())
    tab.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
    tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    tab.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert tab.locator("table").count() >= 11
    assert tab.locator("#verdicts ~ .scroll tbody tr").first.inner_text().startswith("H1")
    # Nothing is wider than the window: wide tables scroll by themselves.
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert said == []


def test_a_second_run_finds_everything(made: tuple[Settings, StorePath]) -> None:
    from flows.case_study import case_study

    settings, page = made
    before = page.stat().st_mtime_ns
    assert case_study(settings) == page
    assert page.stat().st_mtime_ns == before
    runs = sorted((Path(str(settings.store)) / "runs").glob("*.json"))
    record = json.loads(runs[-1].read_text())
    assert {"case-study", "tests", "report"} <= set(record["reused"])
    assert record["figures"]["plan"]["hypotheses"] == record["figures"]["plan"]["recorded"]


@pytest.fixture
def copied(made: tuple[Settings, StorePath], tmp_path: Path) -> Path:
    """A copy of the store, that a test may change."""
    return Path(shutil.copytree(str(made[0].store), tmp_path / "store"))


def test_changed_hypotheses_are_tested_again_and_the_report_says_so(
    made: tuple[Settings, StorePath], photos: Path, copied: Path, tmp_path: Path
) -> None:
    from flows.case_study import case_study

    settings, page = made
    assert "The file has not changed since." in page.read_text()
    mine = tmp_path / "mine.yaml"
    mine.write_text((ROOT / "configs/hypotheses.yaml").read_text().replace("id: H5", "id: H6-mine"))
    heads = (copied / "heads").rglob("*.safetensors")
    before = {path: path.stat().st_mtime_ns for path in heads}
    again = case_study(settings_of(photos, copied, mine, FEW_FIGURES))
    assert "The file has changed since" in again.read_text()
    assert "H6-mine" in again.read_text()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list((copied / "plans").glob("*.json"))) == 1
    # publish is on the metrics of `fit`, of which there are none here.
    with pytest.raises(PlaceprintError, match="holds no table metrics yet"):
        Store(copied).version("metrics", step="fit")
    assert settings.store != copied


def test_a_run_that_is_killed_twice_is_finished_by_the_next_to_the_same_bytes(
    made: tuple[Settings, StorePath], photos: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    arguments = ["case-study", "-c", str(ROOT / "configs/case_study_demo.yaml")]
    for option in [*options(photos, store), FEW_FIGURES]:
        arguments += ["-s", option]
    # In the middle of a training, and between two of the shards of a training set.
    for waits_for in ("checkpoints/weakly.safetensors", "mixed-weakly-L0.safetensors"):
        process = start(*arguments, home=tmp_path / "home")
        deadline = time.monotonic() + 240
        while not list(store.glob(f"heads/*/{waits_for}")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert list(store.glob(f"heads/*/{waits_for}"))
        assert not list(store.glob("tables/metrics/*/_manifest.json"))
    again = start(*arguments, home=tmp_path / "home")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert "H5" in output
    quiet = Path(str(made[0].store))
    for part in ("tables/metrics", "tables/predictions", "tables/tests", "tables/training", "heads"):
        wanted = {path.relative_to(quiet): path.read_bytes() for path in (quiet / part).rglob("*.parquet")}
        wanted |= {path.relative_to(quiet): path.read_bytes() for path in (quiet / part).rglob("*.safetensors")}
        assert wanted
        for path, content in wanted.items():
            assert (store / path).read_bytes() == content, path


def test_wrong_settings_stop_before_any_work(photos: Path, tmp_path: Path) -> None:
    from flows.case_study import case_study

    store = tmp_path / "store"
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        case_study(settings_of(photos, store, tmp_path / "nowhere.yaml"))
    with pytest.raises(SettingsError, match="needs an entry `kind: case-study`"):
        case_study(settings_of(photos, store, None, "split.splits=[{kind: stratified}]"))
    assert not (store / "tables").exists()


def test_settings_that_do_not_fit_the_data_are_named(
    made: tuple[Settings, StorePath], photos: Path, copied: Path
) -> None:
    from flows.case_study import case_study

    assert made[0].store != copied
    for override, message in (
        ("case_study.heads.template='a photo of {country}'", "case_study.heads.template"),
        ("case_study.zero_shot.n_folds=100", "the collection aerial: 63 images cannot be cut into 100 folds"),
        ("case_study.heads.n_folds=1000", "1000 folds need as many images"),
    ):
        with pytest.raises(PlaceprintError, match=message):
            case_study(settings_of(photos, copied, None, override))
