"""All metrics of some predictions, with intervals by cell and by image, as rows of the tables ``metrics`` and ``class_metrics``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.labels.label_set import LabelSet
from tasks.metrics.accuracy import region_hits
from tasks.metrics.bootstrap import Bootstrap
from tasks.metrics.mixed import ClassScores, class_scores, mixed_scores
from tasks.split.spatial import equal_area_cells

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Row = dict[str, Any]


@dataclass(frozen=True)
class Bootstraps:
    """Resamples of the same images: whole cells of the Earth, and single images."""

    by_cell: Bootstrap
    by_image: Bootstrap

    @classmethod
    def of(cls, cells: Ints, *, n_resamples: int, seed: int) -> Bootstraps:
        return cls(
            Bootstrap(cells, n_resamples=n_resamples, seed=seed),
            Bootstrap(np.arange(len(cells)), n_resamples=n_resamples, seed=seed),
        )


def cells_of(latitude: npt.NDArray[np.float64], longitude: npt.NDArray[np.float64], *, side_km: float) -> Ints:
    """Which images are resampled together, (n,): those of one cell; an image without coordinates is alone."""
    cells = -1 - np.arange(len(latitude))
    known = np.isfinite(latitude) & np.isfinite(longitude)
    cells[known] = equal_area_cells(latitude[known], longitude[known], side_km=side_km)
    return cells


def metric_rows(
    key: Mapping[str, Any],
    truth: Ints,
    predicted: Ints,
    classes: LabelSet,
    *,
    top5: Bools | None = None,
    bootstraps: Bootstraps | None = None,
) -> Iterator[Row]:
    """Rows of the table ``metrics`` for n predictions.

    Parameters
    ----------
    key
        The columns that name them.
    truth, predicted
        Class indices, (n,).
    top5
        Whether the truth is among the five highest scores, where scores are known.
    bootstraps
        Of these n images; None: no intervals.
    """
    shares = {"accuracy": truth == predicted}
    if top5 is not None:
        shares["top5_accuracy"] = top5
    if classes.regions is not None:
        shares["region_accuracy"] = region_hits(truth, predicted, classes.region_index)
    values = {name: float(hits.mean()) for name, hits in shares.items()}
    values |= {
        f"mixed_{name}": float(value)
        for name, value in asdict(mixed_scores(truth, predicted, classes.region_index)).items()
    }
    of_cells, of_images = (
        ({}, {})
        if bootstraps is None
        else (_intervals(each, shares, truth, predicted, classes) for each in (bootstraps.by_cell, bootstraps.by_image))
    )
    for name, value in values.items():
        lower, upper = of_cells.get(name, (None, None))
        lower_image, upper_image = of_images.get(name, (None, None))
        yield {
            **key,
            "metric": name,
            "value": value,
            "n": len(truth),
            "lower": lower,
            "upper": upper,
            "lower_image": lower_image,
            "upper_image": upper_image,
        }


def _intervals(
    bootstrap: Bootstrap, shares: Mapping[str, Bools], truth: Ints, predicted: Ints, classes: LabelSet
) -> dict[str, tuple[float, float]]:
    found = {name: bootstrap.share(hits) for name, hits in shares.items()}
    mixed = bootstrap.mixed(truth, predicted, classes.region_index)
    return found | {f"mixed_{name}": interval for name, interval in mixed.items()}


def class_rows(key: Mapping[str, Any], truth: Ints, predicted: Ints, classes: LabelSet) -> Iterator[Row]:
    """Rows of the table ``class_metrics``: one a class that occurs, and one a region that occurs."""
    yield from _level_rows(
        {**key, "level": "label"}, class_scores(truth, predicted, classes.region_index), classes.names
    )
    if classes.regions is None:
        return
    region, n_regions = classes.region_index, len(classes.region_names)
    by_region = class_scores(region[truth], region[predicted], np.arange(n_regions))
    yield from _level_rows({**key, "level": "region"}, by_region, classes.region_names)


def _level_rows(key: Mapping[str, Any], scores: ClassScores, names: tuple[str, ...]) -> Iterator[Row]:
    precision, recall, f1 = scores.precision, scores.recall, scores.f1
    for index in np.flatnonzero(scores.occurs).tolist():
        yield {
            **key,
            "name": names[index],
            "n_true": int(scores.n_true[index]),
            "n_predicted": int(scores.n_predicted[index]),
            "tp": int(scores.tp[index]),
            "atp": int(scores.atp[index]),
            "precision": float(precision[index]),
            "recall": float(recall[index]),
            "f1": float(f1[index]),
        }
