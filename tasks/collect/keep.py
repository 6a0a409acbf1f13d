"""From an item to its row of ``images``: fetched, checked against what was promised, decoded, cropped and stored.

Done here once, for all sources.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from typing import Any

from PIL import Image

from storage.image_files import put_image
from storage.s3_path import StorePath
from storage.schemas import RejectReason
from storage.store import Store
from tasks.collect.checksum import check
from tasks.collect.exif import read_exif
from tasks.collect.listing import Listings
from tasks.collect.service import ServiceSettings
from tasks.collect.settings import CollectSettings
from tasks.collect.source import CollectionSettings, Item, Source
from tasks.collect.turns import shared_turn
from tasks.collect.web import OFFLINE, Web
from tasks.images import ImageError, decode
from tasks.stop import end_if_stopped


def web_of(source: Source, listing: StorePath, settings: CollectSettings) -> Web:
    if not isinstance(source.settings, ServiceSettings):
        return OFFLINE
    turn = shared_turn(source.settings.requests_per_second)
    return Web(source.settings, listing.parent, max_bytes=settings.max_bytes, turn=turn)


class Keeper:
    """Fetches, checks and stores the items of one collection, one at a time and from any thread."""

    def __init__(self, store: Store, settings: CollectSettings, source: Source, listing: StorePath) -> None:
        self.store = store
        self.settings = settings
        self.source = source
        self.web = web_of(source, listing, settings)
        service = source.settings if isinstance(source.settings, ServiceSettings) else None
        self.connections = service.connections if service is not None else 1
        self._fetched = Listings(store.root, source).fetched if service is not None else None

    def row_or_error(self, item: Item) -> dict[str, Any] | ImageError:
        """The row of ``images`` of one item, or why it has none."""
        end_if_stopped()
        try:
            if item.problem is not None:
                raise ImageError(item.reason, item.problem)
            return self._row(item, self._data(item))
        except ImageError as error:
            return error

    def _data(self, item: Item) -> bytes:
        limit = self.settings.max_bytes
        if item.bytes is not None and item.bytes > limit:
            raise ImageError(RejectReason.TOO_MANY_BYTES, f"{item.bytes} bytes, allowed are {limit}")
        if self._fetched is not None and (data := self._fetched.data(self.store.root, item)) is not None:
            return data
        try:
            data = self._fetch(item)
        except OSError as error:
            raise ImageError(RejectReason.UNREADABLE, error.strerror or str(error)) from None
        if len(data) > limit:
            raise ImageError(RejectReason.TOO_MANY_BYTES, f"{len(data)} bytes, allowed are {limit}")
        return data

    def _fetch(self, item: Item) -> bytes:
        """The bytes of an item, with the checksum that was promised; a service is asked a second time for others."""
        data = self.source.fetch(item, self.web)
        if self._fetched is not None and check(item, data) is not None:
            data = self.source.fetch(item, self.web)
        problem = check(item, data)
        if problem is not None:
            raise ImageError(RejectReason.WRONG_CHECKSUM, problem + self._quarantined(data))
        return data

    def _row(self, item: Item, data: bytes) -> dict[str, Any]:
        try:
            image, suffix = decode(data, self.settings.max_pixels)
            rectangle = _content(image, self.source.settings)
        except ImageError as error:
            raise ImageError(error.reason, error.detail + self._quarantined(data, item)) from None
        item = _with_camera_facts(item, data) if self.source.settings.exif else item
        metadata = item.metadata
        if rectangle is None or rectangle == (0, 0, *image.size):
            identity, file = put_image(self.store.root, data, suffix)
            fetched = file
        else:
            _, fetched = put_image(self.store.root, data, suffix, "originals")
            from tasks.collect.content import crop

            image = crop(image, rectangle)
            data = _png(image)
            identity, file = put_image(self.store.root, data, ".png")
            metadata = json.dumps({**json.loads(metadata or "{}"), "original": fetched, "crop_px": rectangle})
        if self._fetched is not None:
            self._fetched.add(item, fetched)
        known = asdict(item)
        del known["problem"], known["reason"]
        return {
            **known,
            "image_id": identity,
            "source": self.source.name,
            "file": file,
            "width": image.width,
            "height": image.height,
            "bytes": len(data),
            "licence": item.licence or self.source.settings.licence,
            "attribution": item.attribution or self.source.settings.attribution,
            "metadata": metadata,
        }

    def _quarantined(self, data: bytes, item: Item | None = None) -> str:
        """Keep what a service sent in place of a usable image, for a person to look at; says where it lies."""
        if self._fetched is None or not data:
            return ""
        _, file = put_image(self.store.root, data, ".bin", "quarantine")
        if item is not None:
            self._fetched.add(item, file)
        return f" (kept as {file})"


def _with_camera_facts(item: Item, data: bytes) -> Item:
    """The item with what the camera noted in the picture, where nobody else says it; `metadata` tells what is from there."""
    facts = read_exif(data)
    taken: dict[str, Any] = {}
    if facts.latitude is not None and item.latitude is None and item.longitude is None:
        taken |= {"latitude": facts.latitude, "longitude": facts.longitude}
    if facts.captured_at is not None and item.captured_at is None:
        taken["captured_at"] = facts.captured_at
    told: dict[str, Any] = {"from_exif": sorted({"place" if name != "captured_at" else name for name in taken})}
    if facts.altitude_m is not None:
        told["altitude_m"] = round(facts.altitude_m, 2)
    if "captured_at" in taken and not facts.zone_is_known:
        told["zone"] = "unknown, taken for UTC"
    if not taken and "altitude_m" not in told:
        return item
    known = json.loads(item.metadata or "{}")
    return replace(item, **taken, metadata=json.dumps({**told, **known}))


def _content(image: Image.Image, settings: CollectionSettings) -> tuple[int, int, int, int] | None:
    """Refuse an image with too little content; the rectangle (x, y, width, height) to crop it to, if it is to be."""
    if settings.min_content_share == 0 and not settings.crop_to_content:
        return None
    # Only here: it takes longer to import than a hundred images to keep.
    from tasks.collect.content import content_mask, content_rectangle, content_share

    mask = content_mask(image)
    share = content_share(mask)
    if share < settings.min_content_share:
        raise ImageError(
            RejectReason.LITTLE_CONTENT, f"{share:.0%} content, wanted are {settings.min_content_share:.0%}"
        )
    rectangle = content_rectangle(mask) if settings.crop_to_content else None
    if settings.crop_to_content and rectangle is None:
        raise ImageError(RejectReason.LITTLE_CONTENT, "no full rectangle inside the borders")
    return rectangle


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
