"""Metrics that fell from one run to the next by more than chance explains."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

KEYS = ("experiment", "head", "configuration", "seed", "split", "part", "source", "metric", "fold")


def drops(now: pl.DataFrame, before: pl.DataFrame, metrics: Sequence[str]) -> pl.DataFrame:
    """Metrics of a run that lie below the 95 % interval of the same metric in an earlier one.

    Parameters
    ----------
    now, before
        Rows of the table ``metrics`` of two of its versions.
    metrics
        Names of those of which more is better, such as ``accuracy``.

    Returns
    -------
    DataFrame
        The columns that name a metric, then `value` (of now), `value_before` and `lower_before`; the deepest fall first. Rows
        without an interval, or in one of the two only, are not judged.
    """
    lower = pl.coalesce("lower", "lower_image").alias("lower_before")
    known = before.select(*KEYS, pl.col("value").alias("value_before"), lower)
    wanted = now.filter(pl.col("metric").is_in(list(metrics))).select(*KEYS, "value")
    joined = wanted.join(known, on=KEYS, how="inner", nulls_equal=True)
    fallen = joined.filter(pl.col("value") < pl.col("lower_before"))
    return fallen.sort(pl.col("value") - pl.col("value_before"), *KEYS)
