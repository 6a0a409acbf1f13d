"""Paths on S3 that can be used as `pathlib.Path` is, over `pyarrow.fs.S3FileSystem`.

The environment says where (``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_CA_BUNDLE``) and who
(``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE`` …); so do the files of the AWS command line.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from storage.errors import StoreError

CONNECT_S = 3.0
_JSON_ATTEMPTS, _JSON_PAUSE_S = 5, 0.2
REQUEST_S = 5.0  # without a byte; ATTEMPTS times, with pauses between: a service that is silent is told after 17 s
ATTEMPTS = 3
BUFFER_BYTES = 4 * 2**20  # of an open file: a request each
PIECE_BYTES = 64 * 2**20  # of a large file, that are in memory at once


@dataclass(order=True, unsafe_hash=True)
class S3Path:
    """An object on S3, or what would be a folder there: one exists while an object lies below it.

    What asks the service raises `StoreError` (wrong credentials, no such bucket, no network), and `FileNotFoundError`
    as for a file. No ``__fspath__``: what wants a file of this machine refuses it, in place of making a folder ``s3:``.
    """

    bucket: str
    inside: PurePosixPath  # begins with /, which is the bucket

    def __post_init__(self) -> None:
        self.name, self.stem, self.suffix = self.inside.name, self.inside.stem, self.inside.suffix
        self.parts = (f"s3://{self.bucket}/", *self.inside.parts[1:])
        self.key = f"{self.bucket}{self.inside}".rstrip("/")  # as pyarrow names it

    def __str__(self) -> str:
        return f"s3://{self.key}"

    as_posix = __str__

    def __truediv__(self, other: str | PurePosixPath) -> S3Path:
        return S3Path(self.bucket, self.inside / other)

    @property
    def parent(self) -> S3Path:
        return S3Path(self.bucket, self.inside.parent)

    @property
    def parents(self) -> tuple[S3Path, ...]:
        return tuple(S3Path(self.bucket, parent) for parent in self.inside.parents)

    def with_name(self, name: str) -> S3Path:
        return S3Path(self.bucket, self.inside.with_name(name))

    def with_suffix(self, suffix: str) -> S3Path:
        return S3Path(self.bucket, self.inside.with_suffix(suffix))

    def relative_to(self, other: StorePath) -> PurePosixPath:
        return PurePosixPath(self.key).relative_to(str(other).removeprefix("s3://"))

    def is_absolute(self) -> bool:
        return True

    def expanduser(self) -> S3Path:
        return self

    absolute = expanduser

    @property
    def filesystem(self) -> fs.S3FileSystem:
        """Made anew in each process: a connection survives neither pickle nor fork."""
        with _explained(self):
            return _connect(self.bucket, os.getpid(), *sorted(kv for kv in os.environ.items() if kv[0][:4] == "AWS_"))

    def _info(self) -> fs.FileInfo:
        with _explained(self):
            return self.filesystem.get_file_info(self.key)

    def exists(self) -> bool:
        return bool(self._info().type != fs.FileType.NotFound)

    def is_file(self) -> bool:
        return bool(self._info().type == fs.FileType.File)

    def is_dir(self) -> bool:
        return bool(self._info().type == fs.FileType.Directory)

    def stat(self) -> os.stat_result:
        info = self._info()
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return os.stat_result(
            (0, 0, 0, 0, 0, 0, info.size or 0, 0, _changed_s(info), 0)
        )  # zero is what S3 does not tell

    def glob(self, pattern: str) -> Iterator[S3Path]:
        first, _, rest = pattern.partition("/")
        if first == "**":
            raise NotImplementedError(f"{pattern}: no ** on S3")
        with _explained(self):
            infos = self.filesystem.get_file_info(fs.FileSelector(self.key, allow_not_found=True))
        for info in infos:
            if fnmatchcase(info.base_name, first) and (not rest or info.type == fs.FileType.Directory):
                yield from (self / info.base_name).glob(rest) if rest else [self / info.base_name]

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:  # noqa: ARG002  (pathlib's)
        """A file to read; objects are written in one piece."""
        with _explained(self):
            return _Reader(self)

    def read_bytes(self) -> bytes:
        with _explained(self), self.filesystem.open_input_file(self.key) as stream:
            return bytes(stream.readall())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes, *, exclusive: bool = False) -> None:
        """Put an object: readers see what was there before, or all of the new one.

        With `exclusive` an object that is there stays. pyarrow cannot send ``If-None-Match``, so this looks and then puts:
        two writers at once both put, and the last wins. Harmless for tables, whose recipe makes the same bytes again but
        for the time in the manifest. No ground for a lock.
        """
        if not (exclusive and self.is_file()):
            # In a thread, which Ctrl-C does not reach: pyarrow completes an upload that an exception cuts off.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(self._put, data).result()

    def _put(self, data: bytes) -> None:
        with _explained(self), self.filesystem.open_output_stream(self.key) as stream:
            for start in range(0, len(data), PIECE_BYTES):
                stream.write(memoryview(data)[start : start + PIECE_BYTES])
                stream.flush()  # waits: what is sent in the background is a copy

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete an object. pyarrow then keeps its folder, with an empty object ``folder/``."""
        with suppress(FileNotFoundError) if missing_ok else nullcontext(), _explained(self):
            self.filesystem.delete_file(self.key)

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing to do: folders come with what lies in them."""


def _changed_s(info: fs.FileInfo) -> float:
    return float(info.mtime.timestamp()) if info.mtime else 0.0


StorePath = Path | S3Path


def store_path(root: str | StorePath) -> StorePath:
    """A path on S3 when the text begins with ``s3://`` (or ``s3:/``, which `Path` makes of it), else of this machine."""
    if isinstance(root, S3Path) or not str(root).startswith("s3:/"):
        return root if isinstance(root, S3Path) else Path(root)
    address = re.fullmatch(r"s3:/{1,2}([A-Za-z0-9][A-Za-z0-9._-]+)(/.*)?", str(root), re.DOTALL)
    if address is None or "/../" in f"{address[2]}/":
        raise StoreError(f"{str(root)!r} is no address on S3: give s3://bucket/folder")
    return S3Path(address[1], PurePosixPath("/" + (address[2] or "").lstrip("/")))


def read_json(path: StorePath) -> Any:
    """The content of a JSON file.

    Of an object on S3 that another run replaces at this moment, a part may come, or parts of both: then it is read again.

    Raises
    ------
    OSError, ValueError
        When it cannot be read, or is no JSON.
    """
    for _ in range(_JSON_ATTEMPTS - 1 if isinstance(path, S3Path) else 0):
        with suppress(ValueError):
            return json.loads(path.read_bytes())
        time.sleep(_JSON_PAUSE_S)
    return json.loads(path.read_bytes())


def sorted_glob(folder: StorePath, pattern: str) -> list[StorePath]:
    """What matches, in the order of its names; nothing where there is no folder."""
    return sorted([*folder.glob(pattern)], key=str)


class StoredFile(NamedTuple):
    """A file in a folder: its name from there on, its size, and when it was changed last."""

    name: str
    bytes: int
    changed_s: float


def files_below(folder: StorePath) -> Iterator[StoredFile]:
    """Every file of a folder, at any depth; nothing where there is no folder. Links to folders are not followed."""
    if isinstance(folder, S3Path):
        with _explained(folder):
            infos = folder.filesystem.get_file_info(fs.FileSelector(folder.key, allow_not_found=True, recursive=True))
        for info in infos:
            if info.type == fs.FileType.File:
                yield StoredFile(info.path.removeprefix(f"{folder.key}/"), info.size, _changed_s(info))
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            with suppress(FileNotFoundError):  # removed since it was listed
                status = path.lstat()
                yield StoredFile(path.relative_to(folder).as_posix(), status.st_size, status.st_mtime)


def upload(local: Path, to: S3Path) -> None:
    """Copy a file to S3. A process that is killed leaves no object, nor harms the one that is there.

    The parts that it sent stay, unseen and paid for, until a bucket's rule AbortIncompleteMultipartUpload clears them.
    """
    to.write_bytes(pa.memory_map(str(local)).read_buffer() if local.stat().st_size else b"")  # nothing cannot be mapped


def download(source: S3Path, local: Path) -> None:
    """Copy an object to a file, which is there wholly or not at all."""
    from storage.atomic import atomic_path  # here, so that it may import this module

    with source.open() as stream, atomic_path(local) as temporary, temporary.open("wb") as file:
        shutil.copyfileobj(stream, file, PIECE_BYTES)


def read_parquet(path: StorePath, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
    """The table of a Parquet file, or some of its columns; `options` as of `pyarrow.parquet.read_table`."""
    where = {"source": getattr(path, "key", path), "filesystem": getattr(path, "filesystem", None)}
    with _explained(path):
        return pq.read_table(**where, columns=columns, **options)


def parquet_file(path: StorePath) -> pq.ParquetFile:
    """A Parquet file, opened: for its schema, metadata and row groups."""
    with _explained(path):
        return pq.ParquetFile(getattr(path, "key", path), filesystem=getattr(path, "filesystem", None))


class _Reader(io.BufferedReader):
    def __init__(self, path: S3Path) -> None:
        super().__init__(path.filesystem.open_input_file(path.key), BUFFER_BYTES)
        self._path = path

    def read(self, size: int | None = -1, /) -> bytes:
        with _explained(self._path):
            return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        with _explained(self._path):
            return super().readinto(buffer)


@lru_cache(maxsize=64)
def _connect(bucket: str, _process: int, *_settings: tuple[str, str]) -> fs.S3FileSystem:
    """A connection that has seen the bucket: to later questions one that does not exist looks like an empty one."""
    filesystem = fs.S3FileSystem(
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None,
        tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE") or None,  # pyarrow reads the rest of the environment itself
        connect_timeout=CONNECT_S,
        request_timeout=REQUEST_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        background_writes=True,  # without, an upload of which a part failed is completed with the others
        allow_delayed_open=True,  # one put for what is small, not the three requests of an upload in parts
    )
    if filesystem.get_file_info(bucket).type == fs.FileType.NotFound:
        raise StoreError(f"s3://{bucket}: no such bucket: make it, or correct its name or AWS_ENDPOINT_URL_S3")
    return filesystem


@contextmanager
def _explained(path: StorePath) -> Iterator[None]:
    """Errors of the service as one line; others (a damaged Parquet file) stay what they are for a file."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except OSError as error:
        text = " ".join(str(error).split())
        code = re.search(r"AWS Error (\w+)", text)
        if code is None:
            raise
        if code[1] == "NETWORK_CONNECTION":
            text = f"no answer ({text.rpartition('Details: ')[2]}): is there a network, is AWS_ENDPOINT_URL_S3 right?"
        elif code[1] == "ACCESS_DENIED":
            text = "access is refused: may AWS_ACCESS_KEY_ID list, read and write this bucket?"
        raise StoreError(f"{path}: {text}") from error
