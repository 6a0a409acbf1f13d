"""A folder of images: ``<label>/<file>``, with an optional table of metadata (`metadata_table`).

Every file below the folder is an input: what is no image becomes a row in ``rejects``. Files that lie in the folder
itself have no label of their own. Passed over, counted and said are stores of placeprint, the table of metadata, hidden files and
what systems leave; a folder that cannot be read is a row in ``rejects``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field

from storage.errors import PlaceprintError
from storage.schemas import RejectReason
from tasks.collect.listing import printable
from tasks.collect.metadata_table import MetadataTable, Row, check_matches, normal_path, read_metadata
from tasks.collect.source import CollectionSettings, Item
from tasks.collect.tree import Tree, walk
from tasks.collect.web import Web

_UNKNOWN = Row()
_CHANGE_THE_LISTING = ("listed_only", "zero_is_a_place", "x_y_are_degrees", "follow_links")


class FolderSettings(CollectionSettings):
    """Settings of the source `folder`."""

    kind: Literal["folder"] = "folder"
    path: Path = Field(description="the folder")
    metadata: Path | None = Field(None, description="CSV or Parquet with a column of paths, relative to the folder")
    listed_only: bool = Field(False, description="take only the files that the table of metadata names")
    zero_is_a_place: bool = Field(
        False, description="take latitude 0 and longitude 0 for a place; by default they are what is written for none"
    )
    x_y_are_degrees: bool = Field(False, description="columns x and y of the table are longitude and latitude")
    follow_links: bool = Field(
        False, description="follow links to files and folders elsewhere; one that leads in a circle is refused"
    )

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
        digest.update(repr([getattr(self.settings, name) for name in _CHANGE_THE_LISTING]).encode())
        for path in self._tree.files:
            try:
                status = (self.root / path).stat(follow_symlinks=self.settings.follow_links)
            except OSError:  # gone since it was listed, or a link that leads nowhere
                digest.update(f"{path}\0".encode(errors="surrogateescape"))
                continue
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode(errors="surrogateescape"))
        for path, why in self._tree.unreadable.items():
            digest.update(f"{path}\0{why}\0".encode(errors="surrogateescape"))
        if self.settings.metadata is not None:
            digest.update(self._metadata_path(self.settings.metadata).read_bytes())
        return digest.hexdigest()

    def items(self, web: Web) -> Iterator[Item]:  # noqa: ARG002
        rows = self._rows
        found = set()
        for path in self._tree.files:
            top, slash, _ = path.partition("/")
            key = normal_path(path)
            found.add(key)
            if self.settings.listed_only and key not in rows:
                continue
            # The folder of a table may lie anywhere above the pictures: then the one that a picture lies in says what it shows.
            label = PurePosixPath(path).parent.name if self.settings.listed_only else top
            yield self._item(path, label or None if slash else None, rows.get(key, _UNKNOWN))
        for path, why in self._tree.unreadable.items():
            yield Item(path=printable(path), problem=f"cannot be read: {why}", reason=RejectReason.UNREADABLE)
        for path in sorted(set(rows) - found):
            yield Item(path=printable(path), problem="named in the metadata, but there is no such file")

    def remarks(self) -> list[str]:
        """What was passed over, and what the table of metadata is like."""
        said = self._tree.remarks()
        if self._metadata is not None:
            said += [f"{self._metadata.path.name}: {each}" for each in self._metadata.remarks]
        if self.settings.listed_only:
            n_others = len({normal_path(path) for path in self._tree.files} - set(self._rows))
            said += [f"passed over {n_others} files that the table does not name"] if n_others else []
        return said

    def fetch(self, item: Item, web: Web) -> bytes:  # noqa: ARG002
        path = self.root / item.path
        leads_out = path.is_symlink() and not path.resolve().is_relative_to(self.root.resolve())
        if leads_out and not self.settings.follow_links:
            raise OSError("a link that leads out of the folder (follow_links reads it)")
        if not path.is_file():
            raise OSError("not a regular file")
        return path.read_bytes()

    @cached_property
    def _tree(self) -> Tree:
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise PlaceprintError(
                f"collect: the folder {self.root} {what}: give a folder of images, one subfolder a label"
            )
        metadata = self._metadata_path(self.settings.metadata) if self.settings.metadata else None
        try:
            tree = walk(self.root, metadata=metadata, follow_links=self.settings.follow_links)
        except OSError as error:
            raise PlaceprintError(
                f"collect: the folder {self.root} cannot be read: {error.strerror or error}"
            ) from None
        if not tree.files and not tree.unreadable:
            told = f" ({'; '.join(tree.remarks())})" if tree.passed_over else ""
            raise PlaceprintError(
                f"collect: the folder {self.root} is empty{told}: put images into it, one subfolder a label"
            )
        return tree

    def _metadata_path(self, path: Path) -> Path:
        for candidate in (path.expanduser().absolute(), self.root / path):
            if candidate.is_file():
                return candidate
        raise PlaceprintError(f"collect: the metadata file {path} does not exist, neither here nor in {self.root}")

    @cached_property
    def _metadata(self) -> MetadataTable | None:
        if self.settings.metadata is None:
            return None
        return read_metadata(
            self._metadata_path(self.settings.metadata),
            zero_is_a_place=self.settings.zero_is_a_place,
            x_y_are_degrees=self.settings.x_y_are_degrees,
        )

    @cached_property
    def _rows(self) -> Mapping[str, Row]:
        """The table's rows by path from the folder on, also where the table gives whole paths."""
        if self._metadata is None:
            return {}
        above = f"{normal_path(str(self.root))}/"
        rows = {path.removeprefix(above): row for path, row in self._metadata.rows.items()}
        check_matches(replace(self._metadata, rows=rows), self._tree.files, str(self.root))
        return rows

    def _item(self, path: str, folder_label: str | None, row: Row) -> Item:
        if not path.isprintable():
            return Item(path=printable(path), problem="the file name holds control characters or is not UTF-8")
        known = asdict(row)
        return Item(**{**known, "path": path, "label": row.label or folder_label})
