"""The study's tables: each is the answer to a query that is printed under it, and a form for people."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from storage.catalog import query
from storage.errors import StoreError
from storage.store import Store
from tasks.case_study.published import MEANS, SDS_F1, SETS, T_F1, ZERO_SHOT
from tasks.report.tables import markdown_table
from tasks.statistics import apa_p

METRICS = {"mixed_precision": "P", "mixed_recall": "R", "mixed_f1": "F1"}


@dataclass(frozen=True)
class StudyTable:
    """A table of the report: `numbers` as the query gives them, `shown` as text cells."""

    name: str
    title: str
    note: str
    sql: str
    numbers: pl.DataFrame
    shown: pl.DataFrame = field(repr=False)

    def files(self) -> dict[str, bytes]:
        """The table as Parquet and CSV (numbers), Markdown and LaTeX (text), by file name."""
        parquet = io.BytesIO()
        self.numbers.write_parquet(parquet)
        return {
            f"{self.name}.parquet": parquet.getvalue(),
            f"{self.name}.csv": self.numbers.write_csv().encode(),
            f"{self.name}.md": markdown_table(self.shown).encode(),
            f"{self.name}.tex": latex_table(self.shown, self.title).encode(),
        }


@dataclass(frozen=True)
class Versions:
    """Fingerprints of the tables that a report reads."""

    metrics: str
    tests: str
    splits: str
    images: str


def study_tables(
    store: Store, versions: Versions, *, collections: Mapping[str, str], loss: str, published: bool
) -> dict[str, StudyTable]:
    """All tables of the report, by name.

    Parameters
    ----------
    collections
        Study's name of a collection -> the one here that plays its part.
    loss
        Under which single classes are shown.
    published
        Print the study's numbers in brackets beside ours.
    """
    beside = collections if published else None
    made = [
        _images(store, versions, beside, published),
        _training_sets(store, versions, published),
        _zero_shot(store, versions, collections, published),
        _heads(store, versions, published),
        _heads_with_sd(store, versions, published),
        _pairs_of_losses(store, versions, published),
        *(
            _heads_on(store, versions, part, title)
            for part, title in (
                ("zero_shot", "Classes that no head has seen: only the right region can be credited"),
                ("validation", "Last epoch, each image judged before the head learned from it in that epoch"),
            )
        ),
        _regions(store, versions),
        _classes(store, versions, loss),
        _hypotheses(store, versions),
        _verdicts(store, versions),
    ]
    return {each.name: each for each in made}


def latex_table(shown: pl.DataFrame, caption: str) -> str:
    """A booktabs table."""
    rows = [" & ".join(map(_latex, row)) + r" \\" for row in shown.iter_rows()]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * shown.width}}}",
            r"\toprule",
            " & ".join(map(_latex, shown.columns)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "ε": r"$\varepsilon$",
        "±": r"$\pm$",
        **{each: f"\\{each}" for each in "&%$#_{}"},
    }
)


def _latex(cell: object) -> str:
    return str(cell).translate(_LATEX)


def _asked(store: Store, sql: str) -> pl.DataFrame:
    relation = query(store, sql)
    if relation is None:
        raise StoreError(f"the query gives no rows: {sql}")
    found: pl.DataFrame = relation.pl()
    return found


def _images(store: Store, versions: Versions, beside: Mapping[str, str] | None, published: bool) -> StudyTable:
    sql = f"""with used as (
  select part, image_id, any_value(source) as source from splits_at('{versions.splits}')
  join (select image_id, min(source) as source from images_at('{versions.images}') group by image_id) using (image_id)
  where part in ('test', 'zero_shot') group by part, image_id)
select part, source, count(*) as images from used group by all order by part, source"""
    numbers = _asked(store, sql)
    wide = numbers.pivot(on="source", index="part", values="images").fill_null(0)
    sources = [name for name in wide.columns if name != "part"]
    names = {"test": "trained-test", "zero_shot": "zero-shot"}
    rows = []
    for row in wide.iter_rows(named=True):
        printed = SETS[names[row["part"]]] if published else None
        study = _places(sources, beside)
        cells = {name: _beside(f"{row[name]:,}", _at(printed, study.get(name))) for name in sources}
        total = _beside(f"{sum(row[name] for name in sources):,}", _at(printed, 3))
        rows.append({"set": names[row["part"]], **cells, "sum": total})
    title = "Table 1. Images of the test sets, by collection"
    return StudyTable("table-1", title, "", sql, numbers, pl.DataFrame(rows))


def _training_sets(store: Store, versions: Versions, published: bool) -> StudyTable:
    sql = f"""select split, source, count(*) as images, count(distinct stratum) as classes
from splits_at('{versions.splits}')
join (select image_id, min(source) as source from images_at('{versions.images}') group by image_id) using (image_id)
where part = 'train' group by all order by split, source"""
    numbers = _asked(store, sql)
    order = store.version("splits", versions.splits).notes["splits"]
    sources = numbers["source"].unique().sort().to_list()
    rows = []
    for name in order:
        counts = {row["source"]: row["images"] for row in numbers.filter(pl.col("split") == name).iter_rows(named=True)}
        total = sum(counts.values())
        rows.append(
            {
                "training set": name,
                **{source: f"{counts.get(source, 0):,}" for source in sources},
                "sum": _beside(f"{total:,}", SETS[name][3] if published and name in SETS else None),
                "mixed in": f"{100 * (1 - max(counts.values()) / total):.1f} %",
            }
        )
    return StudyTable(
        "table-2", "Table 2. Images of the training sets, by collection", "", sql, numbers, pl.DataFrame(rows)
    )


def _zero_shot(store: Store, versions: Versions, collections: Mapping[str, str], published: bool) -> StudyTable:
    sql = f"""select source, configuration as prompt, median(value) as median, avg(value) as mean, stddev_samp(value) as sd, count(*) as folds
from metrics_at('{versions.metrics}')
where experiment = 'zero-shot' and part = 'fold' and metric = 'mixed_f1' group by all order by source, prompt"""
    numbers = _asked(store, sql)
    study = {here: name for name, here in collections.items()}
    rows = []
    for row in numbers.iter_rows(named=True):
        printed = ZERO_SHOT.get((study.get(row["source"], row["source"]), row["prompt"])) if published else None
        rows.append(
            {
                "collection": row["source"],
                "prompt": row["prompt"],
                "median": f"{row['median']:.3f}",
                "M": _beside(f"{row['mean']:.3f}", _at(printed, 0)),
                "SD": _beside(f"{row['sd']:.3f}", _at(printed, 1)),
            }
        )
    note = f"Mixed F1 over {numbers['folds'][0]} folds of each collection."
    return StudyTable("zero-shot", "Zero-shot classification, by prompt", note, sql, numbers, pl.DataFrame(rows))


def _heads_sql(versions: Versions, part: str) -> str:
    return f"""select split, configuration as loss, count(distinct seed) as models,
  {", ".join(f"avg(value) filter (metric = '{name}') as {column}, stddev_samp(value) filter (metric = '{name}') as {column}_sd" for name, column in _HEAD_COLUMNS.items())}
from metrics_at('{versions.metrics}')
where experiment = 'regional' and part = '{part}' and source = 'all' group by all order by split, loss"""


_HEAD_COLUMNS = {
    **METRICS,
    "mixed_f1_harmonic": "F1_harmonic",
    "mixed_missed": "missed",
    "accuracy": "accuracy",
    "region_accuracy": "region_accuracy",
}


def _ordered(store: Store, versions: Versions, numbers: pl.DataFrame) -> pl.DataFrame:
    """Rows in the order of the splits, and of the losses as the settings name them."""
    order = {name: position for position, name in enumerate(store.version("splits", versions.splits).notes["splits"])}
    return numbers.sort(pl.col("split").replace_strict(order, default=len(order)), "loss", maintain_order=True)


def _heads(store: Store, versions: Versions, published: bool) -> StudyTable:
    sql = _heads_sql(versions, "test")
    numbers = _ordered(store, versions, _asked(store, sql))
    rows = []
    for row in numbers.iter_rows(named=True):
        printed = MEANS.get((row["split"], row["loss"])) if published else None
        cells = {
            column: _beside(f"{row[column]:.3f}", _at(printed, place)) for place, column in enumerate(METRICS.values())
        }
        rows.append(
            {
                "training set": row["split"],
                "loss": row["loss"],
                **cells,
                "F1 (harm.)": f"{row['F1_harmonic']:.3f}",
                "missed": f"{row['missed']:.1f}",
                "accuracy %": f"{100 * row['accuracy']:.1f}",
                "region %": _percent(row["region_accuracy"]),
            }
        )
    models = numbers["models"][0]
    note = f"Means over {models} models of each training set and loss, on the trained test set. F1 is the mean of the classes' F1."
    return StudyTable("table-3", "Table 3. Mixed metrics of the heads", note, sql, numbers, pl.DataFrame(rows))


def _heads_with_sd(store: Store, versions: Versions, published: bool) -> StudyTable:
    sql = _heads_sql(versions, "test")
    numbers = _ordered(store, versions, _asked(store, sql))
    rows = []
    for row in numbers.iter_rows(named=True):
        cells = {column: f"M = {row[column]:.3f}, SD = {row[f'{column}_sd'] or 0:.3f}" for column in METRICS.values()}
        if published:
            cells["F1"] = _beside(cells["F1"], SDS_F1.get((row["split"], row["loss"])))
        rows.append({"training set": row["split"], "loss": row["loss"], **cells})
    return StudyTable("table-4", "Table 4. Means and standard deviations", "", sql, numbers, pl.DataFrame(rows))


def _heads_on(store: Store, versions: Versions, part: str, note: str) -> StudyTable:
    sql = _heads_sql(versions, part)
    numbers = _ordered(store, versions, _asked(store, sql))
    rows = [
        {
            "training set": row["split"],
            "loss": row["loss"],
            **{column: f"{row[column]:.3f} ± {row[f'{column}_sd'] or 0:.3f}" for column in METRICS.values()},
            "accuracy %": f"{100 * row['accuracy']:.1f}",
            "region %": _percent(row["region_accuracy"]),
        }
        for row in numbers.iter_rows(named=True)
    ]
    titles = {"zero_shot": "Zero-shot test set", "validation": "Validation"}
    schema = ["training set", "loss", *METRICS.values(), "accuracy %", "region %"]
    return StudyTable(
        f"heads-{part.replace('_', '-')}",
        titles[part],
        note + "." if rows else "There are no such images.",
        sql,
        numbers,
        pl.DataFrame(rows, schema=dict.fromkeys(schema, pl.String)),
    )


def _tests_sql(versions: Versions, where: str) -> str:
    return f"""select hypothesis, scope ->> '$.split' as split, scope ->> '$.source' as source, scope ->> '$.configuration' as prompt, scope ->> '$.metric' as metric,
  coalesce(a ->> '$.configuration', a ->> '$.split', a ->> '$.source') as a, coalesce(b ->> '$.configuration', b ->> '$.split', b ->> '$.source') as b,
  test, alternative, n_a, mean_a, sd_a, n_b, mean_b, sd_b, statistic, df, pvalue, pvalue_holm, effect_size, aso, apa, outcome, outcome_holm, note
from tests_at('{versions.tests}') where {where} order by all"""


def _pairs_of_losses(store: Store, versions: Versions, published: bool) -> StudyTable:
    sql = _tests_sql(versions, "starts_with(hypothesis, 'table-5-')")
    numbers = _asked(store, sql)
    order = store.version("splits", versions.splits).notes["splits"]
    rows = []
    for split in order:
        of_split = numbers.filter(pl.col("split") == split)
        for a, b in of_split.select("a", "b").unique(maintain_order=True).sort("a", "b").iter_rows():
            cells = {}
            for metric, column in METRICS.items():
                found = of_split.filter((pl.col("a") == a) & (pl.col("b") == b) & (pl.col("metric") == metric))
                cells[column] = _test_cell(found.row(0, named=True)) if found.height else ""
            if published:
                cells["F1"] = _beside(cells["F1"], T_F1.get((split, a, b)))
            rows.append({"training set": split, "losses": f"{a} | {b}", **cells})
    schema = dict.fromkeys(["training set", "losses", *METRICS.values()], pl.String)
    note = "Independent two-sided t-tests over the models' scores. p (Holm) is corrected for all comparisons of a metric, g is Hedges'."
    return StudyTable(
        "table-5", "Table 5. Every two losses compared", note, sql, numbers, pl.DataFrame(rows, schema=schema)
    )


def _test_cell(row: Mapping[str, object]) -> str:
    if row["apa"] is None:
        return str(row["note"])
    return f"{row['apa']} (Holm {_apa(row['pvalue_holm'])}), g = {_signed(row['effect_size'])}"


def _apa(pvalue: object) -> str:
    return apa_p(float(str(pvalue)))


def _signed(effect: object) -> str:
    return "not defined" if effect is None or effect != effect else f"{float(str(effect)):.2f}"


def _regions(store: Store, versions: Versions) -> StudyTable:
    sql = f"""select name as region, split, configuration as loss, avg(recall) as accuracy, stddev_samp(recall) as sd, any_value(n_true) as images
from class_metrics_at('{versions.metrics}')
where experiment = 'regional' and level = 'region' and part = 'test' and source = 'all' and n_true > 0 group by all order by all"""
    numbers = _asked(store, sql)
    shown = (
        numbers.with_columns((100 * pl.col("accuracy")).round(1).cast(pl.String).alias("cell"))
        .with_columns((pl.col("split") + ", " + pl.col("loss")).alias("head"))
        .pivot(on="head", index=["region", "images"], values="cell")
        .fill_null("")
        .with_columns(pl.col("images").cast(pl.String))
        if numbers.height
        else pl.DataFrame(schema={"region": pl.String, "images": pl.String})
    )
    note = "Share of each region's test images whose predicted class lies in it, in percent, mean over the models."
    return StudyTable("regions", "Accuracy by region", note, sql, numbers, shown)


def _classes(store: Store, versions: Versions, loss: str) -> StudyTable:
    sql = f"""select name as class, split, configuration as loss, avg(n_true) as images, avg(n_predicted) as predicted,
  avg(precision) as P, avg(recall) as R, avg(f1) as F1
from class_metrics_at('{versions.metrics}')
where experiment = 'regional' and level = 'label' and part = 'test' and source = 'all' group by all order by all"""
    numbers = _asked(store, sql)
    under = numbers.filter(pl.col("loss") == loss)
    shown = (
        under.with_columns(
            pl.col("F1").round(3).cast(pl.String), pl.col("images").round(0).cast(pl.Int64).cast(pl.String)
        )
        .pivot(on="split", index=["class", "images"], values="F1")
        .fill_null("")
        if under.height
        else pl.DataFrame(schema={"class": pl.String, "images": pl.String})
    )
    note = f"Mixed F1 of each class under the loss {loss}, mean over the models that have the class in truth or predictions."
    return StudyTable("classes", "Class by class", note, sql, numbers, shown)


def _hypotheses(store: Store, versions: Versions) -> StudyTable:
    sql = _tests_sql(versions, "not starts_with(hypothesis, 'table-5-')")
    numbers = _asked(store, sql)
    rows = [
        {
            "hypothesis": row["hypothesis"],
            "on": ", ".join(
                str(row[name]) for name in ("source", "split", "prompt") if row[name] and row[name] != "all"
            ),
            "a": row["a"],
            "b": row["b"],
            "a: M (SD)": _mean(row["mean_a"], row["sd_a"]),
            "b: M (SD)": _mean(row["mean_b"], row["sd_b"]),
            "test": row["apa"] or row["note"],
            "p (Holm)": "" if row["pvalue_holm"] is None else _apa(row["pvalue_holm"]),
            "effect": _signed(row["effect_size"]),
            "ε (ASO)": "" if row["aso"] is None else f"{row['aso']:.2f}",
            "outcome": row["outcome"],
        }
        for row in numbers.iter_rows(named=True)
    ]
    note = (
        "a is claimed to be greater than b. The outcome is by the plain p; Holm's correction is over the comparisons of a hypothesis. "
        "The effect is Cohen's d_z for tests of paired folds, else Hedges' g. ε below 0.5: a is almost stochastically dominant."
    )
    return StudyTable("hypotheses", "Tests of the hypotheses", note, sql, numbers, pl.DataFrame(rows))


def _verdicts(store: Store, versions: Versions) -> StudyTable:
    sql = f"select * from verdicts_at('{versions.tests}') order by hypothesis"
    numbers = _asked(store, sql)
    shown = numbers.select(
        "hypothesis",
        "claim",
        "verdict",
        pl.col("verdict_holm").alias("verdict (Holm)"),
        pl.col("supports", "contradicts", "neither", "untestable").cast(pl.String),
        pl.concat_str(pl.col("accepted_if"), pl.lit(" must support it at α = "), pl.col("alpha").cast(pl.String)).alias(
            "rule"
        ),
    )
    note = (
        "Accepted: as many comparisons as the rule says support the claim, and none contradicts it. Rejected: some contradict it and none "
        "supports it. Otherwise not supported. Comparisons that cannot be tested count for nothing."
    )
    return StudyTable("verdicts", "Verdicts", note, sql, numbers, shown)


def _places(sources: list[str], beside: Mapping[str, str] | None) -> dict[str, int]:
    """Source -> its place among the study's three."""
    study = [(beside or {}).get(name, name) for name in ("geoguessr", "tourist", "aerial")]
    return {name: study.index(name) for name in sources if name in study}


def _at(printed: tuple[float | None, ...] | None, place: int | None) -> float | None:
    return None if printed is None or place is None else printed[place]


def _beside(own: str, printed: float | None) -> str:
    return own if printed is None else f"{own} [{printed:,}]"


def _mean(mean: float | None, sd: float | None) -> str:
    return "" if mean is None or sd is None else f"{mean:.3f} ({sd:.3f})"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
