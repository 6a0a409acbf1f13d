"""What makes the splits: known without Prefect and without the numerics."""

from __future__ import annotations

from typing import Any

from storage.store import Recipe
from tasks.split.settings import ReferenceSettings, SplitSettings, SubsetSettings, SurrogateSettings

STEP_VERSION = 3


def split_recipe(
    settings: SplitSettings, images: str, *, duplicates: str | None, embeddings: str, labels: str
) -> Recipe:
    """What makes the splits: their settings, the images, which are near-duplicates, and what else a split looks at.

    Parameters
    ----------
    duplicates
        None where dedup is off: all images are kept.
    embeddings, labels
        Embeddings and label set, which count where a split needs them.
    """
    inputs = {"images": images}
    if duplicates is not None:
        inputs["duplicates"] = duplicates
    if needs_embeddings(settings):
        inputs["embeddings"] = embeddings
    used: dict[str, Any] = settings.model_dump(mode="json")
    if any(isinstance(kind, SubsetSettings) and kind.level for kind in settings.splits):
        used["labels"] = labels
    return Recipe("split", STEP_VERSION, used, inputs)


def needs_embeddings(settings: SplitSettings) -> bool:
    """Whether one of the splits looks at embeddings."""
    return any(isinstance(kind, SurrogateSettings | ReferenceSettings) for kind in settings.splits)
