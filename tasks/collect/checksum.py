"""Checksums that a source promises."""

from __future__ import annotations

import hashlib

from tasks.collect.source import Item

ALGORITHMS = ("md5", "sha256")


def check(item: Item, data: bytes) -> str | None:
    """What is wrong with the bytes of an item, or None: their number, and their ``md5:`` or ``sha256:`` hash.

    A checksum of another form is kept as the source gave it, and not verified.
    """
    if item.bytes is not None and len(data) != item.bytes:
        return f"{len(data)} bytes, promised were {item.bytes}"
    algorithm, _, promised = (item.checksum or "").partition(":")
    if algorithm not in ALGORITHMS:
        return None
    found = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    return None if found == promised.strip().lower() else f"{algorithm} is {found}, promised was {promised}"
