"""The case study's report: one folder with a page, its tables and its figures, and nothing fetched from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jinja2
import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.atomic import write_bytes
from storage.s3_path import StorePath
from storage.store import Recipe, Store, write_recipe
from tasks.case_study.figures import StudyFigure, study_figures
from tasks.case_study.settings import SEEDS, StudySettings
from tasks.case_study.steps import recorded_plan
from tasks.case_study.tables import StudyTable, Versions, study_tables
from tasks.collect.countries import country_shapes
from tasks.report.figures import images_per_label, world_map
from tasks.report.thumbnails import data_address
from tasks.split.settings import CaseStudySettings as CaseStudySplit


def study_page(store: Store, recipe: Recipe) -> StorePath:
    """Where the report's page lies."""
    return store.root / "reports" / recipe.fingerprint / "index.html"


def verdict_table(store: Store, tests: str) -> pl.DataFrame:
    """Hypothesis, verdict, verdict by corrected p-values, and claim."""
    verdicts = pl.DataFrame(store.version("verdicts", tests).read())
    return verdicts.select("hypothesis", "verdict", "verdict_holm", "claim").sort("hypothesis")


@task(name="publish-case-study", task_run_name="publish case study", cache_policy=NO_CACHE)
def publish_study(root: StorePath, settings: StudySettings, recipe: Recipe) -> None:
    """Write what the report is made from, tables, figures and, last, ``index.html`` into the report's folder."""
    store = Store(root)
    folder = study_page(store, recipe).parent
    write_recipe(folder, recipe)
    metrics = store.version("metrics", recipe.inputs["metrics"])
    inputs = metrics.manifest["recipe"]["inputs"]
    versions = Versions(metrics.fingerprint, recipe.inputs["tests"], inputs["splits"], inputs["images"])
    tables = study_tables(
        store, versions, collections=settings.collections, loss=settings.figures.loss, published=settings.published
    )
    for table in tables.values():
        for name, content in table.files().items():
            write_bytes(folder / "tables" / name, content)
    drawn = []
    for figure in study_figures(store, settings, metrics):
        for kind, content in figure.files().items():
            write_bytes(folder / "figures" / f"{figure.name}.{kind}", content)
        drawn.append(figure.without_drawing())
    write_bytes(folder / "index.html", _page(store, settings, recipe, tables, drawn).encode())


def _page(
    store: Store, settings: StudySettings, recipe: Recipe, tables: dict[str, StudyTable], figures: list[StudyFigure]
) -> str:
    metrics = store.version("metrics", recipe.inputs["metrics"])
    made_from = metrics.manifest["recipe"]
    splits = store.version("splits", made_from["inputs"]["splits"])
    tests = store.version("tests", recipe.inputs["tests"])
    plan = recorded_plan(store, metrics.fingerprint)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.case_study"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        title=settings.title,
        style=files("tasks.report").joinpath("templates/style.css").read_text(encoding="utf-8"),
        encoder=str(store.version("embeddings", made_from["inputs"]["embeddings"]).notes["encoder"]),
        tables=tables,
        **_collections(store, made_from["inputs"]["images"]),
        figures={section: [each for each in figures if each.section == section] for section in _SECTIONS},
        differences=list(differences(settings, splits.manifest["recipe"]["settings"])),
        plan=plan,
        plan_now=tests.notes["sha256"],
        published=settings.published,
        n_models=len(settings.heads.losses) * len(settings.seeds),
        settings=settings,
        provenance=pl.DataFrame(
            {
                "table": [*made_from["inputs"], "metrics", "tests"],
                "version": [*made_from["inputs"].values(), metrics.fingerprint, tests.fingerprint],
            }
        ),
    )


def _collections(store: Store, images: str) -> dict[str, str]:
    """Images of each label, and on a map where labels are countries."""
    rows = pl.DataFrame(store.version("images", images).read(["source", "label", "latitude", "longitude"]))
    labelled = rows.drop_nulls("label")
    by_source = {
        str(source): Counter(of_source["label"].to_list())
        for (source,), of_source in labelled.group_by("source", maintain_order=True)
    }
    counts = Counter(labelled["label"].to_list())
    located = rows.drop_nulls(["latitude", "longitude"])
    on_map = any(country.label in counts for country in country_shapes())
    figures = {"per_label": images_per_label(by_source), "map": ""}
    if on_map:
        drawn = world_map(counts, located["latitude"].to_list(), located["longitude"].to_list())
        figures["map"] = data_address(drawn, "png")
    return figures


_SECTIONS = ("zero-shot", "heads", "confusions", "maps")


def differences(settings: StudySettings, split: dict[str, Any]) -> Iterator[str]:
    """How a run differs from the study, in sentences.

    Parameters
    ----------
    split
        Settings of the splits.
    """
    study, here = StudySettings().heads, settings.heads
    if here.loss_form == "nll":
        yield (
            "The loss is the negative log likelihood that the study's text describes. Its code gave the softmax output to a "
            "cross-entropy that applies a softmax again; loss_form=double-softmax does the same."
        )
    if here.epochs != study.epochs:
        yield f"Heads were trained for {here.epochs} epochs; the study's for {study.epochs}."
    if settings.seeds != SEEDS:
        yield f"{len(settings.seeds)} seeds were used, {', '.join(map(str, settings.seeds))}; the study has {len(SEEDS)}."
    for name in ("n_folds", "learning_rate", "region_scale", "precision"):
        if getattr(here, name) != getattr(study, name):
            yield f"{name} is {getattr(here, name)}; in the study {getattr(study, name)}."
    if (here.batch_size, here.batch_sizes) != (study.batch_size, study.batch_sizes):
        yield f"Batches have {here.batch_size} images; in the study {study.batch_size}, and 97 for the strongly balanced sets."
    if here.hidden is not None:
        yield f"Hidden layers are {here.hidden} wide; in the study as wide as the input."
    for kind in split["splits"]:
        if kind["kind"] == "case-study":
            yield from _caps(kind)
    if settings.collections:
        parts = ", ".join(f"{here} for {study}" for study, here in settings.collections.items())
        yield f"The collections are others than the study's: {parts}. Hypotheses about the study's are tested on these."


def _caps(kind: dict[str, Any]) -> Iterator[str]:
    study = CaseStudySplit()
    if kind["weak_cap"] != study.weak_cap:
        yield f"The weakly balanced sets have at most {kind['weak_cap']} images a class; the study's {study.weak_cap}."
    if kind["strong_cap"] != study.strong_cap:
        yield f"The strongly balanced sets have at most {kind['strong_cap']} images a class; the study's {study.strong_cap}."
    if kind["test_share"] != study.test_share:
        yield f"The trained test set is {kind['test_share']:g} of each collection; the study's {study.test_share:g}."
    fewest = (kind["default_min_per_class"], kind["min_per_class"])
    if fewest != (study.default_min_per_class, study.min_per_class):
        yield (
            f"Classes of fewer than {fewest[0]} images in a collection are not trained on; in the study of fewer than "
            f"{study.default_min_per_class}, and of fewer than 2 in its aerial collection."
        )
