"""What a source of images is. To add one, write a file like ``folder.py`` and name it in ``tasks/collect/sources.py``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True)
class Item:
    """One input that a source lists: what is known of it before it is fetched.

    `path` names it within the source, once. Latitude and longitude are in degrees. An item that the source itself knows
    to be bad carries a `problem` and is never fetched: it becomes a row in ``rejects``.
    """

    path: str
    label: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    captured_at: datetime | None = None
    licence: str | None = None
    attribution: str | None = None
    url: str | None = None
    checksum: str | None = None
    planted_copy_of: str | None = None
    problem: str | None = None


class Source(Protocol):
    """A collection of images: lists its items, and fetches one."""

    name: str

    def identity(self) -> str:
        """A text that changes when the source would list or give something else; cheap to make."""
        ...

    def items(self) -> Iterable[Item]:
        """Everything there is, always in the same order.

        Raises
        ------
        SourceError
            When the source is missing or not in the form that it must have.
        """
        ...

    def fetch(self, item: Item) -> bytes:
        """The file of one item.

        Raises
        ------
        OSError
            When this item cannot be read; the others go on.
        """
        ...
