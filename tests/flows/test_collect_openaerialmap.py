"""Collecting from OpenAerialMap over a real connection: both catalogues, with the traps of the real ones."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from collecting import reasons, run, settings, table
from loopback import Answer, Loopback, json_answer
from PIL import Image
from services import FakeOpenAerialMap, meta_record, thumbnail
from shapely.geometry import Polygon, box

from storage.errors import PlaceprintError
from storage.store import Store
from tasks.collect.countries import country_shapes
from tasks.collect.interior_box import interior_boxes

pytestmark = pytest.mark.usefixtures("prefect_server")


def scenes(loopback: Loopback, country: str, n: int, start: int = 0) -> list[dict[str, Any]]:
    """Records of `n` small scenes in the middle of a country's largest box."""
    shape = next(each.geometry for each in country_shapes() if each.label == country)
    inside = interior_boxes(shape, min_area_km2=0)[0]
    x, y = (inside.west + inside.east) / 2, (inside.south + inside.north) / 2
    step = (inside.east - inside.west) / (4 * n)
    areas = [box(x + k * step, y, x + (k + 0.5) * step, y + 0.001) for k in range(n)]
    return [meta_record(start + k, area, f"{loopback.url}/thumbs/{start + k}.png") for k, area in enumerate(areas)]


@pytest.mark.parametrize("backend", ["meta", "stac"])
def test_both_catalogues_give_the_same_table(loopback: Loopback, store: Path, backend: str) -> None:
    records = scenes(loopback, "Croatia", 130) + scenes(loopback, "Uruguay", 3, start=500)
    thumbs = {f"{number}.png": thumbnail(number) for number in (*range(130), *range(500, 503))}
    service = FakeOpenAerialMap(loopback, records, thumbs)
    source = service.settings(backend, countries=["Croatia", "Malta", "Uruguay"], images_per_country=5)
    counts = run(settings(store, source))
    assert (counts["listed"], counts["kept"]) == (133, 8)
    assert set(reasons(store).values()) == {"not_chosen"}
    images = table(store, "images")
    assert images["label"].value_counts().sort("label").rows() == [("Croatia", 5), ("Uruguay", 3)]
    row = images.filter(pl.col("label") == "Uruguay").row(0, named=True)
    known = json.loads(row["metadata"])
    assert known["scene"] == f"{500:024x}"
    assert (known["gsd_m"], known["provider"], known["title"]) == (0.03, "Example Provider", "tacloban_part_500.tif")
    assert known["acquired_to"] == "2018-04-21T13:00:00+00:00"
    assert Polygon(box(*known["bbox"]).exterior).is_valid
    assert (row["licence"], known["licence_is_of_record"]) == ("CC-BY-4.0", True)
    assert row["attribution"] == "© OpenAerialMap contributors (Example Provider), CC-BY-4.0"
    assert -35 < row["latitude"] < -30
    # Only the chosen thumbnails were asked for.
    assert len([request for request in loopback.requests if request.path.startswith("/thumbs")]) == 8


def test_choice_is_by_seed(loopback: Loopback, store: Path) -> None:
    service = FakeOpenAerialMap(
        loopback, scenes(loopback, "Croatia", 30), {f"{k}.png": thumbnail(k) for k in range(30)}
    )
    chosen = []
    for number, seed in enumerate((0, 0, 1)):
        root = store.parent / str(number)
        run(settings(root, service.settings(countries=["Croatia"], images_per_country=6, seed=seed)))
        chosen.append(set(table(root, "images")["path"]))
    assert chosen[0] == chosen[1] != chosen[2]


def test_no_contact_data_is_kept(loopback: Loopback, store: Path) -> None:
    service = FakeOpenAerialMap(loopback, scenes(loopback, "Croatia", 3), {f"{k}.png": thumbnail(k) for k in range(3)})
    run(settings(store, service.settings(countries=["Croatia"])))
    kept = [gzip.decompress(path.read_bytes()) for path in store.glob("listings/*/*/answers/*.gz")]
    assert kept
    assert all(
        b"tacloban" in answer and b"Example Person" not in answer and b"example.org" not in answer for answer in kept
    )
    assert "example.org" not in table(store, "images").write_json()


def test_every_refusal_has_its_reason(loopback: Loopback, store: Path) -> None:
    good = scenes(loopback, "Croatia", 20)
    url = f"{loopback.url}/thumbs"
    east, north = good[0]["bbox"][0], good[0]["bbox"][1]
    changes: dict[int, dict[str, Any]] = {
        1: {"gsd": 3.0},
        2: {"gsd": 2.0e-7, "bbox": [east, north, east + 0.006, north + 0.005]},  # degrees: 0.022 m, which is fine
        3: {"gsd": 5e5},
        4: {"gsd": None},
        5: {"gsd": 9.0, "properties": {"resolution_in_meters": 0.05, "thumbnail": f"{url}/5.png"}},
        6: {"bbox": [10.0, 40.0, 20.0, 50.0], "geojson": None, "footprint": None},
        7: {"bbox": None},
        8: {"bbox": ["a", 1, 2, 3]},
        9: {"properties": None},
        10: {"properties": {"thumbnail": "s3://oin-hotosm-temp/a.png"}},
        11: {"properties": {"thumbnail": "https://example.org/a.png"}},
        12: {"_id": None},
        13: {"geojson": {"type": "Polygon", "coordinates": [[[0, 0]]]}, "footprint": "POLYGON(("},  # the bbox is used
        14: {"properties": {"thumbnail": "http://oin-hotosm.s3.amazonaws.com/a/b_thumb.png"}},
        19: {"acquisition_start": None, "acquisition_end": "no date", "title": None, "provider": None},
    }
    for number, change in changes.items():
        good[number] |= change
    thumbs = {f"{k}.png": thumbnail(k) for k in range(20)}
    thumbs |= {"15.png": thumbnail(15, share=0.4), "16.png": b"<html>", "18.png": thumbnail(0)}
    service = FakeOpenAerialMap(loopback, good, thumbs)
    loopback.routes["/thumbs/17.png"] = Answer(b"<Error><Code>AccessDenied</Code></Error>", 403)
    counts = run(settings(store, service.settings(countries=["Croatia"], hosts=[])))
    assert counts["listed"] == 20
    found = {}
    for path, reason in reasons(store).items():
        name = path.removeprefix("Croatia/").removesuffix(".png")
        found[int(name, 16) if len(name) == 24 else name.partition(" in ")[0]] = reason
    assert found == {
        1: "out_of_scale",
        3: "out_of_scale",
        4: "out_of_scale",
        6: "outside_country",
        7: "bad_metadata",
        8: "bad_metadata",
        9: "bad_metadata",
        10: "forbidden_address",
        11: "forbidden_address",
        14: "forbidden_address",  # this test's hosts do not hold the bucket that it was moved to
        15: "little_content",
        16: "not_an_image",
        17: "refused_by_service",
        18: "exact_duplicate",
        "record 19": "bad_answer",
    }
    details = " ".join(table(store, "rejects")["detail"])
    assert "https://oin-hotosm-temp.s3.us-east-1.amazonaws.com/a/b_thumb.png" in details
    assert "oin-hotosm.s3" not in details


def test_error_with_status_200_is_a_row_and_other_countries_go_on(loopback: Loopback, store: Path) -> None:
    service = FakeOpenAerialMap(loopback, scenes(loopback, "Uruguay", 2), {f"{k}.png": thumbnail(k) for k in range(2)})
    meta = loopback.routes["/meta"]
    assert callable(meta)

    def broken_for_croatia(request: Any) -> Answer:
        north = float(request.query["bbox"].split(",")[3]) > 0
        return json_answer({"meta": {}, "results": "Cast to number failed"}) if north else meta(request)

    loopback.routes["/meta"] = broken_for_croatia
    source = service.settings(countries=["Croatia", "Uruguay"], min_box_area_km2=1e6)
    assert run(settings(store, source))["kept"] == 2
    assert reasons(store) == {"Croatia/search": "bad_answer"}


def test_service_that_ignores_pages_ends(loopback: Loopback, store: Path) -> None:
    records = scenes(loopback, "Croatia", 100)
    service = FakeOpenAerialMap(loopback, records, {f"{k}.png": thumbnail(k) for k in range(100)})
    loopback.routes["/meta"] = json_answer({"meta": {}, "results": records})
    source = service.settings(countries=["Croatia"], images_per_country=2, min_box_area_km2=1e6)
    assert run(settings(store, source))["listed"] == 100
    assert len(loopback.asked("/meta")) == 2


def test_borders_are_cropped_and_the_original_is_kept(loopback: Loopback, store: Path) -> None:
    service = FakeOpenAerialMap(loopback, scenes(loopback, "Croatia", 1), {"0.png": thumbnail(0, share=0.7)})
    run(settings(store, service.settings(countries=["Croatia"], crop_to_content=True)))
    (row,) = table(store, "images").rows(named=True)
    known = json.loads(row["metadata"])
    assert known["crop_px"] == [0, 0, row["width"], row["height"]]
    assert row["height"] == 40
    assert 40 <= row["width"] <= 42
    assert (store / known["original"]).read_bytes() == thumbnail(0, share=0.7)
    assert Image.open(io.BytesIO((store / row["file"]).read_bytes())).mode == "RGB"
    n_asked = len(loopback.requests)
    # With other settings the original is cropped anew, without asking.
    run(settings(store, service.settings(countries=["Croatia"])))
    assert len(loopback.requests) == n_asked
    assert table(store, "images")["width"].to_list() == [60]


def test_unknown_country_is_one_line(loopback: Loopback, store: Path) -> None:
    service = FakeOpenAerialMap(loopback, [], {})
    with pytest.raises(PlaceprintError, match="no polygon 'Atlantis'"):
        run(settings(store, service.settings(countries=["Atlantis"])))
    assert not Store(store).versions()


def test_country_across_the_antimeridian(loopback: Loopback, store: Path) -> None:
    """Fiji lies on both sides; a record whose bbox crosses is no reason to fail, and lies outside of each polygon."""
    records = scenes(loopback, "Fiji", 2)
    records.append(
        {**meta_record(7, box(177, -18, 178, -17), f"{loopback.url}/thumbs/7.png"), "bbox": [179.9, -17, -179.9, -16.9]}
    )
    service = FakeOpenAerialMap(loopback, records, {f"{k}.png": thumbnail(k) for k in (0, 1, 7)})
    loopback.routes["/meta"] = json_answer({"results": records})
    assert run(settings(store, service.settings(countries=["Fiji"])))["kept"] == 2
    assert set(reasons(store).values()) == {"outside_country"}
    for request in loopback.asked("/meta"):
        west, _, east, _ = (float(each) for each in request.query["bbox"].split(","))
        assert -180 <= west < east <= 180
