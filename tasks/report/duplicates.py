"""The report's section on near-duplicates: the threshold, what it removed, and the pairs that a reader should look at."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from storage.store import Store, TableVersion
from tasks.dedup.threshold import DuplicateModel
from tasks.report.figures import calibration, threshold_curve
from tasks.report.settings import PublishSettings
from tasks.report.thumbnails import thumbnail

_MOST_ROWS = 30
_MOST_OF_A_GROUP = 8


def duplicates_section(
    store: Store, settings: PublishSettings, version: TableVersion, images: pl.DataFrame
) -> dict[str, Any]:
    """What the template needs of one version of ``duplicates`` and ``pairs``.

    Parameters
    ----------
    images
        The table images that they were found among.
    """
    notes = version.notes
    pairs = pl.DataFrame(store.version("pairs", version.fingerprint).read())
    groups = pl.DataFrame(version.read())
    known = images.unique("image_id", keep="first", maintain_order=True).select(
        "image_id", "file", "source", "label", "path"
    )
    shown = _Shown(store, known)
    section = {
        "counts": version.counts,
        "labels": notes["labels"],
        "label_counts": notes["label_counts"],
        "warnings": notes["warnings"],
        "search": notes["search"],
        "recall": notes["recall"],
        "removes": notes["removes"],
        "removed": _removed(groups, known),
        "groups": _largest_groups(groups, shown, settings.n_groups),
        "conflicts": _conflicts(groups),
        "fingerprint": version.fingerprint,
        "model": None,
    }
    if notes["model"] is None:
        return section
    model = _model(notes["model"])
    labelled = pairs.filter(pl.col("is_duplicate").is_not_null())
    return {
        **section,
        "model": notes["model"],
        "rules": _rules(notes["rules"]),
        "curve": threshold_curve(
            labelled["cosine"].to_numpy(), labelled["is_duplicate"].to_numpy(), model.probability, _thresholds(model)
        ),
        "calibration": calibration([(each["probability"], each["share"], each["n"]) for each in notes["calibration"]])
        if notes["calibration"]
        else "",
        "gallery": [
            (f"Around the {name} threshold, {value:.4f}", _around(pairs, value, shown, settings.n_pairs))
            for name, (value, _, _) in _thresholds(model).items()
        ],
    }


class _Shown:
    """Thumbnails and captions of images, each made once."""

    def __init__(self, store: Store, known: pl.DataFrame) -> None:
        self._store = store
        self._known = {row["image_id"]: row for row in known.to_dicts()}
        self._made: dict[str, dict[str, str]] = {}

    def has(self, image_id: str) -> bool:
        return image_id in self._known

    def image(self, image_id: str) -> dict[str, str]:
        if image_id not in self._made:
            row = self._known[image_id]
            self._made[image_id] = {
                "image": thumbnail(self._store.root / row["file"]),
                "label": row["label"] or "no label",
                "source": row["source"],
                "path": row["path"],
            }
        return self._made[image_id]


def _model(notes: dict[str, Any]) -> DuplicateModel:
    def bounds(interval: list[float | None]) -> tuple[float, float]:
        low, high = interval
        return -np.inf if low is None else low, np.inf if high is None else high

    return DuplicateModel(
        **{
            **notes,
            "probabilities": tuple(notes["probabilities"]),
            **{name: bounds(notes[name]) for name in ("interval_suspected", "interval_certain")},
        }
    )


def _thresholds(model: DuplicateModel) -> dict[str, tuple[float, float, float]]:
    """Value and interval of each."""
    return {
        "suspected": (model.suspected, *model.interval_suspected),
        "certain": (model.certain, *model.interval_certain),
    }


def _rules(rules: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "rule": [each["name"] for each in rules],
            "cosine from": [f"{each['cosine']:.4f}" for each in rules],
            "precision %": ["–" if each["precision"] is None else f"{100 * each['precision']:.1f}" for each in rules],
            "recall %": [f"{100 * each['recall']:.1f}" for each in rules],
            "pairs": [each["n"] for each in rules],
        }
    )


def _removed(groups: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Images removed of each source and label, most first; the rest in one row."""
    counts = (
        groups.filter(~pl.col("kept"))
        .join(known, on="image_id")
        .group_by("source", "label")
        .agg(pl.len().alias("removed"), (pl.col("certainty") == "certain").sum().alias("of them certain"))
        .sort(["removed", "source", "label"], descending=[True, False, False])
        .with_columns(pl.col("label").fill_null("no label"))
    )
    if counts.height <= _MOST_ROWS:
        return counts
    rest = counts.slice(_MOST_ROWS)
    others = rest.select(
        pl.lit("all").alias("source"),
        pl.lit(f"{rest.height} more").alias("label"),
        pl.col("removed", "of them certain").sum(),
    ).head(1)
    return pl.concat([counts.head(_MOST_ROWS), others])


def _largest_groups(groups: pl.DataFrame, shown: _Shown, n_groups: int) -> list[dict[str, Any]]:
    sizes = groups.group_by("group_id").len().sort(["len", "group_id"], descending=[True, False]).head(n_groups)
    found = []
    for group_id, size in sizes.iter_rows():
        members = groups.filter(pl.col("group_id") == group_id).to_dicts()
        found.append(
            {
                "size": size,
                "chain": members[0]["chain"],
                "images": [
                    {
                        **shown.image(row["image_id"]),
                        "what": "kept" if row["kept"] else f"{row['certainty']}, cosine {row['cosine_to_kept']:.4f}",
                    }
                    for row in members[:_MOST_OF_A_GROUP]
                ],
                "more": max(0, size - _MOST_OF_A_GROUP),
            }
        )
    return found


def _conflicts(groups: pl.DataFrame) -> pl.DataFrame:
    """Kept images whose certain copies have another label."""
    return (
        groups.filter(pl.col("label_conflict"))
        .select("group_id", "image_id", pl.col("labels").list.join(", ").alias("labels"))
        .head(_MOST_ROWS)
    )


def _around(pairs: pl.DataFrame, threshold: float, shown: _Shown, n_pairs: int) -> list[dict[str, Any]]:
    """The pairs of images of the store with the nearest cosines, most similar first."""
    nearest = (
        pairs.filter(pl.col("edit").is_null())
        .unique(["image_id_a", "image_id_b"], keep="first", maintain_order=True)
        .with_columns((pl.col("cosine").cast(pl.Float64) - threshold).abs().alias("distance"))
        .sort("distance", maintain_order=True)
        .head(n_pairs)
        .sort("cosine", descending=True, maintain_order=True)
    )
    said = {True: "labelled a duplicate", False: "labelled not a duplicate", None: "not labelled"}
    return [
        {
            "images": [shown.image(row["image_id_a"]), shown.image(row["image_id_b"])],
            "cosine": row["cosine"],
            "probability": row["probability"],
            "said": said[row["is_duplicate"]] + (f" by {row['labelled_by']}" if row["labelled_by"] else ""),
        }
        for row in nearest.to_dicts()
        if shown.has(row["image_id_a"]) and shown.has(row["image_id_b"])
    ]
