"""What lies below a folder: pictures; what is passed over, and said; what cannot be read, and is a reject."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from conftest import picture

from flows.collecting import collect_images
from flows.settings import Settings, load_settings
from storage.errors import PlaceprintError
from storage.store import Store
from tasks.collect import tree
from tasks.collect.folder import FolderSettings, FolderSource
from tasks.collect.side_files import is_side_file, lies_among_side_files
from tasks.collect.tree import walk
from tasks.collect.web import OFFLINE


def put(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number, (40, 30)).save(path, format="PNG")
    return path


def wanted(root: Path, store: Path, *overrides: str) -> Settings:
    source = f"collect.sources=[{{kind: folder, path: {root}}}]"
    return load_settings(None, [f"store={store}", "labels=from-data", source, *overrides])


@pytest.mark.parametrize(
    "name",
    [
        *(".DS_Store", "._IMG_1.jpg", ".thumbnails", ".Trash-1000", ".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir"),
        *(
            "Thumbs.db",
            "THUMBS.DB",
            "desktop.ini",
            "$RECYCLE.BIN",
            "System Volume Information",
            "#recycle",
            "~$list.xlsx",
        ),
    ],
)
def test_helper_names_are_passed_over_as_files_and_as_folders(name: str, tmp_path: Path) -> None:
    assert is_side_file(name)
    put(tmp_path / "Egypt" / "a.png")
    put(tmp_path / "Egypt" / name)
    put(tmp_path / "France" / name / "b.png")
    found = walk(tmp_path)
    assert found.files == ("Egypt/a.png",)
    (line,) = found.remarks()
    assert line == f"passed over 2 hidden or system file or folders: Egypt/{name}, France/{name}"


@pytest.mark.parametrize("name", ["Egypt", "IMG_1.jpg", "a.b.c", "trash", "Thumbs", "São Tomé", "1.5 km"])
def test_usual_names_are_inputs(name: str) -> None:
    assert not is_side_file(name)
    assert not lies_among_side_files(f"photos/{name}/x.jpg")


def test_in_archives_the_folder_counts() -> None:
    assert lies_among_side_files("__MACOSX/photos/._a.jpg")
    assert lies_among_side_files("photos/.hidden/a.jpg")
    assert not lies_among_side_files("./photos/a.jpg")


def test_the_store_in_the_folder_is_never_an_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`cd photos; placeprint collect folder .`, twice."""
    photos = tmp_path / "photos"
    for number, label in enumerate(("Egypt", "Togo", "Zambia")):
        put(photos / label / "a.png", number)
    settings = wanted(photos, photos / "store")
    first = collect_images(settings)
    again = collect_images(settings)
    assert first == again
    rows = Store(photos / "store").version("images").read(["label", "path"]).to_pylist()
    assert [row["label"] for row in rows] == ["Egypt", "Togo", "Zambia"]
    assert Store(photos / "store").version("rejects").rows == 0
    put(photos / "Egypt" / "b.png", 9)
    collect_images(settings)
    assert Store(photos / "store").version("images").counts["listed"] == 4
    assert "collect: photos: passed over 1 placeprint store: store/" in capsys.readouterr().err
    notes = Store(photos / "store").version("images").notes
    assert notes["remarks"] == {"photos": ["passed over 1 placeprint store: store/"]}


def test_another_store_below_the_folder_is_passed_over_too(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    put(photos / "Egypt" / "a.png")
    collect_images(wanted(photos, tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").rename(photos / "old store")
    (photos / "old store" / "leases").rename(tmp_path / "leases")  # as it is copied without what was under way
    found = walk(photos)
    assert found.files == ("Egypt/a.png",)
    assert found.passed_over == {tree.STORE: ("old store/",)}
    # A folder that only has such a name is none.
    put(photos / "tables" / "round.png")
    put(photos / "runs" / "fast.png")
    assert walk(photos).files == ("Egypt/a.png", "runs/fast.png", "tables/round.png")


def test_a_folder_that_cannot_be_read_is_a_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for number, label in enumerate(("Egypt", "Japan", "Togo")):
        put(photos / label / "a.png", number)
    scan = os.scandir

    def without_japan(path: Path | int) -> object:
        if not isinstance(path, int) and Path(path).name == "Japan":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", without_japan)
    collect_images(wanted(photos, tmp_path / "store"))
    assert "collect: 3 inputs = 2 kept + 1 rejected + 0 exact duplicates" in capsys.readouterr().err
    (reject,) = Store(tmp_path / "store").version("rejects").read().to_pylist()
    assert (reject["path"], reject["reason"]) == ("Japan/", "unreadable")
    assert reject["detail"] == "cannot be read: Permission denied"
    monkeypatch.setattr(os, "scandir", scan)
    collect_images(wanted(photos, tmp_path / "store"))
    assert Store(tmp_path / "store").version("images").rows == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_rights_is_a_reject(tmp_path: Path) -> None:
    put(tmp_path / "Egypt" / "a.png")
    put(tmp_path / "Japan" / "a.png").parent.chmod(0)
    found = walk(tmp_path)
    (tmp_path / "Japan").chmod(0o700)
    assert (found.files, found.unreadable) == (("Egypt/a.png",), {"Japan/": "Permission denied"})


def test_a_root_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> object:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PlaceprintError, match="cannot be read: Input/output error"):
        FolderSource(FolderSettings(path=tmp_path)).identity()


def test_nothing_but_helper_files_is_told(tmp_path: Path) -> None:
    put(tmp_path / "__MACOSX" / "a.png")
    with pytest.raises(PlaceprintError, match=r"is empty \(passed over 1 hidden or system file or folder: __MACOSX\)"):
        list(FolderSource(FolderSettings(path=tmp_path)).items(OFFLINE))


def test_labels_have_one_form_of_unicode(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Perú") for form in ("NFC", "NFD"))
    put(tmp_path / "photos" / composed / "a.png", 0)
    put(tmp_path / "photos" / decomposed / "b.png", 1)
    (tmp_path / "places.csv").write_text(
        f"path,latitude,longitude\n{composed}/a.png,-12,-77\n{composed}/b.png,-13,-72\n"
    )
    collect_images(
        wanted(tmp_path / "photos", tmp_path / "store", f"collect.sources.0.metadata={tmp_path / 'places.csv'}")
    )
    rows = Store(tmp_path / "store").version("images").read(["label", "latitude"]).to_pylist()
    assert [row["label"] for row in rows] == [composed, composed]
    assert sorted(row["latitude"] for row in rows) == [-13, -12]


def test_links_are_followed_on_demand_and_circles_refused(tmp_path: Path) -> None:
    put(tmp_path / "archive" / "nile.png")
    photos = tmp_path / "photos"
    put(photos / "Egypt" / "a.png", 1)
    (photos / "Egypt" / "linked.png").symlink_to(tmp_path / "archive" / "nile.png")
    (photos / "Nile").symlink_to(tmp_path / "archive")
    (photos / "Egypt" / "round").symlink_to(photos)
    plain = FolderSource(FolderSettings(path=photos))
    listed = {item.path: item for item in plain.items(OFFLINE)}
    assert set(listed) == {"Egypt/a.png", "Egypt/linked.png", "Egypt/round", "Nile"}
    with pytest.raises(OSError, match="leads out of the folder"):
        plain.fetch(listed["Egypt/linked.png"], OFFLINE)
    followed = FolderSource(FolderSettings(path=photos, follow_links=True))
    items = {item.path: item for item in followed.items(OFFLINE)}
    assert set(items) == {"Egypt/a.png", "Egypt/linked.png", "Egypt/round/", "Nile/nile.png"}
    assert items["Egypt/round/"].problem == "cannot be read: a link that leads back to a folder above it"
    assert followed.fetch(items["Nile/nile.png"], OFFLINE) == (tmp_path / "archive" / "nile.png").read_bytes()
    assert items["Nile/nile.png"].label == "Nile"
    assert plain.identity() != followed.identity()
