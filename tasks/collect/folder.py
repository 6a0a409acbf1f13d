"""A folder of images: ``<label>/<file>``, with an optional CSV or Parquet table of metadata.

Every file below the folder is an input: what is no image becomes a row in ``rejects``. Files that lie in the folder
itself have no label of their own.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field

from storage.errors import PlaceprintError
from tasks.collect.listing import printable
from tasks.collect.source import CollectionSettings, Item
from tasks.collect.web import Web

TEXT_COLUMNS = ("label", "licence", "attribution", "url", "checksum")
COLUMNS = ("path", "latitude", "longitude", "captured_at", *TEXT_COLUMNS)


class FolderSettings(CollectionSettings):
    """Settings of the source `folder`."""

    kind: Literal["folder"] = "folder"
    path: Path = Field(description="the folder")
    metadata: Path | None = Field(None, description="CSV or Parquet with a column `path`, relative to the folder")

    def sources(self) -> list[FolderSource]:
        """The one collection that this section describes."""
        return [FolderSource(self)]


class FolderSource:
    """Images of a directory tree."""

    def __init__(self, settings: FolderSettings) -> None:
        self.settings = settings
        self.root = settings.path.expanduser().absolute()
        self.name = settings.name or self.root.name

    def identity(self) -> str:
        """Names, sizes and times of all files: a changed, added or removed file is seen without reading any."""
        digest = hashlib.blake2b(digest_size=16)
        for path in self._files:
            status = os.lstat(self.root / path)
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
        if self.settings.metadata is not None:
            digest.update(self._metadata_path(self.settings.metadata).read_bytes())
        return digest.hexdigest()

    def items(self, web: Web) -> Iterator[Item]:  # noqa: ARG002
        rows = self._metadata_rows
        files = set(self._files)
        for path in self._files:
            top, slash, _ = path.partition("/")
            yield self._item(path, top if slash else None, rows.get(path, {}))
        for path in sorted(set(rows) - files):
            yield Item(path=path, problem="named in the metadata, but there is no such file")

    def fetch(self, item: Item, web: Web) -> bytes:  # noqa: ARG002
        path = self.root / item.path
        if path.is_symlink() and not path.resolve().is_relative_to(self.root.resolve()):
            raise OSError("a link that leads out of the folder")
        if not path.is_file():
            raise OSError("not a regular file")
        return path.read_bytes()

    @cached_property
    def _files(self) -> list[str]:
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise PlaceprintError(
                f"collect: the folder {self.root} {what}: give a folder of images, one subfolder a label"
            )
        metadata = self._metadata_path(self.settings.metadata) if self.settings.metadata else None
        found = []
        for folder, folders, names in os.walk(self.root):
            # A link to a folder is listed as an input (and refused) in place of being walked: it may lead in a circle.
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            for name in (*names, *links):
                path = Path(folder) / name
                if path != metadata:
                    found.append(path.relative_to(self.root).as_posix())
        if not found:
            raise PlaceprintError(
                f"collect: the folder {self.root} is empty: put images into it, one subfolder a label"
            )
        return sorted(found)

    def _metadata_path(self, path: Path) -> Path:
        for candidate in (path.expanduser().absolute(), self.root / path):
            if candidate.is_file():
                return candidate
        raise PlaceprintError(f"collect: the metadata file {path} does not exist, neither here nor in {self.root}")

    @cached_property
    def _metadata_rows(self) -> dict[str, dict[str, Any]]:
        if self.settings.metadata is None:
            return {}
        path = self._metadata_path(self.settings.metadata)
        try:
            # As text: Namibia's code `NA` is not a missing value, and 007 is not 7.
            table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise PlaceprintError(f"collect: {path} cannot be read as a table: {str(error).splitlines()[0]}") from error
        if "path" not in table.columns:
            near = get_close_matches("path", table.columns, n=1, cutoff=0.0)
            raise PlaceprintError(
                f"collect: {path} has no column `path` (relative to {self.root}), "
                f"it has {', '.join(table.columns)}" + (f"; is `{near[0]}` meant?" if near else "")
            )
        known = table.select([name for name in COLUMNS if name in table.columns])
        repeated = known.filter(pl.col("path").is_duplicated())["path"].unique().sort().to_list()
        if repeated:
            raise PlaceprintError(f"collect: {path} names {repeated[0]!r} more than once ({len(repeated)} such paths)")
        return {str(row["path"]): row for row in known.iter_rows(named=True)}

    def _item(self, path: str, folder_label: str | None, row: dict[str, Any]) -> Item:
        text = {name: str(row[name]) if row.get(name) not in (None, "") else None for name in TEXT_COLUMNS}
        if not path.isprintable():
            return Item(path=printable(path), problem="the file name holds control characters or is not UTF-8")
        common: dict[str, Any] = {
            "path": path,
            **text,
            "label": text["label"] or folder_label,
        }
        try:
            return Item(
                **common,
                latitude=_degrees(row.get("latitude"), 90.0, "latitude"),
                longitude=_degrees(row.get("longitude"), 180.0, "longitude"),
                captured_at=_time(row.get("captured_at")),
            )
        except ValueError as error:
            return Item(**common, problem=f"metadata: {error}")


def _degrees(value: object, limit: float, name: str) -> float | None:
    if value in (None, ""):
        return None
    try:
        degrees = float(str(value))
    except ValueError:
        raise ValueError(f"{name} {value!r} is not a number") from None
    if not math.isfinite(degrees) or abs(degrees) > limit:
        raise ValueError(f"{name} {value!r} is not between -{limit:g} and {limit:g} degrees")
    return degrees


def _time(value: object) -> datetime | None:
    if value in (None, ""):
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
