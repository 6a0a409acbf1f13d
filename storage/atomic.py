"""Files that are either there and whole, or not there at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from storage.errors import StoreError
from storage.s3_path import S3Path, StorePath, upload


@contextmanager
def atomic_path(path: StorePath, *, durable: bool = True, exclusive: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there appears at `path` in one step.

    For a path on S3 it is a file of this machine, which is uploaded at the end: an object is there wholly or not at all.

    Parameters
    ----------
    durable
        Flush the file and its folder to the disk before and after the rename. Without it a power cut may leave an
        empty file: for content that is checked when it is read.
    exclusive
        Keep a file that is already there (the first writer wins) instead of replacing it.

    Raises
    ------
    StoreError
        When the disk is full or the folder cannot be written; nothing is left behind.
    """
    if isinstance(path, S3Path):
        with TemporaryDirectory(prefix="placeprint-") as folder:
            yield Path(folder) / path.name
            if not (exclusive and path.is_file()):
                upload(Path(folder) / path.name, path)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _flush(temporary)
        if exclusive:
            with suppress(FileExistsError):
                os.link(temporary, path)
        else:
            temporary.replace(path)
        if durable:
            _flush(path.parent)
    except OSError as error:
        raise StoreError(_explain(error, path)) from error
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()


def write_bytes(path: StorePath, data: bytes, *, durable: bool = True, exclusive: bool = False) -> None:
    """Write a small file through `atomic_path`; on S3, in one put."""
    if isinstance(path, S3Path):
        path.write_bytes(data, exclusive=exclusive)
        return
    with atomic_path(path, durable=durable, exclusive=exclusive) as temporary:
        temporary.write_bytes(data)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: OSError, path: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left to write {path}: free some disk and run again, what is finished is kept"
    if error.errno == errno.ENOTDIR:
        return f"{path.parent} cannot hold files: a part of that path is a file"
    return f"cannot write {path}: {error.strerror or error}"


def remove_folder(path: StorePath) -> None:
    """Remove a folder and all that lies in it, if it is there; what cannot be removed stays."""
    if isinstance(path, S3Path):
        with suppress(FileNotFoundError):
            path.filesystem.delete_dir(path.key)
    else:
        shutil.rmtree(path, ignore_errors=True)
