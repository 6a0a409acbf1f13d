from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from storage.errors import PlaceprintError
from tasks.collect.folder import FolderSettings, FolderSource
from tasks.collect.web import OFFLINE


def source(path: Path, **settings: object) -> FolderSource:
    return FolderSource(FolderSettings(path=path, **settings))


def test_label_is_the_first_folder_and_root_files_have_none(photos: Path) -> None:
    (photos / "loose.jpg").write_bytes(b"x")
    (photos / "Egypt" / "deep").mkdir()
    (photos / "Egypt" / "deep" / "a.jpg").write_bytes(b"x")
    items = {item.path: item.label for item in source(photos).items(OFFLINE)}
    assert items["loose.jpg"] is None
    assert items["Egypt/deep/a.jpg"] == "Egypt"
    assert len(items) == 26


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_metadata_is_joined_by_path(photos: Path, kind: str) -> None:
    table = pl.DataFrame(
        {
            "path": ["Egypt/00.jpg", "France/01.jpg", "Japan/nowhere.jpg"],
            "label": ["Namibia", "NA", "Japan"],
            "latitude": ["-22.5", "95", "1"],
            "longitude": ["17.0", "2", "1"],
            "captured_at": ["2024-05-01", "", ""],
            "unknown": ["is", "left", "alone"],
        }
    )
    file = photos.parent / f"metadata.{kind}"
    table.write_csv(file) if kind == "csv" else table.write_parquet(file)
    items = {item.path: item for item in source(photos, metadata=file).items(OFFLINE)}
    good = items["Egypt/00.jpg"]
    assert (good.label, good.latitude, good.longitude) == ("Namibia", -22.5, 17.0)
    assert str(good.captured_at) == "2024-05-01 00:00:00+00:00"
    # A coordinate that cannot be costs the place, not the picture.
    assert items["France/01.jpg"].problem is None
    assert items["France/01.jpg"].latitude is None
    assert items["France/01.jpg"].label == "NA"  # a text, not a missing value
    assert items["Japan/nowhere.jpg"].problem == "named in the metadata, but there is no such file"
    assert items["Japan/02.jpg"].label == "Japan"


def test_clear_errors(photos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    bad = tmp_path / "bad.csv"
    bad.write_text("where,label\nEgypt/00.jpg,Egypt\n")
    twice = tmp_path / "twice.csv"
    twice.write_text("path,label\nEgypt/00.jpg,a\nEgypt/00.jpg,b\n")
    for settings, message in [
        ({"path": tmp_path / "nowhere"}, "does not exist: give a folder of images"),
        ({"path": bad}, "is a file"),
        ({"path": empty}, "is empty: put images into it"),
        ({"path": photos, "metadata": bad}, "path"),
        ({"path": photos, "metadata": twice}, "more than once"),
        ({"path": photos, "metadata": Path("gone.csv")}, "does not exist"),
    ]:
        with pytest.raises(PlaceprintError, match=message):
            list(source(**settings).items(OFFLINE))


def test_identity_sees_changed_added_and_removed_files_and_not_the_clock(photos: Path) -> None:
    identities = [source(photos).identity(), source(photos).identity()]
    (photos / "Egypt" / "new.jpg").write_bytes(b"x")
    identities.append(source(photos).identity())
    os.utime(photos / "Egypt" / "new.jpg", (1, 1))
    identities.append(source(photos).identity())
    (photos / "Egypt" / "new.jpg").unlink()
    identities.append(source(photos).identity())
    assert identities[0] == identities[1] == identities[4]
    assert len(set(identities)) == 3


def test_links_and_odd_names(photos: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(b"secret")
    (photos / "Egypt" / "link.jpg").symlink_to(outside)
    (photos / "circle").symlink_to(photos)
    (photos / "Egypt" / "line\nbreak.jpg").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(photos / "Egypt") + b"/\xff.jpg")).write_bytes(b"x")
    found = source(photos)
    items = {item.path: item for item in found.items(OFFLINE)}
    assert len(items) == 28
    for path, message in [("Egypt/link.jpg", "leads out"), ("circle", "not a regular file")]:
        with pytest.raises(OSError, match=message):
            found.fetch(items[path], OFFLINE)
    problems = [item for item in items.values() if item.problem]
    assert len(problems) == 2
    assert all(item.path.isprintable() for item in problems)


def test_run_takes_a_folder_or_a_table_of_paths(photos: Path, tmp_path: Path) -> None:
    from flows.collecting import collect_images
    from flows.commands.stages import settings_of
    from flows.settings import load_settings
    from storage.store import Store
    from tasks.settings import SettingsError

    def collected(target: Path, name: str) -> Store:
        collect_images(load_settings(None, [*settings_of(target), f"store={tmp_path / name}"]))
        return Store(tmp_path / name)

    assert collected(photos, "all").version("images").counts["kept"] == 24
    table = photos.parent / "my list.csv"
    whole = photos / "France" / "01.jpg"
    table.write_text(f"Filename,Lat,Lng,label\nphotos/Egypt/00.jpg,30,31,Cairo\n{whole},48.9,2.4,\n")
    some = collected(table, "some").version("images")
    rows = {row["path"]: (row["label"], row["latitude"]) for row in some.read().to_pylist()}
    assert rows == {"photos/Egypt/00.jpg": ("Cairo", 30.0), "photos/France/01.jpg": ("France", 48.9)}
    (remarks,) = some.notes["remarks"].values()
    assert remarks[-1] == "passed over 22 files that the table does not name"
    with pytest.raises(SettingsError, match="nowhere does not exist: give a folder of images, or a table"):
        settings_of(tmp_path / "nowhere")
