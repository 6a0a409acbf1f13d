"""Flow `pipeline`: collect -> encode -> dedup -> split -> fit -> publish, each only where something is missing."""

from __future__ import annotations

from prefect import flow

from flows.collect import collect
from flows.dedup import dedup
from flows.encode import encode
from flows.fit import fit
from flows.plan import Plan
from flows.progress import say
from flows.publish import publish, show_report
from flows.settings import Settings
from flows.shortfalls import see_if_it_fell_short
from flows.split import split
from storage.catalog import refresh_catalog
from storage.runs import RunRecord, recorded
from storage.s3_path import StorePath
from storage.store import Store
from tasks.report.recipes import report_recipe


@flow(name="pipeline", flow_run_name="pipeline of {settings.collect.title}", on_completion=[see_if_it_fell_short])
def pipeline(settings: Settings) -> StorePath | None:
    """Run the whole pipe; returns the report's page, or None where there are no labels to learn from."""
    store = Store(settings.store)
    with recorded(store, "pipeline", settings.model_dump(mode="json")) as run:
        page = _finished_page(store, settings, run)
        if page is not None:
            return page
        images = collect(settings)
        made = encode(settings, images)
        labels = store.version("images", images).read(["label"])["label"].unique()
        if len(labels.drop_null()) < 2:
            refresh_catalog(store)
            say("pipeline: fewer than two labels, so no split, heads and report; `sql` and `search` work")
            return None
        duplicates = dedup(settings, made["embeddings"]) if settings.dedup.enabled else None
        splits = split(settings, images, duplicates, made["embeddings"])
        metrics = fit(settings, made["embeddings"], made["prompts"], splits)
        page = publish(settings, metrics)
        show_report(store, settings, report_recipe(settings.publish, metrics))
        refresh_catalog(store)
        return page


def _finished_page(store: Store, settings: Settings, run: RunRecord) -> StorePath | None:
    """The report's page where everything is there: seen at once, without a flow run for each stage."""
    plan = Plan.of(settings)
    page = plan.finished_page(store, settings) if plan is not None else None
    if plan is None or page is None:
        return None
    dedup_too = [] if plan.duplicates is None else ["dedup"]
    run.reused += ["collect", "embeddings", "prompts", *dedup_too, "split", "fit", "publish"]
    run.tables.update(plan.metrics.inputs, metrics=plan.metrics.fingerprint)
    refresh_catalog(store)
    say("pipeline: nothing to do, the report is there: %s", page)
    return page
