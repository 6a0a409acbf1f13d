"""Flow `collect`: sources -> images, rejects."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.progress import gather, say, working
from flows.settings import Settings
from storage.runs import recorded
from storage.store import Store
from tasks.collect.sources import open_sources
from tasks.collect.steps import collect_recipe, collect_shard, commit_images, list_source

TABLES = ("rejects", "images")

RUNNER: Any = ThreadPoolTaskRunner(max_workers=4)  # its type parameters do not fit its own decorator's


@flow(name="collect", flow_run_name="collect", task_runner=RUNNER)
def collect(settings: Settings) -> str:
    """Collect every source of the settings; returns the fingerprint of the tables."""
    store = Store(settings.store)
    recipe = collect_recipe(settings.collect, settings.labels)
    with recorded(store, "collect", settings.model_dump(mode="json")) as run:
        run.tables["images"] = run.tables["rejects"] = recipe.fingerprint
        if store.reuse(recipe, TABLES):
            run.reused.append("collect")
            say("collect: nothing to do, images %s are there", recipe.fingerprint)
            return recipe.fingerprint
        names = [source.name for source in open_sources(settings.collect.sources)]
        with working("list sources"):
            n_items = {name: list_source(settings.collect, name, settings.labels) for name in names}
        work = store.new_work_folder()
        step = settings.collect.shard_size
        shards = [(name, start, min(start + step, n)) for name, n in n_items.items() for start in range(0, n, step)]
        futures = [
            collect_shard.submit(store.root, settings.collect, work, name, start, stop) for name, start, stop in shards
        ]
        gather("collect", futures, [stop - start for _, start, stop in shards])
        counts = commit_images(store.root, recipe, work, sum(n_items.values()))
        say(
            "collect: %d inputs = %d kept + %d rejected + %d exact duplicates",
            *(counts[name] for name in ("listed", "kept", "rejected", "exact_duplicates")),
        )
        return recipe.fingerprint
