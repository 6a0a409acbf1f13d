"""What a source of images is. To add one, see ``docs/sources.md``; ``osf.py`` and ``folder.py`` are examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pydantic import Field

from storage.schemas import RejectReason
from tasks.settings import Section

if TYPE_CHECKING:
    from tasks.collect.web import Web


@dataclass(frozen=True)
class Item:
    """One input that a source lists: what is known of it before it is fetched.

    `path` names it within the source. Latitude and longitude are in degrees. A `checksum` that starts with ``md5:`` or
    ``sha256:`` is verified. `bytes` is the size that the source promises. `metadata` is a JSON object, as text. An item
    that the source itself refuses carries a `problem` and is never fetched: it becomes a row in ``rejects``.
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
    bytes: int | None = None
    planted_copy_of: str | None = None
    metadata: str | None = None
    problem: str | None = None
    reason: RejectReason = RejectReason.BAD_METADATA


class CollectionSettings(Section):
    """What any collection may have, whatever its source."""

    name: str | None = Field(None, description="name of the collection; by default the source gives one", min_length=1)
    licence: str | None = Field(None, description="licence of images for which the source names none")
    attribution: str | None = Field(None, description="attribution of images for which the source names none")
    label_edits: str | None = Field(
        None, description="labels to rename and delete: a YAML file, or `geoguessr-country211`, which ships here"
    )
    min_content_share: float = Field(
        0.0, ge=0, le=1, description="images with less content are rejected: transparent and uniform borders are none"
    )
    crop_to_content: bool = Field(False, description="crop to the largest full rectangle inside the borders")
    exif: bool = Field(True, description="take place and time from the picture's EXIF where nothing else says them")
    about: Path | None = Field(None, description="YAML with the texts of the collection's card: docs/describe.md")


@runtime_checkable
class Remarking(Protocol):
    """A source that has something to say of itself, once its items were listed."""

    def remarks(self) -> Sequence[str]:
        """Lines for the user, such as what was passed over."""
        ...


class Source(Protocol):
    """A collection of images: lists its items, and fetches one.

    Everything else is done once, for all sources: retries, rate limits, size caps, checksums, naming, quarantine,
    resuming, progress.
    """

    name: str

    @property
    def settings(self) -> CollectionSettings:
        """The section of the settings that describes it."""
        ...

    def identity(self) -> str:
        """A text that changes when the source would list something else; cheap to make, without asking a service."""
        ...

    def items(self, web: Web) -> Iterable[Item]:
        """Everything there is.

        Parameters
        ----------
        web
            Asks services. Their answers are kept, so that a listing that was cut off goes on where it ended.

        Raises
        ------
        PlaceprintError
            When the source is missing or not in the form that it must have.
        FetchError
            When a service does not answer.
        """
        ...

    def fetch(self, item: Item, web: Web) -> bytes:
        """The file of one item.

        Raises
        ------
        OSError, FetchError
            When this item cannot be had; the others go on.
        """
        ...
