"""What makes the pairs and the duplicates: known without Prefect and without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from storage.errors import PlaceprintError, StoreError
from storage.store import Recipe, Store
from tasks.dedup.labelled import SYNTHETIC, answers_hash, answers_of, enough_answers
from tasks.dedup.settings import DedupSettings
from tasks.encode.recipes import embeddings_recipe
from tasks.encode.settings import EncodeSettings

STEP_VERSION = 2
TABLES = ("pairs", "duplicates")
PERSON = "person"


def dedup_recipe(store: Store, settings: DedupSettings, embeddings: str, encoding: Recipe) -> Recipe:
    """What makes pairs and duplicates: the embeddings, the settings, and what was said of pairs.

    Parameters
    ----------
    embeddings
        Fingerprint of the embeddings.
    encoding
        What makes embeddings with the settings of now: synthetic copies are made with them.

    Raises
    ------
    PlaceprintError
        When the labels are a file that cannot be read, or those of a person who gave none.
    """
    inputs = {"images": encoding.inputs["images"], "embeddings": embeddings}
    labels = settings.labels
    if labels in ("auto", PERSON):
        answers = answers_of(store)
        if labels == "auto":
            labels = PERSON if enough_answers(answers) else SYNTHETIC
        elif not answers:
            raise PlaceprintError(
                "dedup.labels: nobody has labelled pairs in this store: `placeprint dedup label` asks you"
            )
        if labels == PERSON:
            inputs["labels"] = answers_hash(answers)
    used: dict[str, Any] = settings.model_dump(mode="json", exclude={"enabled", "labels", "synthetic"})
    if labels == SYNTHETIC:
        used |= {"synthetic": settings.synthetic.model_dump(mode="json")}
        inputs["encoder"] = encoding.inputs["encoder"]
        used |= {"encode": dict(encoding.settings)}
    elif labels != PERSON:
        inputs["labels"] = _file_hash(Path(labels).expanduser())
        labels = "file"
    return Recipe("dedup", STEP_VERSION, {**used, "labels": labels}, inputs)


def already_deduplicated(store: Store, settings: DedupSettings, encode: EncodeSettings) -> str | None:
    """The fingerprint of the duplicates of the embeddings made last, if they are there; else None.

    What is there becomes selected.
    """
    try:
        embeddings = store.version("embeddings")
    except StoreError:
        return None
    encoding = embeddings_recipe(encode, embeddings.manifest["recipe"]["inputs"]["images"])
    recipe = dedup_recipe(store, settings, embeddings.fingerprint, encoding)
    return recipe.fingerprint if store.reuse(recipe, TABLES) else None


def _file_hash(path: Path) -> str:
    """Of the content and the name, which says who labelled where no column does."""
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=8, key=path.name.encode()[:64]).hexdigest()
    except OSError as error:
        raise PlaceprintError(
            f"dedup.labels: {path}: {error.strerror}: give auto, person, synthetic, or a CSV or Parquet file of pairs"
        ) from None
