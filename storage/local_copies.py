"""What of a store on S3 must be a file of this machine: for FAISS, for DuckDB, for archives and for Prefect's database.

Kept in ``$PLACEPRINT_CACHE``, or ``~/.cache/placeprint``; it may be deleted at any time.
"""

from __future__ import annotations

import os
from pathlib import Path

from storage.s3_path import S3Path, StorePath, download


def local_place(path: StorePath) -> Path:
    """The path itself, or, of one on S3, its place in the cache of this machine, whether it is there or not."""
    if isinstance(path, Path):
        return path
    return machine_cache() / "s3" / path.key


def machine_cache() -> Path:
    """A folder of this machine for what can be made again."""
    return Path(os.environ.get("PLACEPRINT_CACHE", "~/.cache/placeprint")).expanduser().absolute()


def local_copy(path: StorePath, name: str | None = None) -> Path:
    """The file itself, or a copy of an object on S3, made where there is none of its size.

    Parameters
    ----------
    name
        Of the copy: with a hash in it where the object may be replaced by another of its size.
    """
    place = local_place(path)
    if isinstance(path, S3Path):
        place = place if name is None else place.with_name(name)
        if not place.is_file() or place.stat().st_size != path.stat().st_size:
            download(path, place)
    return place
