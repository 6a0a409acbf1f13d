"""What the tables say about one collection: counts, sizes, dates, gaps, licences, duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from storage.schemas import RejectReason

_N_FREQUENT_SIZES = 5
_N_ATTRIBUTIONS = 10
# How `collect` says in `detail` that two byte-identical files have different labels.
_CONFLICT = ", where its label is "


@dataclass(frozen=True)
class Spread:
    """Five points of a distribution, interpolated linearly."""

    minimum: float
    percent_5: float
    median: float
    percent_95: float
    maximum: float


@dataclass(frozen=True)
class Profile:
    """One collection in figures. Mappings are sorted by count, the largest first, then by name.

    `n_inputs` = `n_kept` + `n_rejected` + `n_exact_duplicates`. `labels` + `n_unlabelled`, and `licences` +
    `n_unlicensed`, add up to `n_kept`; `rejects` (without exact duplicates) adds up to `n_rejected`.
    """

    n_inputs: int
    n_kept: int
    n_rejected: int
    n_exact_duplicates: int
    n_conflicting_duplicates: int
    rejects: Mapping[str, int]
    labels: Mapping[str, int]
    n_unlabelled: int
    spreads: Mapping[str, Spread]
    total_bytes: int
    frequent_sizes: tuple[tuple[int, int, int], ...]
    first_captured_at: str | None
    last_captured_at: str | None
    n_undated: int
    n_located: int
    missing: Mapping[str, int]
    licences: Mapping[str, int]
    n_unlicensed: int
    attributions: Mapping[str, int]
    n_attributions: int
    n_unattributed: int


def profile(images: pa.Table, rejects: pa.Table) -> Profile:
    """Profile one collection.

    Parameters
    ----------
    images
        Its rows of the table ``images``; may be none.
    rejects
        Its rows of the table ``rejects``.

    Returns
    -------
    Profile
        `spreads` has ``width``, ``height`` (pixels), ``aspect ratio`` and ``bytes``, and is empty without images;
        `frequent_sizes` has width, height and images; `missing` has every nullable column; `attributions` only the
        most frequent.
    """
    rows = pl.DataFrame(images)
    reasons = Counter(rejects["reason"].to_pylist())
    n_duplicates = reasons.pop(RejectReason.EXACT_DUPLICATE.value, 0)
    dates = rows["captured_at"].drop_nulls().sort()
    attributions = _counts(rows["attribution"])
    return Profile(
        n_inputs=images.num_rows + rejects.num_rows,
        n_kept=images.num_rows,
        n_rejected=rejects.num_rows - n_duplicates,
        n_exact_duplicates=n_duplicates,
        n_conflicting_duplicates=_conflicts(rejects),
        rejects=_sorted(reasons),
        labels=_counts(rows["label"]),
        n_unlabelled=rows["label"].null_count(),
        spreads=_spreads(rows),
        total_bytes=int(rows["bytes"].sum()),
        frequent_sizes=_frequent_sizes(rows),
        first_captured_at=dates[0].isoformat() if dates.len() else None,
        last_captured_at=dates[-1].isoformat() if dates.len() else None,
        n_undated=rows["captured_at"].null_count(),
        n_located=rows.select("latitude", "longitude").drop_nulls().height,
        missing={field.name: images[field.name].null_count for field in images.schema if field.nullable},
        licences=_counts(rows["licence"]),
        n_unlicensed=rows["licence"].null_count(),
        attributions=dict(list(attributions.items())[:_N_ATTRIBUTIONS]),
        n_attributions=len(attributions),
        n_unattributed=rows["attribution"].null_count(),
    )


def _conflicts(rejects: pa.Table) -> int:
    duplicates = pl.DataFrame(rejects).filter(pl.col("reason") == RejectReason.EXACT_DUPLICATE.value)
    return int(duplicates["detail"].str.contains(_CONFLICT, literal=True).sum())


def _spreads(rows: pl.DataFrame) -> dict[str, Spread]:
    if not rows.height:
        return {}
    columns = {
        "width": rows["width"],
        "height": rows["height"],
        "aspect ratio": rows["width"] / rows["height"],
        "bytes": rows["bytes"],
    }
    return {name: _spread(values.cast(pl.Float64)) for name, values in columns.items()}


def _spread(values: pl.Series) -> Spread:
    points = (values.quantile(share, interpolation="linear") for share in (0.0, 0.05, 0.5, 0.95, 1.0))
    return Spread(*(round(float(point), 6) for point in points if point is not None))


def _frequent_sizes(rows: pl.DataFrame) -> tuple[tuple[int, int, int], ...]:
    sizes = Counter(rows.select("width", "height").iter_rows())
    order = sorted(sizes, key=lambda size: (-sizes[size], size))
    return tuple((width, height, sizes[width, height]) for width, height in order[:_N_FREQUENT_SIZES])


def _counts(values: pl.Series) -> dict[str, int]:
    return _sorted(Counter(values.drop_nulls().to_list()))


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts, key=lambda name: (-counts[name], name))}
