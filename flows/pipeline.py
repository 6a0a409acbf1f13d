"""Flow `pipeline`: collect -> encode -> dedup -> split -> fit -> publish, each only where something is missing."""

from __future__ import annotations

from prefect import flow

from flows.collect import collect
from flows.dedup import dedup
from flows.encode import encode
from flows.fit import fit
from flows.progress import say
from flows.publish import publish
from flows.settings import Settings
from flows.shortfalls import end_with_warning
from flows.split import split
from storage.catalog import refresh_catalog
from storage.runs import recorded
from storage.s3_path import StorePath
from storage.store import Store


@flow(name="pipeline", flow_run_name="pipeline of {settings.collect.title}", on_completion=[end_with_warning])
def pipeline(settings: Settings) -> StorePath | None:
    """Run the whole pipe; returns the report's page, or None where there are no labels to learn from."""
    store = Store(settings.store)
    with recorded(store, "pipeline", settings.model_dump(mode="json")):
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
        refresh_catalog(store)
        return page
