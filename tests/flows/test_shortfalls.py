"""Runs that fall short end as `Warning` on a real server, their callers have their values, and a retry is not in the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from conftest import write_photos
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort

from flows.quality import QualitySettings
from flows.settings import Settings, load_settings
from flows.shortfalls import MIN_MEASURED_S, check_metrics, check_recall, check_starved
from storage.runs import RunRecord
from storage.schemas import METRICS
from storage.store import Recipe, Store
from tasks.encode.telemetry import Times
from tasks.metrics.drop import KEYS, drops

pytestmark = pytest.mark.usefixtures("prefect_server")
CONFIG = Path(__file__).parents[2] / "configs/folder.yaml"


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def given_settings(store: Path, photos: Path, *overrides: str) -> Settings:
    return load_settings(
        CONFIG, [f"store={store}", f"collect.sources.0.path={photos}", "fit.n_resamples=100", *overrides]
    )


def newest(client: SyncPrefectClient, name: str) -> FlowRun:
    named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
    (run,) = client.read_flow_runs(flow_run_filter=named, sort=FlowRunSort.START_TIME_DESC, limit=1)
    return run


def test_a_run_that_lost_data_ends_as_warning_and_so_does_its_part(
    client: SyncPrefectClient, photos: Path, store: Path
) -> None:
    from flows.pipeline import pipeline

    for number in range(3):
        (photos / "Egypt" / f"damaged-{number}.jpg").write_bytes(b"\xff\xd8\xff no more than a beginning")
    page = pipeline(given_settings(store, photos))
    assert page is not None
    assert page.is_file()
    whole, part = (newest(client, f"{what} photos") for what in ("pipeline of", "collect"))
    for run in (whole, part):
        assert run.state is not None
        assert (run.state.type.value, run.state.name) == ("FAILED", "Warning")
        assert "3 of 27 inputs were rejected, more than quality.max_reject_share 5%" in str(run.state.message)
    assert part.parent_task_run_id is not None
    # With its task run still green, a retry of the pipeline would take the part's state for its value.
    assert client.read_flow_run(part.id).state_name == "Warning"
    assert client.read_task_run(part.parent_task_run_id).state_name == "Warning"
    other = newest(client, "encode photos with placeprint-demo")
    assert other.state is not None
    assert other.state.is_completed()
    (manifest,) = store.glob("runs/*.json")
    assert len(json.loads(manifest.read_bytes())["warnings"]) == 1


def test_the_same_data_are_well_where_more_may_be_lost(client: SyncPrefectClient, tmp_path: Path) -> None:
    from flows.collect import collect

    photos = write_photos(tmp_path / "tolerated", 24)
    (photos / "Egypt" / "damaged.jpg").write_bytes(b"\xff\xd8\xff")
    (photos / "Egypt" / "again.jpg").write_bytes(next((photos / "Egypt").glob("0*.jpg")).read_bytes())
    collect(given_settings(tmp_path / "store", photos, "quality.max_reject_share=0.04"))
    run = newest(client, "collect tolerated")
    assert run.state is not None
    assert run.state.is_completed(), "1 of 25: the copy is no loss"


def test_checks_at_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.shortfalls.say", lambda *_: None)
    run = RunRecord("encode", {})
    check_recall(run, QualitySettings(), 0.99)
    check_recall(run, QualitySettings(), None)
    check_recall(run, QualitySettings(min_index_recall=None), 0.5)
    check_starved(run, QualitySettings(), Times(10, MIN_MEASURED_S / 2, MIN_MEASURED_S / 2, 0.0))
    check_starved(run, QualitySettings(), Times(10, MIN_MEASURED_S / 2, 1.0, 0.0))  # too short to tell
    assert run.warnings == []
    check_recall(run, QualitySettings(), 0.9899)
    check_starved(run, QualitySettings(), Times(10, 51.0, 49.0, 0.0))
    assert run.warnings == [
        "encode: recall@10 of the index is 0.990, less than quality.min_index_recall 0.99",
        "encode: the device waited for images 51% of the time, more than quality.max_starved_share 50%",
    ]


def metrics(*rows: tuple[float, float | None], head: str = "logistic") -> pl.DataFrame:
    return pl.DataFrame(
        [
            dict.fromkeys(KEYS)
            | {"experiment": "e", "head": f"{head}-{number}", "configuration": "", "split": "s", "part": "test"}
            | {"source": "all", "metric": "accuracy", "value": value, "lower": lower, "lower_image": None}
            for number, (value, lower) in enumerate(rows)
        ],
        schema_overrides={"seed": pl.Int64, "fold": pl.Int32, "lower": pl.Float64, "lower_image": pl.Float64},
    )


def test_drops_are_below_the_interval_and_the_deepest_comes_first() -> None:
    before = metrics((0.5, 0.4), (0.5, 0.4), (0.5, 0.45), (0.5, None), (0.5, 0.4))
    now = metrics((0.40, None), (0.39, None), (0.1, None), (0.1, None))
    found = drops(now, before, ["accuracy"])
    assert found["head"].to_list() == ["logistic-2", "logistic-1"]
    assert found.columns[-3:] == ["value", "value_before", "lower_before"]
    assert drops(now, before, ["top5_accuracy"]).is_empty()
    assert drops(now, metrics((0.5, 0.4), head="other"), ["accuracy"]).is_empty()


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_a_run_never_falls_below_itself(values: list[tuple[float, float]]) -> None:
    rows = metrics(*((max(pair), min(pair)) for pair in values))
    assert drops(rows, rows, ["accuracy"]).is_empty()


def test_a_worse_fit_is_seen_against_the_run_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.pipeline import pipeline

    photos = write_photos(tmp_path / "photos", 60, size=(60, 40))
    store = tmp_path / "store"
    pipeline(given_settings(store, photos))
    first = Store(store).version("metrics")
    recipe = Recipe("fit", 99, {}, {"made": "for this test"})
    rows = pl.DataFrame(first.read()).with_columns(value=pl.lit(-1.0)).to_arrow().cast(METRICS)
    Store(store).commit("metrics", recipe, [Store(store).write_shard("metrics", recipe.fingerprint, 0, rows)])
    monkeypatch.setattr("flows.shortfalls.say", lambda *_: None)
    run = RunRecord("fit", {})
    check_metrics(run, QualitySettings(), Store(store), Store(store).version("metrics", recipe.fingerprint))
    n_warnings = len(run.warnings)
    assert 1 <= n_warnings <= 3
    assert f"accuracy is -1.000, below the interval of metrics {first.fingerprint}" in run.warnings[0]
    check_metrics(run, QualitySettings(metrics=()), Store(store), Store(store).version("metrics", recipe.fingerprint))
    check_metrics(run, QualitySettings(), Store(store), first)
    assert len(run.warnings) == n_warnings
