"""Publish: from the tables of a fit to CSV, Markdown and a self-contained HTML report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.atomic import write_bytes
from storage.s3_path import StorePath
from storage.schemas import Part
from storage.store import Recipe, Store, TableVersion, write_recipe
from tasks.collect.countries import country_shapes
from tasks.geo import normal_points
from tasks.labels.label_set import LabelSet, load_label_set
from tasks.report.duplicates import duplicates_section
from tasks.report.figures import confusion_matrix, images_per_label, world_map
from tasks.report.results import main_results
from tasks.report.settings import PublishSettings
from tasks.report.splits import splits_section
from tasks.report.tables import markdown_table, result_table
from tasks.report.thumbnails import data_address, thumbnail

# Figures of the page that are files, too.
FIGURES = ("map.png", "images-per-label.svg", "confusion.svg")
_MAP_PX = 900


@task(name="publish-report", task_run_name="publish report", cache_policy=NO_CACHE)
def publish_report(root: StorePath, settings: PublishSettings, recipe: Recipe) -> None:
    """Write ``recipe.json``, ``metrics.csv``, ``results.md``, figures and, last, ``index.html`` into the report's folder."""
    store = Store(root)
    folder = store.root / "reports" / recipe.fingerprint
    tables = _read(store, recipe)
    write_recipe(folder, recipe)
    write_bytes(folder / "metrics.csv", tables.metrics.write_csv().encode())
    write_bytes(folder / "results.md", markdown_table(result_table(tables.metrics)).encode())
    page, figures = _page(store, settings, tables)
    for name, content in figures.items():
        write_bytes(folder / name, content)
    write_bytes(folder / "index.html", page.encode())


def report_images(folder: StorePath) -> Iterator[tuple[str, str]]:
    """Name and data address of each figure of a report, small enough for Prefect's pages."""
    for name in FIGURES:
        path = folder / name
        if path.is_file() and path.suffix == ".svg":
            yield path.stem, data_address(path.read_bytes(), "svg+xml")
        elif path.is_file():
            yield path.stem, thumbnail(path, _MAP_PX)


def report_summary(store: Store, recipe: Recipe) -> tuple[list[dict[str, Any]], str]:
    """Rows and Markdown of the main results, for Prefect's artifacts and the terminal."""
    table = main_results(store, recipe.inputs["metrics"])
    return table.to_dicts(), f"## Results on the test part\n\n{markdown_table(table)}"


@dataclass(frozen=True)
class _Tables:
    """Everything a report is made from."""

    version: TableVersion
    metrics: pl.DataFrame
    predictions: pl.DataFrame
    images: pl.DataFrame
    rejects: pl.DataFrame
    parts: pl.DataFrame
    splits: TableVersion
    duplicates: TableVersion | None
    encoder: str
    classes: LabelSet


def _read(store: Store, recipe: Recipe) -> _Tables:
    version = store.version("metrics", recipe.inputs["metrics"])
    made_from = version.manifest["recipe"]
    inputs = made_from["inputs"]

    def frame(table: str, fingerprint: str, columns: list[str] | None = None) -> pl.DataFrame:
        rows = pl.from_arrow(store.version(table, fingerprint).read(columns))
        return rows if isinstance(rows, pl.DataFrame) else rows.to_frame()

    images = frame("images", inputs["images"])
    splits = store.version("splits", inputs["splits"])
    # The report is on the first split that heads were fitted on; the others stand beside it in one table.
    main = store.version("predictions", version.fingerprint).notes["splits"][0]
    embeddings = store.version("embeddings", inputs["embeddings"])
    return _Tables(
        version=version,
        metrics=frame("metrics", version.fingerprint),
        predictions=frame(
            "predictions",
            version.fingerprint,
            ["split", "head", "configuration", "image_id", "label_true", "label_pred"],
        ).filter(pl.col("split") == main),
        images=images,
        rejects=frame("rejects", inputs["images"]),
        parts=frame("splits", inputs["splits"]).filter(pl.col("split") == main),
        splits=splits,
        duplicates=store.version("duplicates", inputs["duplicates"]) if "duplicates" in inputs else None,
        encoder=str(embeddings.notes["encoder"]),
        classes=load_label_set(made_from["settings"]["labels"], images["label"].drop_nulls().to_list()),
    )


def _page(store: Store, settings: PublishSettings, tables: _Tables) -> tuple[str, dict[str, bytes]]:
    """The page, and the figures of it that are files, too."""
    head, configuration = _best_head(tables.metrics)
    test_ids = tables.parts.filter(pl.col("part") == Part.TEST.value)["image_id"]
    judged = tables.predictions.filter(
        (pl.col("head") == head)
        & (pl.col("configuration") == configuration)
        & pl.col("image_id").is_in(test_ids.implode())
    )
    images, classes = tables.images, tables.classes
    counts = Counter(images["label"].drop_nulls().to_list())
    by_source = {
        source: Counter(images.filter(pl.col("source") == source)["label"].drop_nulls().to_list())
        for source in images["source"].unique().sort()
    }
    drawn = {country.label for country in country_shapes()}
    on_map = [label for label in counts if label in drawn]
    located = images.filter(pl.col("latitude").is_not_null() & pl.col("longitude").is_not_null())
    matrix, names = _confusion(judged, classes)
    every = result_table(tables.metrics)
    results = every.filter(pl.col("split") == tables.parts["split"][0]).drop("split")
    test, everywhere = pl.col("part") == Part.TEST.value, pl.col("source") == "all"
    unused = pl.col("source") != "all"
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    figures = {
        "images-per-label.svg": images_per_label(by_source).encode(),
        "confusion.svg": confusion_matrix(matrix, names).encode(),
    }
    if on_map:
        figures["map.png"] = world_map(counts, located["latitude"].to_list(), located["longitude"].to_list())
    page = environment.get_template("report.html").render(
        title=settings.title,
        style=files("tasks.report").joinpath("templates/style.css").read_text(encoding="utf-8"),
        encoder=tables.encoder,
        split=tables.parts["split"][0],
        fingerprint=tables.version.fingerprint,
        facts=[
            ("images", f"{images.height:,}"),
            ("collections", images["source"].n_unique()),
            ("labels", len(counts)),
            ("test images", f"{test_ids.len():,}"),
            ("refused inputs", f"{tables.rejects.height:,}"),
            *([] if tables.duplicates is None else [("near-duplicates", f"{tables.duplicates.counts['removed']:,}")]),
        ],
        near=None if tables.duplicates is None else duplicates_section(store, settings, tables.duplicates, images),
        results=results.filter(test & everywhere).drop("source", "part"),
        splits=splits_section(tables.splits, every.filter(test & everywhere).drop("source", "part"), images),
        by_source=results.filter(test & unused).drop("part"),
        zero_shot=results.filter((pl.col("part") == Part.ZERO_SHOT.value) & everywhere).drop("source", "part"),
        has_regions=classes.regions is not None,
        limits=_limits(tables),
        collections=_collections(tables),
        per_label=figures["images-per-label.svg"].decode(),
        map=data_address(figures["map.png"], "png") if on_map else "",
        not_on_map=sorted(set(counts) - drawn),
        rejects=tables.rejects.group_by("source", "reason").len("inputs").sort("source", "reason"),
        confusion=figures["confusion.svg"].decode(),
        confusion_of=f"{head}, {configuration}",
        confusion_unit="region" if classes.regions is not None else "label",
        examples=_examples(store, settings, tables, judged),
        provenance=_provenance(tables),
        attributions=sorted(set(images["attribution"].drop_nulls().to_list())),
    )
    return page, figures


def _best_head(metrics: pl.DataFrame) -> tuple[str, str]:
    """Head and configuration of the highest accuracy on the test part."""
    rows = metrics.filter(
        (pl.col("metric") == "accuracy") & (pl.col("part") == Part.TEST.value) & (pl.col("source") == "all")
    )
    rows = rows.filter(pl.col("split") == rows["split"][0]).sort("value", descending=True, maintain_order=True)
    return str(rows["head"][0]), str(rows["configuration"][0])


def _limits(tables: _Tables) -> list[str]:
    """What a reader must know before quoting a number."""
    located = tables.images.drop_nulls(["latitude", "longitude"])
    points = normal_points(located["latitude"].to_numpy(), located["longitude"].to_numpy())
    n_places, n_without = len(np.unique(points, axis=0)), tables.images.height - located.height
    limits = [
        *_neighbours(tables),
        "The best configuration of the confusion matrix and the examples was picked by its test accuracy.",
    ]
    if n_places:
        without = f"; {n_without:,} images have none, and each counts as one" if n_without else ""
        limits.append(f"Images come from {n_places:,} places{without}; intervals resample places, not images.")
    if "placeprint-demo" in tables.encoder:
        limits.append(
            "placeprint-demo is a small encoder for trying the tool offline: it knows patches of three world maps, not "
            "photographs, and not every country. docs/demo-encoder.md has its figures, and the cells it was trained on."
        )
    return limits


def _neighbours(tables: _Tables) -> list[str]:
    """What a split that does not keep regions whole gives away."""
    mapped = tables.splits.notes["mapped"]
    if tables.parts["split"][0] in mapped:
        return []
    beside = (
        f"the split {mapped[0]}, in the table split by split, keeps cells whole"
        if mapped
        else "a spatial split would score lower"
    )
    return [
        "The split is random within a class. Neighbouring places lie in both parts, so a fitted head is helped by what it has "
        f"seen next door; {beside}. Zero-shot scores are not affected."
    ]


def _collections(tables: _Tables) -> pl.DataFrame:
    """Images, labels and parts of each collection."""
    parts = tables.parts.select("image_id", "part")
    if tables.duplicates is not None:
        removed = pl.DataFrame(tables.duplicates.read(["image_id", "kept"])).filter(~pl.col("kept"))
        parts = pl.concat([parts, removed.select("image_id", pl.lit("near-duplicate").alias("part"))])
    joined = tables.images.join(parts, on="image_id", how="left").with_columns(pl.col("part").fill_null("unlabelled"))
    counts = joined.pivot(on="part", index="source", values="image_id", aggregate_function="len").fill_null(0)
    sizes = tables.images.group_by("source").agg(
        pl.len().alias("images"),
        pl.col("label").n_unique().alias("labels"),
        (pl.col("bytes").sum() / 1e6).round(1).alias("MB"),
    )
    return sizes.join(counts, on="source").sort("source")


def _confusion(judged: pl.DataFrame, classes: LabelSet) -> tuple[np.ndarray, list[str]]:
    """Counts by region (by label where there are no regions): truth down, prediction across."""
    group_of = dict(zip(classes.names, classes.regions or classes.names, strict=True))
    truth = [group_of[label] for label in judged["label_true"]]
    predicted = [group_of[label] for label in judged["label_pred"]]
    names = sorted(set(truth) | set(predicted))
    position = {name: index for index, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)))
    np.add.at(matrix, ([position[name] for name in truth], [position[name] for name in predicted]), 1)
    return matrix, names


def _examples(store: Store, settings: PublishSettings, tables: _Tables, judged: pl.DataFrame) -> list[dict[str, str]]:
    """Random test images with what was predicted for them."""
    chosen = judged.sort("image_id").sample(min(settings.n_examples, judged.height), seed=settings.seed)
    known = tables.images.unique("image_id", keep="first", maintain_order=True).select("image_id", "file", "source")
    group_of = dict(zip(tables.classes.names, tables.classes.regions or tables.classes.names, strict=True))
    examples = []
    for row in chosen.join(known, on="image_id", how="left", maintain_order="left").iter_rows(named=True):
        truth, predicted = row["label_true"], row["label_pred"]
        same_region = group_of[truth] == group_of[predicted]
        examples.append(
            {
                "image": thumbnail(store.root / row["file"]),
                "truth": truth,
                "predicted": predicted,
                "verdict": "right" if truth == predicted else "near" if same_region else "wrong",
                "source": row["source"],
            }
        )
    return examples


def _provenance(tables: _Tables) -> pl.DataFrame:
    """The version of each table that was read."""
    inputs = {**tables.version.manifest["recipe"]["inputs"], "metrics": tables.version.fingerprint}
    return pl.DataFrame({"table": list(inputs), "version": list(inputs.values())})
