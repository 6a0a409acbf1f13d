"""The report's section on splits: how near they came to what was wanted, side by side."""

from __future__ import annotations

from typing import Any

import polars as pl

from storage.schemas import Part
from storage.store import TableVersion
from tasks.report.figures import share_per_class, split_map


def splits_section(version: TableVersion, results: pl.DataFrame, images: pl.DataFrame) -> dict[str, Any]:
    """What the template needs of one version of ``splits``.

    Parameters
    ----------
    results
        Results on the test part of every split.
    images
        The table images.
    """
    rows = pl.DataFrame(version.read(["split", "image_id", "part", "stratum"]))
    quality = version.notes["quality"]
    located = images.unique("image_id", keep="first").select("image_id", "latitude", "longitude")
    return {
        "results": results if results["split"].n_unique() > 1 else results.clear(),
        "counts": rows.pivot(on="part", index="split", values="image_id", aggregate_function="len").fill_null(0),
        "quality": _quality(quality),
        "figures": [
            (name, share_per_class(*_test_shares(rows.filter(pl.col("split") == name)), each["sizes"]["test"]))
            for name, each in quality.items()
        ],
        "maps": [
            (name, split_map(*_places(rows.filter(pl.col("split") == name), located)))
            for name in version.notes["mapped"]
        ],
        "left_out": version.notes["left_out"],
        "moved": version.notes["moved"],
        "warnings": [(name, warning) for name, each in quality.items() for warning in each["warnings"]],
    }


def _quality(quality: dict[str, Any]) -> pl.DataFrame:
    """One row a split: its worst deviation, and what was kept whole."""
    return pl.DataFrame(
        {
            "split": list(quality),
            "worst deviation": [each["worst"] for each in quality.values()],
            "groups kept whole": [each["groups"] for each in quality.values()],
        }
    )


def _test_shares(rows: pl.DataFrame) -> tuple[list[int], list[float]]:
    """Images of each stratum in train and test, and the share of them in the test part, by size."""
    counted = (
        rows.filter(pl.col("part").is_in([Part.TRAIN.value, Part.VALIDATION.value, Part.TEST.value]))
        .group_by("stratum")
        .agg(pl.len().alias("images"), (pl.col("part") == Part.TEST.value).mean().alias("share"))
        .sort(["images", "stratum"], descending=[True, False])
    )
    return counted["images"].to_list(), counted["share"].to_list()


def _places(rows: pl.DataFrame, located: pl.DataFrame) -> tuple[list[str], list[float], list[float]]:
    """Part and coordinates of each place, each once."""
    places = (
        rows.join(located, on="image_id")
        .drop_nulls(["latitude", "longitude"])
        .unique(["part", "latitude", "longitude"])
        .sort(["part", "latitude", "longitude"])
    )
    return places["part"].to_list(), places["latitude"].to_list(), places["longitude"].to_list()
