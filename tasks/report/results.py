"""The main results of a fit, for reports and for the terminal."""

from __future__ import annotations

import polars as pl

from storage.schemas import Part
from storage.store import Store
from tasks.report.tables import result_table


def main_results(store: Store, metrics: str | None = None) -> pl.DataFrame:
    """The results on the test part over all collections, of every split."""
    table = pl.DataFrame(store.version("metrics", metrics, step="fit").read())
    results = result_table(table.filter((pl.col("part") == Part.TEST.value) & (pl.col("source") == "all")))
    return results.drop("source", "part")
