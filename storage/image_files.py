"""Files of images, kept once by content: ``images/ab/abcd….jpg``."""

from __future__ import annotations

import hashlib
import os

from storage.atomic import write_bytes
from storage.s3_path import StorePath


def image_id(data: bytes) -> str:
    """blake2b-128 of the bytes, 32 hex digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def put_image(root: StorePath, data: bytes, suffix: str, folder: str = "images") -> tuple[str, str]:
    """Keep an image; returns its id and its path relative to the store.

    Parameters
    ----------
    suffix
        Of the file's name, such as ``.jpg``.
    folder
        ``images``; ``originals`` for what an image of the store was cut from; ``quarantine`` for what is none.

    Notes
    -----
    Not flushed one by one: call `flush_images` before the table that names them is committed.
    """
    identity = image_id(data)
    relative = f"{folder}/{identity[:2]}/{identity}{suffix}"
    path = root / relative
    if not path.is_file() or path.stat().st_size != len(data):
        write_bytes(path, data, durable=False)
    return identity, relative


def flush_images() -> None:
    """Have the system write what it still holds in memory: once a table, in place of once an image."""
    if hasattr(os, "sync"):
        os.sync()
