"""Metric tables for people: one row a head and configuration, with intervals."""

from __future__ import annotations

import polars as pl

# Column title of each metric, in the order of the tables. Shares are shown in percent.
PERCENT = {"accuracy": "accuracy %", "top5_accuracy": "top-5 %", "region_accuracy": "region %"}
PLAIN = {
    "mixed_precision": "mixed P",
    "mixed_recall": "mixed R",
    "mixed_f1": "mixed F1",
    "mixed_f1_harmonic": "mixed F1 (harm.)",
    "mixed_missed": "missed",
}
KEYS = ["split", "head", "configuration", "source", "part", "n"]


def result_table(metrics: pl.DataFrame) -> pl.DataFrame:
    """Metrics in wide form, one text cell a metric: ``12.3 [11.0, 13.6]`` where there is an interval.

    Parameters
    ----------
    metrics
        Rows of the table ``metrics``.

    Returns
    -------
    DataFrame
        Columns `split`, `head`, `configuration`, `source`, `part`, `n`, then one a metric that occurs.
    """
    titles = {**PERCENT, **PLAIN}
    cells = metrics.filter(pl.col("metric").is_in(list(titles))).with_columns(
        pl.struct("metric", "value", "lower", "upper").map_elements(_cell, return_dtype=pl.String).alias("cell"),
        pl.col("metric").replace_strict(titles).alias("title"),
    )
    wide = cells.pivot(on="title", index=KEYS, values="cell", maintain_order=True)
    return wide.select(KEYS + [title for title in titles.values() if title in wide.columns])


def markdown_table(table: pl.DataFrame) -> str:
    """The table in Markdown; a bar in a cell is escaped."""
    rows = [table.columns, ["---"] * table.width, *([str(cell) for cell in row] for row in table.iter_rows())]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows) + "\n"


def _cell(row: dict[str, float | str | None]) -> str:
    metric, value, lower, upper = row["metric"], float(row["value"] or 0.0), row["lower"], row["upper"]
    if metric in PERCENT:
        text = f"{100 * value:.1f}"
        return (
            text if lower is None or upper is None else f"{text} [{100 * float(lower):.1f}, {100 * float(upper):.1f}]"
        )
    return f"{value:.0f}" if metric == "mixed_missed" else f"{value:.3f}"
