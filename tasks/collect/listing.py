"""What sources list, kept in the store: ``listings/<collection>-<identity>/0001/``.

A service is listed once. Its listing is numbered; `refresh` makes the next one. Beside a listing lie the answers that it
was made of (``answers/``), and above all listings of a collection the note of what was fetched (``fetched.jsonl``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from storage.image_files import image_id
from storage.local_copies import local_place
from storage.s3_path import StorePath, parquet_file, read_parquet, sorted_glob
from storage.schemas import LISTING, RejectReason
from storage.store import write_parquet
from tasks.collect.source import Item, Source

LONGEST_PATH = 1000
_DIGEST, _REMARKS = b"placeprint.digest", b"placeprint.remarks"


class Listings:
    """The listings of one collection, as its settings are now."""

    def __init__(self, root: StorePath, source: Source) -> None:
        key = hashlib.blake2b(source.identity().encode(), digest_size=6).hexdigest()
        shown = re.sub(r"[^A-Za-z0-9_-]+", "-", source.name)[:40]
        self.folder = root / "listings" / f"{shown}-{key}"

    def latest(self) -> StorePath | None:
        """The newest listing that is complete."""
        complete = sorted_glob(self.folder, "[0-9]*/items.parquet")
        return complete[-1] if complete else None

    def next(self) -> StorePath:
        """Where the next listing is made; one that was cut off goes on."""
        latest = self.latest()
        number = int(latest.parent.name) + 1 if latest is not None else 1
        return self.folder / f"{number:04d}" / "items.parquet"

    @property
    def fetched(self) -> Fetched:
        """What was fetched for any listing of the collection."""
        return _fetched(local_place(self.folder) / "fetched.jsonl")


def write_listing(
    path: StorePath,
    items: Iterable[Item],
    *,
    exclusive: bool = False,
    remarks: Callable[[], Sequence[str]] | None = None,
) -> int:
    """Write items, every path once, with labels in one form of Unicode; returns how many.

    Parameters
    ----------
    exclusive
        A listing that is there already stays.
    remarks
        What a user should know of the source, asked for when the items have come.
    """
    rows = [asdict(_with_one_form(item)) for item in named_once(items)]
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(json.dumps(row, default=str).encode())
    said = json.dumps([] if remarks is None else list(remarks()))
    schema = LISTING.with_metadata({_DIGEST: digest.hexdigest(), _REMARKS: said})
    write_parquet(path, pa.Table.from_pylist(rows, schema), exclusive=exclusive)
    return int(parquet_file(path).metadata.num_rows)


def listing_remarks(path: StorePath) -> list[str]:
    """What a user should know of the source."""
    said: list[str] = json.loads(parquet_file(path).schema_arrow.metadata.get(_REMARKS, b"[]"))
    return said


def _with_one_form(item: Item) -> Item:
    """The label as NFC: the same letters may be written in two ways, and are one class."""
    if item.label is None or unicodedata.is_normalized("NFC", item.label):
        return item
    return replace(item, label=unicodedata.normalize("NFC", item.label))


@lru_cache(maxsize=64)
def read_listing(path: StorePath) -> tuple[Item, ...]:
    """The items of a listing; kept in memory for the tasks that share them out."""
    rows = read_parquet(path).to_pylist()
    return tuple(Item(**{**row, "reason": RejectReason(row["reason"])}) for row in rows)


def listing_digest(path: StorePath) -> str:
    """Hash of what is listed, 16 hex digits."""
    return str(parquet_file(path).schema_arrow.metadata[_DIGEST].decode())


def named_once(items: Iterable[Item]) -> Iterator[Item]:
    """Items with printable paths of at most 1,000 characters; the second ``a.jpg`` is called ``a (2).jpg``."""
    seen: dict[str, int] = {}
    taken: set[str] = set()
    for item in items:
        path = printable(item.path)[:LONGEST_PATH] or "(no name)"
        number, name = seen.get(path, 1), path
        while name in taken:
            number += 1
            pure = PurePosixPath(path)
            name = str(pure.with_name(f"{pure.stem} ({number}){pure.suffix}")) if pure.name else f"{path} ({number})"
        seen[path] = number
        taken.add(name)
        yield replace(item, path=name) if name != item.path else item


def printable(text: str) -> str:
    """The text with control characters, and what is not UTF-8, written as escapes."""
    if text.isprintable():
        return text
    shown = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


class Fetched:
    """Which file of the store an item came to be: one line an item, so that nothing is asked for twice.

    Lines are appended whole; one that a killed process left unfinished is passed over.
    """

    _lock = threading.Lock()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, str] | None = None

    def data(self, root: StorePath, item: Item) -> bytes | None:
        """The bytes of an item that was fetched before, if they are still there and whole."""
        file = self._known().get(_key(item))
        if file is None:
            return None
        try:
            data = (root / file).read_bytes()
        except OSError:
            return None
        return data if image_id(data) == Path(file).stem else None

    def add(self, item: Item, file: str) -> None:
        """Note that the bytes of `item` are those of `file`, a path relative to the store that is named by its hash."""
        known = self._known()
        if known.get(key := _key(item)) == file:
            return
        line = json.dumps({"item": key, "file": file}).encode() + b"\n"
        with self._lock:
            known[key] = file
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, b"\n" + line)  # a line of its own, whatever a killed process left before it
            finally:
                os.close(descriptor)

    def _known(self) -> dict[str, str]:
        with self._lock:
            if self._files is None:
                self._files = dict(self._lines())
            return self._files

    def _lines(self) -> Iterator[tuple[str, str]]:
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                entry: Any = json.loads(line)
                yield str(entry["item"]), str(entry["file"])
            except (ValueError, KeyError, TypeError):
                continue


@lru_cache(maxsize=16)
def _fetched(path: Path) -> Fetched:
    """One for all tasks of a process: the file is read once."""
    return Fetched(path)


def _key(item: Item) -> str:
    """What makes an item another one: where it lies and what is promised of it, not its label."""
    text = json.dumps([item.path, item.url, item.checksum, item.bytes])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
