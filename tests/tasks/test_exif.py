"""What cameras note in pictures: place and time, and every way in which it can be missing or wrong."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from conftest import picture
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from flows.collecting import collect_images
from flows.settings import load_settings
from storage.store import Store
from tasks.collect.exif import CameraFacts, read_exif

CAIRO = {1: "N", 2: (30.0, 2.0, 39.84), 3: "E", 4: (31.0, 14.0, 8.52), 5: b"\0", 6: 23.5}


def jpeg(
    number: int = 0, gps: dict[int, Any] | None = None, exif: dict[int, Any] | None = None, kind: str = "JPEG"
) -> bytes:
    tags = Image.Exif()
    tags[0x010F] = "Camera"  # Pillow saves no EXIF of a PNG that has nothing but other parts
    for tag, value in (gps or {}).items():
        tags.get_ifd(0x8825)[tag] = value
    for tag, value in (exif or {}).items():
        tags.get_ifd(0x8769)[tag] = value
    buffer = io.BytesIO()
    picture(number, (60, 40)).save(buffer, kind, exif=tags)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_place_time_and_altitude(kind: str) -> None:
    found = read_exif(jpeg(gps=CAIRO, exif={0x9003: "2023:07:14 12:00:00", 0x9011: "+02:00"}, kind=kind))
    assert found.latitude == pytest.approx(30.0444, abs=1e-6)
    assert found.longitude == pytest.approx(31.2357, abs=1e-6)
    assert found.altitude_m == pytest.approx(23.5)
    assert (found.captured_at, found.zone_is_known) == (datetime(2023, 7, 14, 10, tzinfo=UTC), True)


def test_south_west_and_below_the_sea() -> None:
    found = read_exif(jpeg(gps={1: "S", 2: (12.0, 2.0, 0.0), 3: "W", 4: (77.0, 1.5, 0.0), 5: b"\1", 6: 3.0}))
    assert (found.latitude, found.longitude) == (pytest.approx(-12.0333, abs=1e-4), pytest.approx(-77.025))
    assert found.altitude_m == -3.0


def test_without_a_zone_the_clock_is_taken_for_utc() -> None:
    found = read_exif(jpeg(exif={0x9003: "2023:07:14 12:00:00"}))
    assert (found.captured_at, found.zone_is_known) == (datetime(2023, 7, 14, 12, tzinfo=UTC), False)


@pytest.mark.parametrize(
    "gps",
    [
        {},
        {2: (30.0, 2.0, 3.0), 4: (31.0, 1.0, 2.0)},  # no directions
        {1: "N", 2: (30.0, 2.0, 3.0)},  # a latitude alone
        {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)},  # no fix yet
        {1: "N", 2: (95.0, 0.0, 0.0), 3: "E", 4: (31.0, 0.0, 0.0)},
        {1: "N", 2: (30.0, 0.0, 0.0), 3: "E", 4: (181.0, 0.0, 0.0)},
        {1: "X", 2: (30.0, 0.0, 0.0), 3: "E", 4: (31.0, 0.0, 0.0)},
        {1: "N", 2: (IFDRational(0, 0), 0.0, 0.0), 3: "E", 4: (31.0, 0.0, 0.0)},
    ],
)
def test_no_place_is_none(gps: dict[int, Any]) -> None:
    found = read_exif(jpeg(gps=gps))
    assert (found.latitude, found.longitude) == (None, None)


@pytest.mark.parametrize(
    "text", ["0000:00:00 00:00:00", "    :  :     :  :  ", "", "2023:13:40 25:00:00", "yesterday", "2023:07:14"]
)
def test_no_time_is_none(text: str) -> None:
    assert read_exif(jpeg(exif={0x9003: text})).captured_at is None


def test_damaged_exif_and_other_bytes_say_nothing() -> None:
    data = jpeg(gps=CAIRO)
    at = data.index(b"Exif\0\0")
    for start in range(at + 6, at + 60, 7):
        broken = data[:start] + b"\xff" * 9 + data[start + 9 :]
        assert isinstance(read_exif(broken), CameraFacts)
    for other in (b"", b"no picture", data[:100]):
        assert read_exif(other) == CameraFacts()


def collected(root: Path, *overrides: str) -> Store:
    sets = [
        f"store={root / 'store'}",
        "labels=from-data",
        f"collect.sources=[{{kind: folder, path: {root / 'photos'}}}]",
    ]
    collect_images(load_settings(None, [*sets, *overrides]))
    return Store(root / "store")


def test_a_table_wins_and_each_value_says_where_it_is_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos" / "cairo"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(
            jpeg(number, gps=CAIRO if number < 2 else {}, exif={0x9003: "2023:07:14 12:00:00"})
        )
    (tmp_path / "places.csv").write_text("path,latitude,longitude\ncairo/1.jpg,1.5,2.5\n")
    store = collected(tmp_path, f"collect.sources.0.metadata={tmp_path / 'places.csv'}")
    rows = {row["path"]: row for row in store.version("images").read().to_pylist()}
    assert rows["cairo/0.jpg"]["latitude"] == pytest.approx(30.0444, abs=1e-6)
    assert json.loads(rows["cairo/0.jpg"]["metadata"]) == {
        "from_exif": ["captured_at", "place"],
        "altitude_m": 23.5,
        "zone": "unknown, taken for UTC",
    }
    assert (rows["cairo/1.jpg"]["latitude"], rows["cairo/1.jpg"]["longitude"]) == (1.5, 2.5)
    assert json.loads(rows["cairo/1.jpg"]["metadata"])["from_exif"] == ["captured_at"]
    assert rows["cairo/2.jpg"]["latitude"] is None
    assert all(row["captured_at"] == datetime(2023, 7, 14, 12, tzinfo=UTC) for row in rows.values())
    assert "collect: from the cameras' own EXIF: captured at of 3 images, place of 1 images" in capsys.readouterr().err
    off = collected(tmp_path, "collect.sources.0.exif=false").version("images").read(["latitude", "metadata"])
    assert off["latitude"].null_count == off["metadata"].null_count == 3


def test_of_two_copies_the_one_that_a_table_names_decides(tmp_path: Path) -> None:
    for name in ("a/0.jpg", "b/0.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(0, gps=CAIRO))
    (tmp_path / "places.csv").write_text("path,latitude,longitude,label\nb/0.jpg,1.5,2.5,cairo\na/0.jpg,,,cairo\n")
    store = collected(tmp_path, f"collect.sources.0.metadata={tmp_path / 'places.csv'}")
    (row,) = store.version("images").read().to_pylist()
    assert (row["path"], row["latitude"], row["label"]) == ("b/0.jpg", 1.5, "cairo")
    assert store.version("images").notes["conflicts"] == {}


def test_fractions_are_read_as_cameras_write_them() -> None:
    seconds = Fraction("39.84")
    found = read_exif(
        jpeg(
            gps={
                **CAIRO,
                2: (IFDRational(30, 1), IFDRational(2, 1), IFDRational(seconds.numerator, seconds.denominator)),
            }
        )
    )
    assert found.latitude == pytest.approx(30.0444, abs=1e-6)
