"""What makes predictions and metrics: known without Prefect and without scikit-learn."""

from __future__ import annotations

from storage.store import Recipe
from tasks.heads.settings import FitSettings

STEP_VERSION = 3


def fit_recipe(settings: FitSettings, inputs: dict[str, str], labels: str) -> Recipe:
    """What makes predictions and metrics; `inputs` names the versions of images, embeddings, prompts, splits."""
    return Recipe("fit", STEP_VERSION, {**settings.model_dump(mode="json"), "labels": labels}, inputs)
