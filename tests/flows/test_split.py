"""Splits as a table: every kind from settings, the gate against leaks, balance, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.settings import Settings, load_settings
from storage.errors import PlaceprintError
from storage.schemas import DUPLICATES, IMAGES, PAIRS, embeddings
from storage.store import Recipe, Store, TableVersion
from storage.vectors import vector_column
from tasks.dedup.elsewhere import great_circle_km

pytestmark = pytest.mark.usefixtures("prefect_server")

N = 900
START = datetime(2020, 1, 1, tzinfo=UTC)


def made(store: Store, near: list[tuple[int, int]] | None = None, n_unlocated: int = 0) -> TableVersion:
    """Tables of made-up images: three labels, two collections, places on a line through Africa, a day apart each."""
    import pyarrow as pa

    generator = np.random.default_rng(0)
    latitude, longitude = generator.uniform(-30, 30, N).round(1), generator.uniform(0, 40, N).round(1)
    label = generator.choice(["Egypt", "Mali", "Chad", "Peru;Mali"], N, p=[0.5, 0.3, 0.19, 0.01])
    known = dict.fromkeys(["licence", "attribution", "url", "checksum", "planted_copy_of", "metadata"])
    rows = [
        {"image_id": f"{number:032x}", "source": "mine" if number % 3 else "theirs", "path": str(number)}
        | {
            "file": str(number),
            "label": str(label[number]),
            "latitude": latitude[number] if number >= n_unlocated else None,
            "longitude": longitude[number] if number >= n_unlocated else None,
        }
        | {"captured_at": START + timedelta(days=number), "width": 10, "height": 10, "bytes": 1, **known}
        for number in range(N)
    ]
    images = Recipe("made", 1)
    version = store.commit(
        "images", images, [store.write_shard("images", images.fingerprint, 0, pa.Table.from_pylist(rows, IMAGES))]
    )
    vectors = generator.standard_normal((N, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    encoded = Recipe("made", 1, inputs={"images": images.fingerprint})
    table = pa.table([[row["image_id"] for row in rows], vector_column(vectors, "float32")], schema=embeddings(8))
    store.commit("embeddings", encoded, [store.write_shard("embeddings", encoded.fingerprint, 0, table)])
    if near is not None:
        pairs = [
            {"image_id_a": rows[a]["image_id"], "image_id_b": rows[b]["image_id"], "cosine": 0.99, "probability": 1.0}
            | {"is_duplicate": None, "labelled_by": None, "edit": None, "near": None}
            for a, b in near
        ]
        for name, content, schema in (("pairs", pairs, PAIRS), ("duplicates", [], DUPLICATES)):
            shard = store.write_shard(name, encoded.fingerprint, 0, pa.Table.from_pylist(content, schema))
            store.commit(name, encoded, [shard], notes={"threshold": 0.9})
    return version


def wanted(store: Path, *overrides: str) -> Settings:
    return load_settings(None, [f"store={store}", "labels=from-data", "dedup=off", *overrides])


def splits_of(store: Path, *overrides: str) -> TableVersion:
    from flows.split import split

    return Store(store).version("splits", split(wanted(store, *overrides)))


def frame(version: TableVersion) -> pl.DataFrame:
    """Rows of the splits with what is known of their images."""
    store = Store(version.folder.parents[2])
    images = pl.DataFrame(store.version("images").read())
    return pl.DataFrame(version.read()).join(images, on="image_id")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("split") / "store"
    made(Store(root))
    return root


def test_a_random_and_a_spatial_split_side_by_side(store: Path) -> None:
    version = splits_of(store, "split.splits=[{kind: stratified}, {kind: spatial, side_km: 600, buffer_km: 150}]")
    rows = frame(version)
    assert version.notes["splits"] == ["stratified", "spatial"]
    for name in ("stratified", "spatial"):
        part = rows.filter(pl.col("split") == name)
        assert part["image_id"].n_unique() == part.height == N
        assert version.counts["images"] == sum(
            count for key, count in version.counts.items() if key.startswith(f"{name}: ")
        )
    test = rows.filter((pl.col("split") == "stratified") & (pl.col("part") == "test"))
    assert test.height == pytest.approx(0.15 * N, abs=0.01 * N)
    spatial = rows.filter(pl.col("split") == "spatial")
    train, test = (spatial.filter(pl.col("part") == name) for name in ("train", "test"))
    assert spatial.filter(pl.col("part") == "buffer").height > 0
    nearest = min(
        great_circle_km(latitude, longitude, train["latitude"].to_numpy(), train["longitude"].to_numpy()).min()
        for latitude, longitude in test.select("latitude", "longitude").iter_rows()
    )
    assert nearest >= 150
    assert splits_of(
        store, "split.splits=[{kind: stratified}, {kind: spatial, side_km: 600, buffer_km: 150}]"
    ).fingerprint == (version.fingerprint)


def test_images_without_coordinates_do_not_cost_the_spatial_split(tmp_path: Path) -> None:
    made(Store(tmp_path / "store"), n_unlocated=300)
    spatial = "{kind: spatial, side_km: 600, buffer_km: 150}"
    rows = frame(splits_of(tmp_path / "store", f"split.splits=[{{kind: stratified}}, {spatial}]"))
    parts = rows.filter(pl.col("split") == "spatial")
    assert parts.filter(pl.col("latitude").is_null())["part"].to_list() == ["unused"] * 300
    assert parts.filter(pl.col("latitude").is_not_null() & (pl.col("part") == "unused")).is_empty()
    assert {"train", "test", "buffer"} <= set(parts["part"])
    with pytest.raises(
        PlaceprintError,
        match=r"spatial: 300 of 900 images have no coordinates: 0, 1, 2, …; `unlocated: unused` goes on",
    ):
        splits_of(tmp_path / "store", "split.splits=[{kind: spatial, unlocated: fail}]")


def test_a_split_that_is_left_out_is_in_the_runs_manifest(tmp_path: Path) -> None:
    made(Store(tmp_path / "store"), n_unlocated=N)
    version = splits_of(tmp_path / "store", "split.splits=[{kind: stratified}, {kind: spatial, optional: true}]")
    assert version.notes["left_out"]["spatial"] == "900 of 900 images have no coordinates: 0, 1, 2, …"
    (run,) = [json.loads(path.read_bytes()) for path in (tmp_path / "store/runs").glob("*.json")]
    assert run["figures"]["split"]["warnings"] == [
        "split: warning: spatial is left out: 900 of 900 images have no coordinates: 0, 1, 2, …"
    ]


def test_every_other_kind(store: Path) -> None:
    kinds = (
        "{kind: stratified, stable: true}, {kind: surrogate}, {kind: multilabel, order: 2, single_positive: true}, "
        "{kind: time, train_until: 2021-06-01, test_from: 2021-09-01}, {kind: subsets, sizes: [5, 20]}, "
        "{kind: reference, n: 100, features: [source]}"
    )
    rows = frame(splits_of(store, f"split.splits=[{kinds}]", "split.keep_together=nothing"))
    parts = {name: rows.filter(pl.col("split") == name) for name in rows["split"].unique()}
    assert set(parts) == {"stratified", "surrogate", "multilabel", "time", "stratified-5", "stratified-20", "reference"}
    assert parts["surrogate"].filter(pl.col("part") == "test").height == round(0.15 * N)
    assert set(parts["surrogate"]["stratum"]) == {f"bin {number}" for number in range(10)}
    by_time = parts["time"]
    until, start = datetime(2021, 6, 1, tzinfo=UTC), datetime(2021, 9, 1, tzinfo=UTC)
    assert by_time.filter(pl.col("part") == "train")["captured_at"].max() < until
    assert by_time.filter(pl.col("part") == "test")["captured_at"].min() >= start
    assert by_time.filter(pl.col("part") == "validation")["captured_at"].is_between(until, start, closed="left").all()
    train = parts["multilabel"].filter(pl.col("part") == "train")
    assert train["observed"].null_count() == 0
    assert all(seen in label.split(";") for seen, label in train.select("observed", "label").iter_rows())
    assert parts["multilabel"].filter(pl.col("part") == "test")["observed"].null_count() > 0
    five, twenty = (
        parts[name].filter(pl.col("part") == "train").group_by("label").len().sort("label")
        for name in ("stratified-5", "stratified-20")
    )
    assert five["len"].max() == 5
    assert twenty["len"].max() == 20
    train_ids = [
        set(parts[name].filter(pl.col("part") == "train")["image_id"])
        for name in ("stratified-5", "stratified-20", "stratified")
    ]
    assert train_ids[0] < train_ids[1] < train_ids[2]
    assert parts["reference"].height == 100


def test_images_added_later_keep_their_part_in_a_stable_split(store: Path, tmp_path: Path) -> None:
    import pyarrow.compute as pc

    settings = ("split.splits=[{kind: stratified, stable: true}]", "split.keep_together=nothing")
    before = {row["image_id"]: row["part"] for row in splits_of(store, *settings).read().to_pylist()}
    other = Store(tmp_path / "store")
    rows = Store(store).version("images").read()
    fewer = rows.filter(pc.less(pc.cast(rows["path"], "int64"), 600))
    recipe = Recipe("fewer", 1)
    other.commit("images", recipe, [other.write_shard("images", recipe.fingerprint, 0, fewer)])
    earlier = {row["image_id"]: row["part"] for row in splits_of(tmp_path / "store", *settings).read().to_pylist()}
    assert len(earlier) == 600
    assert all(before[identity] == part for identity, part in earlier.items())
    assert sum(part == "test" for part in before.values()) == pytest.approx(0.15 * N, abs=40)


def test_the_case_study_on_any_collections(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = (
        "{kind: case-study, base: mine, default_min_per_class: 20, weak_cap: 120, strong_cap: 40, complete_tests: []}"
    )
    rows = frame(splits_of(store, f"split.splits=[{settings}]"))
    assert set(rows["split"]) == {"min-limit", "weakly", "mixed-weakly", "strongly", "mixed-strongly"}
    train = rows.filter(pl.col("part") == "train").group_by("split").len()
    sizes = dict(train.iter_rows())
    assert sizes["weakly"] == sizes["mixed-weakly"]
    assert sizes["strongly"] == sizes["mixed-strongly"] == 3 * 40
    printed = capsys.readouterr().err
    assert "mixed-strongly" in printed
    assert "trained-test" in printed


def test_balance_and_what_is_left_out(store: Path) -> None:
    version = splits_of(store, "split.min_per_class=20", "split.max_per_class=100", "split.splits=[{kind: stratified}]")
    labels = frame(version).group_by("label").len()
    assert dict(labels.iter_rows()) == {"Egypt": 100, "Mali": 100, "Chad": 100}
    assert version.counts["balanced_out"] == N - 300


def test_near_duplicates_across_parts(tmp_path: Path) -> None:
    """Pairs that are both kept, as complete linkage leaves them."""
    store = tmp_path / "store"
    made(Store(store), near=[(number, number + 1) for number in range(0, 40, 2)])
    settings = ("dedup=on", "split.splits=[{kind: stratified}]", "split.keep_together=nothing")
    with pytest.raises(
        PlaceprintError, match=r"split: stratified: \d+ leaks between parts \(\d+ by pair\), such as 0000"
    ):
        splits_of(store, *settings)
    moved = splits_of(store, *settings, "split.leaks=move")
    parts = {row["image_id"]: row["part"] for row in moved.read().to_pylist()}
    assert all(parts[f"{number:032x}"] == parts[f"{number + 1:032x}"] for number in range(0, 40, 2))
    assert moved.notes["moved"]["stratified"] > 0
    left = {row["image_id"]: row["part"] for row in splits_of(store, *settings, "split.leaks=off").read().to_pylist()}
    assert sum(left[identity] != part for identity, part in parts.items()) == moved.notes["moved"]["stratified"]


def test_moments_have_a_zone(store: Path) -> None:
    kind = "{kind: time, train_until: '2021-06-01T00:00:00+02:00'}"
    rows = frame(splits_of(store, f"split.splits=[{kind}]", "split.keep_together=nothing"))
    last = rows.filter(pl.col("part") == "train")["captured_at"].max()
    assert last == datetime(2021, 5, 31, tzinfo=UTC)  # images are of midnight UTC: that of June 1 comes two hours after
    plain = splits_of(store, "split.splits=[{kind: time, train_until: 2021-06-01T00:00:01}]")
    assert frame(plain).filter(pl.col("part") == "train")["captured_at"].max() == datetime(2021, 6, 1, tzinfo=UTC)


def test_subsets_are_cut_from_what_the_gate_lets_pass(tmp_path: Path) -> None:
    store = tmp_path / "store"
    made(Store(store), near=[(number, number + 1) for number in range(0, 200, 2)])
    kinds = "split.splits=[{kind: stratified}, {kind: subsets, sizes: [5]}]"
    rows = splits_of(store, "dedup=on", kinds, "split.keep_together=nothing", "split.leaks=move").read().to_pylist()
    parts = {
        name: {row["image_id"]: row["part"] for row in rows if row["split"] == name}
        for name in ("stratified", "stratified-5")
    }
    assert all(parts["stratified"][identity] == part for identity, part in parts["stratified-5"].items())
    assert sum(part == "train" for part in parts["stratified-5"].values()) <= 5 * 4


def test_heads_need_a_split_to_learn_from(store: Path) -> None:
    from flows.fit import fit

    version = splits_of(store, "split.splits=[{kind: reference, n: 50}]")
    opened = Store(store)
    recipe = Recipe("made-prompts", 1, inputs={"images": version.manifest["recipe"]["inputs"]["images"]})
    import pyarrow as pa

    opened.commit(
        "prompts", recipe, [opened.write_shard("prompts", recipe.fingerprint, 0, pa.table({"template": ["x"]}))]
    )
    with pytest.raises(PlaceprintError, match="fit: no split has images to learn from"):
        fit(wanted(store), splits=version.fingerprint)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["split.sizes={validation: 0.3, test: 0.3}", "split.splits=[{kind: spatial, side_km: 9000}]"],
            "split: spatial: ",
        ),
        (["split.splits=[{kind: time, train_until: 1999-01-01}]"], "split: time: no image is in the part train"),
        (["split.splits=[{kind: subsets}]"], "split: subsets: there is no split 'stratified' before it"),
        (
            ["split.splits=[{kind: case-study}]"],
            "no image is of the base collection 'geoguessr'; there are mine, theirs",
        ),
        (
            [
                "split.max_per_class=1",
                "split.keep_together=nothing",
                "split.min_class_size=1",
                "split.splits=[{kind: stratified, every_class_in_each_part: true}]",
            ],
            "split: stratified: ",
        ),
        (
            ["split.splits=[{kind: stratified}, {kind: subsets, level: 1}]", "split.hierarchy=none.csv"],
            "none.csv cannot be read",
        ),
    ],
)
def test_what_cannot_be_made_is_one_line(store: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(PlaceprintError, match=message.replace("(", r"\(")) as caught:
        splits_of(store, *overrides)
    assert "\n" not in str(caught.value)


def test_an_optional_split_that_cannot_be_made_is_left_out_with_a_warning(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = splits_of(
        store,
        "split.splits=[{kind: stratified}, {kind: spatial, side_km: 9000, optional: true}]",
        "split.sizes={validation: 0.3, test: 0.3}",
    )
    assert version.notes["splits"] == ["stratified"]
    assert "spatial" in version.notes["left_out"]
    assert "split: warning: spatial is left out: " in capsys.readouterr().err


def test_settings_that_are_refused() -> None:
    from tasks.settings import SettingsError

    for override, message in (
        ("split.sizes={train: 0.5, test: 0.2}", "add up to 1"),
        ("split.sizes={train: 0.5, tset: 0.5}", "unknown parts tset"),
        ("split.splits=[{kind: stratified}, {kind: spatial, name: stratified}]", "two splits have the same name"),
        ("split.splits=[{kind: random}]", "does not match any of the expected tags"),
    ):
        with pytest.raises(SettingsError, match=message):
            load_settings(None, [override])
    sizes: Any = load_settings(None, ["split.sizes.test=0.25"]).split.sizes
    assert sizes == {"train": 0.75, "test": 0.25}
