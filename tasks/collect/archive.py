"""Files inside an archive, read one by one: nothing is unpacked to a name that the archive chose."""

from __future__ import annotations

import gzip
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

from storage.atomic import atomic_path
from storage.schemas import RejectReason
from tasks.images import ImageError

# Pictures hardly shrink: what unfolds further than this is no collection of them.
MAX_RATIO = 100
MIN_CAP_BYTES = 1_000_000_000
_CHUNK = 1 << 20
_DRIVE = re.compile(r"^[A-Za-z]:")


class NotAnArchiveError(Exception):
    """A file that is neither zip nor tar, or is damaged."""


@dataclass(frozen=True)
class Member:
    """A file in an archive; with a `problem`, one that is not read."""

    path: str
    bytes: int
    problem: str | None = None


class Archive:
    """A zip, or a plain tar, opened for reading by any thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._path = path
        self._zip: zipfile.ZipFile | None = None
        self._places: dict[str, tuple[int, int]] = {}
        try:
            if zipfile.is_zipfile(path):
                self._zip = zipfile.ZipFile(path)
                self.members = tuple(_named_once(_zip_members(self._zip)))
            else:
                with tarfile.open(path, "r:") as tar:
                    found = list(tar)
                self.members = tuple(_named_once(_tar_members(found)))
                for each in found:
                    self._places.setdefault(each.name, (each.offset_data, each.size))
        except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise NotAnArchiveError(f"{type(error).__name__}: {error}") from error

    def read(self, path: str, max_bytes: int) -> bytes:
        """The bytes of a member, at most `max_bytes` and one.

        Raises
        ------
        ImageError
            ``unreadable`` when it is damaged, encrypted, or compressed in a way that is not known here.
        """
        try:
            if self._zip is not None:
                with self._zip.open(path) as stream:
                    return stream.read(max_bytes + 1)
            offset, size = self._places[path]
            with self._path.open("rb") as stream:
                stream.seek(offset)
                return stream.read(min(size, max_bytes + 1))
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            EOFError,
            NotImplementedError,
            RuntimeError,
            KeyError,
        ) as error:
            raise ImageError(RejectReason.UNREADABLE, f"in its archive: {error}") from None


@lru_cache(maxsize=4)
def open_archive(path: Path) -> Archive:
    """An archive, opened once for all threads.

    Raises
    ------
    NotAnArchiveError
        When it is none.
    """
    return Archive(path)


def unfold_gzip(path: Path) -> None:
    """Turn a ``.tar.gz`` into the tar that it holds, in place: members of a compressed tar cannot be read one by one.

    Raises
    ------
    NotAnArchiveError
        When it is damaged, or unfolds to more than a hundred times its size (and a gigabyte): a bomb.
    """
    with path.open("rb") as stream:
        if stream.read(2) != b"\x1f\x8b":
            return
    cap = max(MIN_CAP_BYTES, MAX_RATIO * path.stat().st_size)
    try:
        with gzip.open(path) as packed, atomic_path(path) as temporary, temporary.open("wb") as unfolded:
            n_bytes = 0
            while chunk := packed.read(_CHUNK):
                n_bytes += len(chunk)
                if n_bytes > cap:
                    raise NotAnArchiveError(f"it unfolds to more than {cap} bytes")
                unfolded.write(chunk)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise NotAnArchiveError(f"{type(error).__name__}: {error}") from error


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    for info in archive.infolist():
        if info.is_dir():
            continue
        mode = info.external_attr >> 16
        name = info.orig_filename  # `filename` has what is unsafe taken out
        is_link = stat.S_ISLNK(mode)
        problem = "a link" if is_link else "encrypted" if info.flag_bits & 1 else _unsafe(name)
        yield Member(name, info.file_size, problem)


def _tar_members(found: Iterable[tarfile.TarInfo]) -> Iterator[Member]:
    for info in found:
        if not info.isdir():
            yield Member(info.name, info.size, _unsafe(info.name) if info.isreg() else "a link, or no file")


def _named_once(members: Iterable[Member]) -> Iterator[Member]:
    seen: set[str] = set()
    for member in members:
        if member.path in seen and member.problem is None:
            member = replace(member, problem="the archive has another file of this name before it")
        seen.add(member.path)
        yield member


def _unsafe(name: str) -> str | None:
    """What is wrong with a member's name, or None."""
    if "\0" in name or "\\" in name or _DRIVE.match(name):
        return "a name with a backslash, a drive or a NUL"
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        return "a name that leads out of the archive"
    return None
