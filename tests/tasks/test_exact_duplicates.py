"""Byte-identical files of a collection: one is kept, and what any of them knows of the picture with it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import picture

from flows.collecting import collect_images
from flows.settings import load_settings
from storage.schemas import IMAGES
from storage.store import Store
from tasks.collect.exact_duplicates import join_exact_duplicates

ID = "0" * 32


def row(path: str, image_id: str = ID, source: str = "photos", **known: Any) -> dict[str, Any]:
    empty = dict.fromkeys(IMAGES.names)
    fixed = {"source": source, "path": path, "image_id": image_id, "file": "x", "width": 1, "height": 1, "bytes": 1}
    return {**empty, **fixed, **known}


def joined(*rows: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, int]]:
    found = join_exact_duplicates(pa.Table.from_pylist(list(rows), IMAGES))
    assert found.images.schema == IMAGES
    assert found.images.num_rows + found.rejects.num_rows == len(rows)
    return found.images.to_pylist(), found.rejects.to_pylist(), dict(found.conflicts)


def test_label_and_place_of_a_copy_are_not_lost() -> None:
    kept, rejects, conflicts = joined(
        row("IMG_00.jpg"), row("egypt/00.jpg", label="egypt", latitude=30.0, longitude=31.2), row("other.jpg", "1" * 32)
    )
    assert [each["path"] for each in kept] == ["egypt/00.jpg", "other.jpg"]
    assert (kept[0]["label"], kept[0]["latitude"], kept[0]["longitude"]) == ("egypt", 30.0, 31.2)
    assert [(each["path"], each["detail"]) for each in rejects] == [("IMG_00.jpg", "same bytes as egypt/00.jpg")]
    assert conflicts == {}


def test_the_union_of_what_copies_say() -> None:
    moment = datetime(2024, 5, 1, tzinfo=UTC)
    kept, _, conflicts = joined(
        row("a.jpg", label="egypt", licence="CC0"),
        row("b.jpg", latitude=0.0, longitude=10.0, attribution="N. N."),
        row("c.jpg", captured_at=moment, url="https://example.org/c"),
    )
    (one,) = kept
    assert (one["path"], one["label"], one["licence"], one["attribution"]) == ("a.jpg", "egypt", "CC0", "N. N.")
    assert (one["latitude"], one["longitude"], one["captured_at"], one["url"]) == (
        0.0,
        10.0,
        moment,
        "https://example.org/c",
    )
    assert conflicts == {}


def test_conflicts_are_counted_and_told() -> None:
    kept, rejects, conflicts = joined(
        row("a.jpg", label="egypt", latitude=1.0, longitude=2.0),
        row("b.jpg", label="sudan", latitude=1.0, longitude=3.0),
        row("c.jpg"),
    )
    assert (kept[0]["label"], kept[0]["longitude"]) == ("egypt", 2.0)
    assert conflicts == {"label": 1, "place": 1}
    assert [each["detail"] for each in rejects] == [
        "same bytes as a.jpg, where its label is 'egypt' and not 'sudan', where its place is 1 2 and not 1 3",
        "same bytes as a.jpg",
    ]


def test_of_what_others_dispute_nothing_is_taken() -> None:
    kept, _, conflicts = joined(
        row("a.jpg", licence="CC0", attribution="x", captured_at=datetime(2024, 1, 1, tzinfo=UTC)),
        row("b.jpg", label="egypt"),
        row("c.jpg", label="sudan"),
    )
    assert kept[0]["label"] is None
    assert conflicts == {"label": 1}


def test_collections_are_apart() -> None:
    kept, rejects, _ = joined(row("a.jpg", label="egypt"), row("b.jpg", source="more"))
    assert [each["label"] for each in kept] == [None, "egypt"]
    assert rejects == []


def test_through_collect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    for number, name in enumerate(("Egypt/a.png", "France/b.png", "IMG_0.png", "Togo/c.png")):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        picture(0 if name in ("IMG_0.png", "Egypt/a.png", "Togo/c.png") else number, (40, 30)).save(photos / name)
    settings = load_settings(
        None,
        [f"store={tmp_path / 'store'}", "labels=from-data", f"collect.sources=[{{kind: folder, path: {photos}}}]"],
    )
    collect_images(settings)
    said = capsys.readouterr().err
    assert "collect: 4 inputs = 2 kept + 0 rejected + 2 exact duplicates" in said
    assert "warning: collect: exact copies say different things of their picture: 1 of another label" in said
    rows = Store(tmp_path / "store").version("images").read(["path", "label"]).to_pylist()
    assert [(each["path"], each["label"]) for each in rows] == [("Egypt/a.png", "Egypt"), ("France/b.png", "France")]
