"""What makes the images: known without Prefect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from storage.s3_path import StorePath
from storage.store import Recipe
from tasks.collect.label_edits import load_label_edits
from tasks.collect.listing import Listings, listing_digest
from tasks.collect.service import ServiceSettings
from tasks.collect.settings import CollectSettings
from tasks.collect.source import CollectionSettings
from tasks.collect.sources import open_sources

STEP_VERSION = 3


def known_listings(root: StorePath, settings: CollectSettings) -> dict[str, StorePath] | None:
    """The listing of each service, if all are there and need not be made again; else None."""
    found = {}
    for source in open_sources(settings.sources):
        if isinstance(source.settings, ServiceSettings):
            listing = None if settings.refresh else Listings(root, source).latest()
            if listing is None:
                return None
            found[source.name] = listing
    return found


def collect_recipe(
    settings: CollectSettings, labels: str, listings: Mapping[str, StorePath], unreachable: Sequence[str] = ()
) -> Recipe:
    """What makes the images: settings, what the sources hold now, and what could not be had of it.

    Parameters
    ----------
    listings
        The listing of each service, by collection.
    unreachable
        ``collection/path`` of what did not come: while some is missing, the tables are another version than when all
        has come.
    """
    sources = open_sources(settings.sources)
    inputs = {source.name: source.identity() for source in sources}
    inputs |= {f"{name}/listing": listing_digest(path) for name, path in listings.items()}
    if unreachable:
        text = json.dumps(sorted(unreachable))
        inputs["unreachable"] = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return Recipe(
        step="collect",
        step_version=STEP_VERSION,
        settings={
            "max_pixels": settings.max_pixels,
            "max_bytes": settings.max_bytes,
            "labels": labels,
            "collections": {source.name: _what_matters(source.settings) for source in sources},
        },
        inputs=inputs,
    )


def _what_matters(settings: CollectionSettings) -> dict[str, Any]:
    """The settings of any collection that change its rows."""
    return {
        "label_edits": load_label_edits(settings.label_edits).model_dump(mode="json"),
        "min_content_share": settings.min_content_share,
        "crop_to_content": settings.crop_to_content,
        "exif": settings.exif,
        "licence": settings.licence,
        "attribution": settings.attribution,
        "suffixes": settings.suffixes if isinstance(settings, ServiceSettings) else (),
    }
