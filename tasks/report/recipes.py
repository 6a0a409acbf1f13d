"""What makes a report: known without Prefect and without matplotlib."""

from __future__ import annotations

from storage.store import Recipe
from tasks.report.settings import PublishSettings

STEP_VERSION = 6


def report_recipe(settings: PublishSettings, metrics: str) -> Recipe:
    """What makes a report: its settings, and the metrics (which name all that they were made from)."""
    return Recipe("publish", STEP_VERSION, settings.model_dump(mode="json"), {"metrics": metrics})
