"""The store: tables of Parquet shards in fingerprinted versions that appear in one atomic step.

Terminology
-----------
recipe
    What made a table version: step, its version, the settings that matter, the fingerprints of its inputs.
fingerprint
    Hash of the recipe. The clock, the machine and the number of workers are not in it.
shard
    One Parquet file of a version.
manifest
    Written last. A version without one does not exist: a killed run leaves shards that the next run replaces.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.atomic import atomic_path, write_bytes
from storage.errors import StoreError
from storage.local_copies import local_place
from storage.s3_path import StorePath, parquet_file, read_json, read_parquet, store_path

FORMAT = 1
ROW_GROUP_ROWS = 10_000
# Arrow, Spark, Dask and pandas, given a folder, pass over names that begin so: what is left are the shards.
MANIFEST = "_manifest.json"
# Of versions made before; they are read, and never renamed.
FORMER_MANIFEST = "manifest.json"
SELECTED, RECIPE_FILE = "selected", "recipe.json"


@dataclass(frozen=True)
class Recipe:
    """What made a table version.

    Parameters
    ----------
    step
        Name of the step, such as ``encode``.
    step_version
        Raised by hand when the step's code starts to give other results.
    settings
        The settings that change the result, as plain JSON values.
    inputs
        Fingerprints (or content hashes) of what was read, by name.
    """

    step: str
    step_version: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the blake2b hash of the recipe as canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Shard:
    """One finished Parquet file of a version: name, rows, size and hash.

    `content` is a hash of its rows alone, where its step gives one: files whose metadata differ may hold the same rows.
    """

    file: str
    rows: int
    bytes: int
    blake2b: str
    content: str | None = None

    def as_json(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class TableVersion:
    """A committed version of a table."""

    table: str
    folder: StorePath
    manifest: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def step(self) -> str:
        """The step that made it."""
        return str(self.manifest["recipe"]["step"])

    @property
    def rows(self) -> int:
        return int(self.manifest["rows"])

    @property
    def created_at(self) -> str:
        return str(self.manifest["created_at"])

    @property
    def counts(self) -> Mapping[str, int]:
        """What the step counted, such as inputs, kept and rejected."""
        counts: Mapping[str, int] = self.manifest["counts"]
        return counts

    @property
    def notes(self) -> Mapping[str, Any]:
        """What a reader of the table must know, such as the order of classes."""
        notes: Mapping[str, Any] = self.manifest["notes"]
        return notes

    @property
    def files(self) -> list[StorePath]:
        """The Parquet files in row order, checked for existence and size.

        Raises
        ------
        StoreError
            When a file is missing or was changed.
        """
        files = []
        for shard in self.manifest["shards"]:
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise StoreError(f"{path} is missing or damaged: delete {self.folder} and run again")
            files.append(path)
        return files

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The table, or some of its columns, in row order."""
        tables = [read_parquet(path, columns=columns) for path in self.files]
        return pa.concat_tables(tables)


class Store:
    """A folder, or an address such as ``s3://bucket/folder``, that holds tables, images, indexes, runs and reports."""

    def __init__(self, root: StorePath | str) -> None:
        self.root: StorePath = store_path(root).expanduser().absolute()
        self.check()

    def check(self) -> None:
        """Refuse, before any work, a root that cannot hold a store."""
        for path in (self.root, *self.root.parents):
            if path.is_dir():
                return
            if path.exists():
                raise StoreError(f"store: {path} is a file, give a folder")

    @property
    def catalog_path(self) -> Path:
        return local_place(self.root) / "catalog.duckdb"

    def folder(self, table: str, fingerprint: str) -> StorePath:
        return self.root / "tables" / table / fingerprint

    def new_work_folder(self) -> StorePath:
        """Where a run keeps what it needs until its tables are committed; two runs at once get two."""
        return self.root / "work" / secrets.token_hex(6)

    def shard_path(self, table: str, fingerprint: str, index: int) -> StorePath:
        """Where a shard of a version lies, or will lie."""
        return self.folder(table, fingerprint) / f"part-{index:05d}.parquet"

    def shard(self, path: StorePath) -> Shard:
        """What the manifest says of a shard that is there."""
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return Shard(path.name, parquet_file(path).metadata.num_rows, path.stat().st_size, digest)

    def write_shard(self, table: str, fingerprint: str, index: int, rows: pa.Table) -> Shard:
        """Write one Parquet file of a version that is being made. The same rows give the same bytes."""
        path = self.shard_path(table, fingerprint, index)
        write_parquet(path, rows)
        return self.shard(path)

    def commit(
        self,
        table: str,
        recipe: Recipe,
        shards: Iterable[Shard],
        *,
        counts: Mapping[str, int] | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> TableVersion:
        """Make a version visible: write its manifest and select it. Of two writers the first wins."""
        shards = sorted(shards, key=lambda shard: shard.file)
        manifest = {
            "format": FORMAT,
            "table": table,
            "fingerprint": recipe.fingerprint,
            "recipe": asdict(recipe),
            "rows": sum(shard.rows for shard in shards),
            "shards": [shard.as_json() for shard in shards],
            "counts": dict(counts or {}),
            "notes": dict(notes or {}),
            "created_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "placeprint": package_version("placeprint"),
        }
        path = self.folder(table, recipe.fingerprint) / MANIFEST
        write_bytes(path, json.dumps(manifest, indent=1, ensure_ascii=False).encode(), exclusive=True)
        self.select(table, recipe.fingerprint)
        return self.version(table, recipe.fingerprint)

    def select(self, table: str, fingerprint: str) -> None:
        """Name the version that is read when none is asked for: the one that a run made, or found, last."""
        write_bytes(self.root / "tables" / table / SELECTED, fingerprint.encode())

    def has(self, table: str, fingerprint: str) -> bool:
        """Whether the version is complete."""
        return manifest_in(self.folder(table, fingerprint)) is not None

    def reuse(self, recipe: Recipe, tables: Iterable[str]) -> bool:
        """Whether every table of a step is complete; if so, they become the selected versions."""
        tables = list(tables)
        if not all(self._is_whole(table, recipe.fingerprint) for table in tables):
            return False
        for table in tables:
            self.select(table, recipe.fingerprint)
        # Looked at again: what was selected is not removed from here on, but may have been before (storage/retention.py).
        return all(self.has(table, recipe.fingerprint) for table in tables)

    def _is_whole(self, table: str, fingerprint: str) -> bool:
        """Whether a version is complete, and its files are there in their size; of one on S3 only the first is asked."""
        manifest = manifest_in(self.folder(table, fingerprint))
        if manifest is None or not isinstance(manifest, Path):
            return manifest is not None
        entries = self._read_manifest(table, manifest).manifest["shards"]
        sizes = {entry["file"]: entry["bytes"] for entry in entries}
        try:
            return all((manifest.parent / file).stat().st_size == size for file, size in sizes.items())
        except OSError:
            return False

    def version(self, table: str, fingerprint: str | None = None, *, step: str | None = None) -> TableVersion:
        """A version by its fingerprint (or the first digits of it), or the selected one.

        Parameters
        ----------
        step
            Of the versions that this step made, the selected one, or the one made last.

        Raises
        ------
        StoreError
            When there is none, or its manifest cannot be read.
        """
        if fingerprint is None:
            return self._selected(table, step)
        candidates = [found for found in self.versions(table) if found.fingerprint.startswith(fingerprint)]
        if len(candidates) != 1:
            found = "no" if not candidates else "more than one"
            raise StoreError(f"{self.root} holds {found} version {fingerprint} of the table {table}")
        return candidates[0]

    def readable_versions(self, table: str) -> list[TableVersion]:
        """Complete versions of a table whose manifests can be read, oldest first: for who can do without one."""
        found = []
        for path in (self.root / "tables" / table).glob(f"*/*{FORMER_MANIFEST}"):
            if path.name in (MANIFEST, FORMER_MANIFEST):
                with suppress(StoreError):
                    found.append(self._read_manifest(table, path))
        return sorted(found, key=lambda each: (each.created_at, each.fingerprint))

    def versions(self, table: str | None = None) -> list[TableVersion]:
        """Complete versions, oldest first."""
        tables = [table] if table else sorted(path.name for path in (self.root / "tables").glob("*") if path.is_dir())
        found = [
            self._read_manifest(name, path)
            for name in tables
            for path in (self.root / "tables" / name).glob(f"*/*{FORMER_MANIFEST}")
            if path.name in (MANIFEST, FORMER_MANIFEST)
        ]
        return sorted(found, key=lambda each: (each.table, each.created_at, each.fingerprint))

    def _selected(self, table: str, step: str | None) -> TableVersion:
        pointer = self.root / "tables" / table / SELECTED
        manifest = manifest_in(self.folder(table, pointer.read_text().strip())) if pointer.is_file() else None
        if manifest is not None:
            version = self._read_manifest(table, manifest)
            if step in (None, version.step):
                return version
        versions = [each for each in self.versions(table) if step in (None, each.step)]
        if not versions:
            raise StoreError(f"{self.root} holds no table {table} yet: run the step that makes it first")
        return max(versions, key=lambda each: each.created_at)

    def _read_manifest(self, table: str, path: StorePath) -> TableVersion:
        try:
            manifest = read_json(path)
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read ({error}): delete {path.parent} and run again") from error
        if manifest.get("format") != FORMAT:
            raise StoreError(f"{path} has format {manifest.get('format')}, this version of placeprint reads {FORMAT}")
        return TableVersion(table, path.parent, manifest)


def manifest_in(folder: StorePath) -> StorePath | None:
    """The manifest of a version's folder; None where the version is not complete."""
    for name in (MANIFEST, FORMER_MANIFEST):
        if (folder / name).is_file():
            return folder / name
    return None


def write_recipe(folder: StorePath, recipe: Recipe) -> None:
    """Write beside a report what it was made from, so that it can be told when that is gone."""
    write_bytes(folder / RECIPE_FILE, json.dumps(asdict(recipe), indent=1, ensure_ascii=False).encode())


def write_parquet(path: StorePath, rows: pa.Table, *, exclusive: bool = False) -> None:
    """Write a Parquet file that is there wholly or not at all. The same rows give the same bytes."""
    with atomic_path(path, exclusive=exclusive) as temporary:
        pq.write_table(
            rows,
            temporary,
            row_group_size=ROW_GROUP_ROWS,
            compression="zstd",
            write_page_checksum=True,
            use_dictionary=_dictionary_columns(rows.schema),
        )


def _dictionary_columns(schema: pa.Schema) -> list[str]:
    """Text columns only: a dictionary of floats is work for nothing."""
    return [each.name for each in schema if pa.types.is_string(each.type)]
