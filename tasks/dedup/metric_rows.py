"""What dedup measured, as rows of the table ``metrics``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from storage.store import TableVersion

HEAD = "near-duplicates"


def dedup_metrics(duplicates: TableVersion, experiment: str) -> Iterator[dict[str, Any]]:
    """Thresholds with their intervals, precision and recall of every rule on held-out pairs, and how much was removed.

    Parameters
    ----------
    duplicates
        A version of the table ``duplicates``.
    experiment
        As in the other rows of the table.
    """
    notes, counts = duplicates.notes, duplicates.counts
    labels = str(notes["labels"])
    key = {"experiment": experiment, "head": HEAD, "seed": None, "split": "all", "part": "all", "source": "all"}

    def row(metric: str, value: float, n: int, configuration: str = labels, **interval: float | None) -> dict[str, Any]:
        bounds = {"lower": None, "upper": None, **interval}
        return {**key, "configuration": configuration, "metric": metric, "value": float(value), "n": n, **bounds}

    for metric in ("removed", "removed_certain", "groups"):
        yield row(metric, counts[metric], counts["images"])
    model = notes["model"]
    if model is None:
        return
    for name in ("suspected", "certain"):
        low, high = model[f"interval_{name}"]
        yield row(f"threshold_{name}", model[name], model["n"], lower=low, upper=high)
    yield row("duplicate_auc", model["auc"], model["n"])
    for rule in notes["rules"]:
        configuration = f"{labels}, {rule['name']}"
        yield row("duplicate_recall", rule["recall"], rule["n"], configuration)
        if rule["precision"] is not None:
            yield row("duplicate_precision", rule["precision"], rule["n"], configuration)
