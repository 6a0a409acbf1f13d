"""Collecting from Kaggle through the real kagglehub, against a server that speaks Kaggle's API."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from collecting import reasons, run, settings, table
from command_line import start
from loopback import Answer, Loopback, Request, json_answer
from services import FakeKaggle, jpeg, zipped

from storage.errors import PlaceprintError
from storage.store import Store
from tasks.collect.kaggle import KaggleSettings, KaggleSource
from tasks.collect.listing import Listings

pytestmark = pytest.mark.usefixtures("prefect_server")

SERVICE = FakeKaggle.SERVICE
FILES = {
    f"compressed_dataset/{label}/canvas_{n}.jpg": jpeg(n) for n, label in enumerate(["Aland", "Lesotho", "Japan"] * 3)
}


@pytest.fixture(autouse=True)
def kaggle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Loopback]:
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "kaggle"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    server = Loopback(FakeKaggle.PORT)
    yield server
    server.close()


def source(**given: Any) -> dict[str, Any]:
    quick = {"attempts": 2, "backoff_s": 0.01}
    return {"kind": "kaggle", "dataset": "ubitquitin/geolocation-geoguessr-images-50k", **quick, **given}


def test_labels_are_edited_and_the_version_is_recorded(kaggle: Loopback, store: Path) -> None:
    FakeKaggle(
        kaggle,
        zipped(
            {
                **FILES,
                "readme.md": b"hello",
                "../evil/Japan/x.jpg": jpeg(40),
                "__MACOSX/Japan/._x.jpg": b"fork",
                "Japan/Thumbs.db": b"cache",
            },
            links={"Japan/l.jpg": "/etc/passwd"},
        ),
    )
    counts = run(settings(store, source(label_edits="geoguessr-country211")))
    assert (counts["listed"], counts["kept"]) == (12, 6)
    remarks = Store(store).version("images").notes["remarks"]
    assert remarks == {"geolocation-geoguessr-images-50k": ["passed over 2 hidden or system files"]}
    images = table(store, "images")
    assert set(images["label"]) == {"Aland Islands", "Japan"}
    assert set(images["licence"]) == {"CC0: Public Domain"}
    assert set(images["attribution"]) == {"Kaggle ubitquitin/geolocation-geoguessr-images-50k, version 3"}
    assert images["url"][0].endswith("/versions/3")
    found = reasons(store)
    assert {found[path] for path in FILES if "Lesotho" in path} == {"deleted_label"}
    assert (found["readme.md"], found["../evil/Japan/x.jpg"], found["Japan/l.jpg"]) == (
        "not_an_image",
        "unsafe_name",
        "unsafe_name",
    )
    assert not list(store.glob("listings/*/*/downloads"))
    n_asked = len(kaggle.requests)
    run(settings(store, source(label_edits="geoguessr-country211")))
    # Another setting: the images are there, and only the table is made anew.
    run(settings(store, source(label_edits="geoguessr-country211", min_content_share=0.01)))
    assert len(kaggle.requests) == n_asked
    # What was deleted before is wanted now: the archive comes again.
    assert run(settings(store, source(), labels="from-data"))["kept"] == 9


def test_pinned_version_is_the_one_that_is_asked_for(kaggle: Loopback, store: Path) -> None:
    FakeKaggle(kaggle, zipped(FILES))
    run(settings(store, source(version=2), labels="from-data"))
    (asked,) = kaggle.asked(f"{SERVICE}/DownloadDataset")
    assert b'"datasetVersionNumber": 2' in asked.body


@pytest.mark.parametrize("status", [401, 403])
def test_missing_credentials_are_answered_with_both_ways(kaggle: Loopback, store: Path, status: int) -> None:
    kaggle.routes[f"{SERVICE}/GetDataset"] = json_answer({"code": status, "message": "no"}, status)
    with pytest.raises(PlaceprintError, match=r"KAGGLE_API_TOKEN, or the file ~/.kaggle/kaggle.json") as caught:
        run(settings(store, source()))
    assert "\n" not in str(caught.value)
    assert not Store(store).versions()


def test_credentials_are_those_of_kagglehub(kaggle: Loopback, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "t0ken")
    FakeKaggle(kaggle, zipped(FILES))
    run(settings(store, source(), labels="from-data"))
    assert kaggle.asked(f"{SERVICE}/GetDataset")[0].headers["authorization"] == "Bearer t0ken"
    stored = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file() and ".prefect" not in path.parts)
    assert b"t0ken" not in stored


def test_killed_download_goes_on_where_it_ended(kaggle: Loopback, store: Path) -> None:
    service = FakeKaggle(kaggle, zipped(FILES))
    section = KaggleSettings.model_validate(source())
    downloads = Listings(store, KaggleSource(section)).next().parent / "downloads"
    downloads.mkdir(parents=True)
    (downloads / "ubitquitin-geolocation-geoguessr-images-50k-3.part").write_bytes(service.archive[:5000])
    assert run(settings(store, source(), labels="from-data"))["kept"] == 9
    ranges = [request.headers.get("range") for request in kaggle.asked("/bucket/archive.zip")]
    assert ranges == [None, "bytes=5000-"]


def test_download_that_breaks_is_tried_again(kaggle: Loopback, store: Path) -> None:
    service = FakeKaggle(kaggle, zipped(FILES))
    answer = service._bucket(Request("GET", "", {}, {}, b"", 0.0))
    kaggle.routes["/bucket/archive.zip"] = [Answer(answer.body, 200, answer.headers, cut=3000), answer]
    assert run(settings(store, source(), labels="from-data"))["kept"] == 9


@pytest.mark.parametrize(
    "bucket",
    [
        Answer(b"<html>log in</html>", headers={"Content-Type": "text/html"}),
        Answer(bytes(20_480)),
        Answer(status=503),
        Answer(zipped(FILES), headers={"x-goog-hash": "md5=AAAAAAAAAAAAAAAAAAAAAA=="}),
    ],
    ids=["html", "empty tar", "503", "md5"],
)
def test_what_is_no_archive_is_one_line_and_leaves_nothing_that_misleads(
    kaggle: Loopback, store: Path, bucket: Answer
) -> None:
    service = FakeKaggle(kaggle, zipped(FILES))
    kaggle.routes["/bucket/archive.zip"] = bucket
    with pytest.raises(PlaceprintError, match="cannot be listed") as caught:
        run(settings(store, source(), labels="from-data"))
    assert "\n" not in str(caught.value)
    kaggle.routes["/bucket/archive.zip"] = service._bucket
    assert run(settings(store, source(), labels="from-data"))["kept"] == 9


def test_unknown_dataset_is_one_line(kaggle: Loopback, store: Path) -> None:
    kaggle.routes[f"{SERVICE}/GetDataset"] = json_answer({"code": 404, "message": "not found"}, 404)
    with pytest.raises(PlaceprintError, match="no such dataset"):
        run(settings(store, source()))


def test_missing_extra_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    monkeypatch.setitem(sys.modules, "kagglehub.exceptions", None)
    with pytest.raises(PlaceprintError, match=r"pip install 'placeprint\[kaggle\]'"):
        run(settings(store, source()))


def test_from_the_command_line(kaggle: Loopback, store: Path, tmp_path: Path) -> None:
    FakeKaggle(kaggle, zipped(FILES))
    wanted = ["ubitquitin/geolocation-geoguessr-images-50k", "-s", "collect.sources.0.label_edits=geoguessr-country211"]
    process = start("collect", "kaggle", *wanted, "--store", str(store), home=tmp_path)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert "9 inputs = 6 kept + 3 rejected" in output
