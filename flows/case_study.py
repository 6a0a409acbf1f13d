"""Flow `case-study`: the whole study, from collections to a report with verdicts."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.collect import collect
from flows.dedup import dedup
from flows.encode import encode
from flows.progress import counting, say, working
from flows.settings import Settings
from flows.shortfalls import see_if_it_fell_short
from flows.split import split
from storage.catalog import refresh_catalog
from storage.runs import RunRecord, recorded
from storage.s3_path import StorePath
from storage.store import Recipe, Store
from tasks.case_study.hypotheses import Plan, read_plan
from tasks.case_study.recipes import FIT_TABLES, TEST_TABLES, fit_recipe, report_recipe, tests_recipe
from tasks.case_study.report import publish_study, study_page, verdict_table
from tasks.case_study.steps import (
    check_settings,
    commit_case_study,
    fit_regional_heads,
    judge_hypotheses,
    record_plan,
    zero_shot_experiment,
)
from tasks.labels.label_set import load_label_set
from tasks.report.tables import markdown_table
from tasks.settings import SettingsError
from tasks.split.case_study import TRAINING_SETS
from tasks.split.settings import CaseStudySettings as CaseStudySplit


@flow(name="case-study", flow_run_name="case study of {settings.collect.title}", on_completion=[see_if_it_fell_short])
def case_study(settings: Settings) -> StorePath:
    """Collect, encode, make the study's data sets, fit its heads, test its hypotheses; returns the report's page.

    What is there already is not done again, and the hypotheses are written down before the first head is fitted.

    Raises
    ------
    SettingsError
        When the settings name no split of the kind case-study, or the hypotheses cannot be read.
    """
    if not any(isinstance(kind, CaseStudySplit) for kind in settings.split.splits):
        raise SettingsError("case-study: split.splits needs an entry `kind: case-study`, as in configs/case_study.yaml")
    plan = read_plan(Path(settings.case_study.hypotheses))
    store = Store(settings.store)
    with recorded(store, "case-study", settings.model_dump(mode="json")) as run:
        metrics = _fitted(store, settings, plan, run)
        tests = _tested(store, settings, plan, metrics, run)
        page = _published(store, settings, tests, metrics, run)
        refresh_catalog(store)
        return page


def _fitted(store: Store, settings: Settings, plan: Plan, run: RunRecord) -> Recipe:
    """See that everything up to the metrics is there."""
    images = collect(settings)
    made = encode(settings, images)
    found = store.version("images", images).read(["label"])["label"].drop_null().to_pylist()
    check_settings(settings.case_study, load_label_set(settings.labels, found), settings.encode.templates)
    duplicates = dedup(settings, made["embeddings"]) if settings.dedup.enabled else None
    splits = split(settings, images, duplicates, made["embeddings"])
    inputs = {"images": images, "splits": splits, **made}
    if duplicates is not None:
        inputs["duplicates"] = duplicates
    recipe = fit_recipe(settings.case_study, inputs, settings.labels)
    run.tables.update(inputs, **dict.fromkeys(FIT_TABLES, recipe.fingerprint))
    recorded_plan = record_plan(store, recipe, plan)
    run.figures["plan"] = {
        "hypotheses": plan.sha256,
        "recorded": recorded_plan["sha256"],
        "recorded_at": recorded_plan["recorded_at"],
    }
    if store.reuse(recipe, FIT_TABLES):
        run.reused.append("case-study")
        say("case-study: metrics %s are there", recipe.fingerprint)
        return recipe
    n_models = len(settings.case_study.heads.losses) * len(settings.case_study.seeds)
    with working("zero-shot experiment"):
        zero_shot_experiment(store.root, settings.case_study, recipe)
    for index, name in enumerate(TRAINING_SETS, start=1):
        with counting(f"heads on {name}", settings.case_study.heads.epochs) as on_epoch:
            fitted = fit_regional_heads(store.root, settings.case_study, recipe, index, name, on_epoch)
        say("case-study: %s: %d models %s", name, n_models, "are fitted" if fitted else "are there")
    n_metrics = commit_case_study(store.root, recipe, ["zero-shot", *TRAINING_SETS])
    say("case-study: %d metrics", n_metrics)
    return recipe


def _tested(store: Store, settings: Settings, plan: Plan, metrics: Recipe, run: RunRecord) -> Recipe:
    recipe = tests_recipe(settings.case_study, plan, metrics.fingerprint)
    run.tables.update(dict.fromkeys(TEST_TABLES, recipe.fingerprint))
    if store.reuse(recipe, TEST_TABLES):
        run.reused.append("tests")
    else:
        with working("test hypotheses"):
            judge_hypotheses(store.root, settings.case_study, recipe, plan)
    for row in verdict_table(store, recipe.fingerprint).iter_rows(named=True):
        say("case-study: %s %s: %s", row["hypothesis"], row["verdict"], row["claim"])
    return recipe


def _published(store: Store, settings: Settings, tests: Recipe, metrics: Recipe, run: RunRecord) -> StorePath:
    recipe = report_recipe(settings.case_study, tests.fingerprint, metrics.fingerprint)
    page = study_page(store, recipe)
    if page.is_file():
        run.reused.append("report")
        say("case-study: the report is there")
    else:
        with working("tables, figures, report"):
            publish_study(store.root, settings.case_study, recipe)
        verdicts = verdict_table(store, tests.fingerprint)
        create_table_artifact(key="verdicts", table=verdicts.to_dicts(), description=settings.case_study.title)
        create_markdown_artifact(key="case-study", markdown=markdown_table(verdicts), description=f"the report: {page}")
    say("case-study: %s", page)
    return page
