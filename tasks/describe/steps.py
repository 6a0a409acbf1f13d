"""Describe: from the tables ``images`` and ``rejects`` to a folder that documents one collection."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.atomic import write_bytes
from storage.errors import PlaceprintError
from storage.s3_path import StorePath, parquet_file
from storage.store import Store, write_parquet
from tasks.describe.card import LABEL_CHART, MAP, dataset_card
from tasks.describe.croissant import DataFile, croissant
from tasks.describe.figures import country_map, label_chart, not_on_map
from tasks.describe.notes import Notes, load_notes
from tasks.describe.profile import profile

CARD = "README.md"
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


def collections(store: Store, images: str | None = None) -> list[str]:
    """Every collection of an images version, those too of which not one image was kept."""
    version = store.version("images", images)
    tables = (version, store.version("rejects", version.fingerprint))
    return sorted({source for table in tables for source in table.read(["source"])["source"].to_pylist()})


def collection_folder(root: StorePath, source: str, images_fingerprint: str) -> StorePath:
    """Where the description of a collection lies."""
    return root / "collections" / safe_name(source) / images_fingerprint


def safe_name(source: str) -> str:
    """A folder name for any text: short, in small letters, never a path, and never that of another text.

    >>> safe_name("satellite"), safe_name("../My photos")
    ('satellite', 'my-photos.aaf56ed588f7bc29')
    """
    if _PLAIN_NAME.fullmatch(source):
        return source
    # Only these names have a dot, so none of them is that of a plain one.
    digest = hashlib.blake2b(source.encode(), digest_size=8).hexdigest()
    slug = re.sub(r"[^a-z0-9]+", "-", source.lower()).strip("-")[:40].strip("-")
    return f"{slug or 'collection'}.{digest}"


@task(name="describe-collection", task_run_name="describe {source}", cache_policy=NO_CACHE)
def describe_collection(root: StorePath, images_fingerprint: str, source: str, notes_path: Path | None) -> StorePath:
    """Write the card of a collection and what goes with it; the same tables and notes give the same bytes.

    Parameters
    ----------
    root
        The store.
    images_fingerprint
        Version of the images table, or its first digits.
    source
        Name of the collection.
    notes_path
        YAML file with what its makers say of it; None for nothing.

    Returns
    -------
    Path
        Folder with ``README.md`` (written last), ``croissant.json``, ``profile.json``, ``images.parquet`` and, where
        there is something to draw, ``labels.svg`` and ``map.png``.
    """
    store = Store(root)
    notes = Notes() if notes_path is None else load_notes(notes_path)
    version = store.version("images", images_fingerprint)
    images, rejects = (_rows(store, table, version.fingerprint, source) for table in ("images", "rejects"))
    if not images.num_rows and not rejects.num_rows:
        known = ", ".join(repr(name) for name in collections(store, version.fingerprint))
        raise PlaceprintError(
            f"describe: images {version.fingerprint} have no collection {source!r}, they have {known}"
        )
    folder = collection_folder(store.root, source, version.fingerprint)
    profiled = profile(images, rejects)
    write_parquet(folder / "images.parquet", images)
    _write_json(folder / "profile.json", {"collection": source, "images": version.fingerprint, **asdict(profiled)})
    _write_json(folder / "croissant.json", croissant(source, profiled, notes, _data_file(folder / "images.parquet")))
    located = images.select(["latitude", "longitude"]).drop_null()
    figures = {
        LABEL_CHART: label_chart(profiled.labels),
        MAP: country_map(profiled.labels, located["latitude"].to_pylist(), located["longitude"].to_pylist()),
    }
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    for name, figure in drawn.items():
        write_bytes(folder / name, figure)
    card = dataset_card(
        source,
        profiled,
        notes,
        images=version.fingerprint,
        not_on_map=not_on_map(profiled.labels),
        figures=drawn,
    )
    write_bytes(folder / CARD, card.encode())
    return folder


def _rows(store: Store, table: str, fingerprint: str, source: str) -> pa.Table:
    rows = store.version(table, fingerprint).read()
    return rows.filter(pc.equal(rows["source"], source))


def _data_file(path: StorePath) -> DataFile:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return DataFile(path.name, path.stat().st_size, digest, parquet_file(path).schema_arrow)


def _write_json(path: StorePath, content: object) -> None:
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
