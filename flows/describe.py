"""Flow `describe`: images, rejects -> a folder of documentation for each collection."""

from __future__ import annotations

import re

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.progress import say, working
from flows.settings import Settings
from flows.shortfalls import see_if_it_fell_short
from storage.runs import recorded
from storage.s3_path import StorePath
from storage.store import Store
from tasks.collect.sources import open_sources
from tasks.describe.card import card_text
from tasks.describe.notes import load_notes
from tasks.describe.steps import CARD, collections, describe_collection, safe_name


@flow(name="describe", flow_run_name="describe {settings.collect.title}", on_completion=[see_if_it_fell_short])
def describe(settings: Settings, images: str | None = None) -> list[StorePath]:
    """Describe every collection of the images collected last, or of a version; returns the folders.

    Parameters
    ----------
    settings
        The store, and where each collection's notes are.
    images
        Version of the images table, or its first digits.
    """
    store = Store(settings.store)
    fingerprint = store.version("images", images).fingerprint
    notes = {source.name: source.settings.about for source in open_sources(settings.collect.sources)}
    for path in notes.values():
        # A slip in one file is told before any folder is written.
        if path is not None:
            load_notes(path)
    folders = []
    with recorded(store, "describe", settings.model_dump(mode="json")) as run:
        run.tables["images"] = run.tables["rejects"] = fingerprint
        for name in collections(store, fingerprint):
            with working(f"describe {safe_name(name)}"):
                folder = describe_collection(store.root, fingerprint, name, notes.get(name))
            card = (folder / CARD).read_text(encoding="utf-8")
            create_markdown_artifact(key=_key(name), markdown=card_text(card), description=str(folder / CARD))
            say("describe: %s: %s", name, folder / CARD)
            folders.append(folder)
    return folders


def _key(name: str) -> str:
    """Name of the card's artifact: small letters, digits and dashes, as Prefect wants it."""
    return "card-" + re.sub(r"[^a-z0-9]+", "-", safe_name(name)).strip("-")
