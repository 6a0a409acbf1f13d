"""What makes the tables of the case study, known without Prefect and without torch."""

from __future__ import annotations

from storage.store import Recipe
from tasks.case_study.hypotheses import Plan
from tasks.case_study.settings import StudySettings

FIT_VERSION = 1
TEST_VERSION = 1
REPORT_VERSION = 1
# Made shard by shard: one shard for the zero-shot experiment, and one for each training set.
FIT_TABLES = ("predictions", "class_metrics", "training", "metrics")
TEST_TABLES = ("tests", "verdicts")


def fit_recipe(settings: StudySettings, inputs: dict[str, str], labels: str) -> Recipe:
    """What makes predictions, metrics and losses: not what is claimed of them, nor what is drawn."""
    used = settings.model_dump(mode="json", include={"seeds", "zero_shot", "heads", "n_resamples", "cell_km", "seed"})
    del used["heads"]["device"]  # the same models, but for the rounding of sums
    return Recipe("case-study", FIT_VERSION, {**used, "labels": labels}, inputs)


def tests_recipe(settings: StudySettings, plan: Plan, metrics: str) -> Recipe:
    """What makes tests and verdicts: the hypotheses, word by word, and the metrics."""
    used = {
        "hypotheses": plan.sha256,
        "collections": settings.collections,
        "seed": settings.seed,
        "losses": list(settings.heads.losses),
    }
    return Recipe("case-study-tests", TEST_VERSION, used, {"metrics": metrics})


def report_recipe(settings: StudySettings, tests: str, metrics: str) -> Recipe:
    """What makes the report."""
    used = settings.model_dump(
        mode="json", include={"title", "collections", "figures", "published", "seed", "heads", "zero_shot", "seeds"}
    )
    del used["heads"]["device"]
    return Recipe("case-study-report", REPORT_VERSION, used, {"tests": tests, "metrics": metrics})
