"""Flow `split`: images, duplicates -> splits."""

from __future__ import annotations

from prefect import flow

from flows.progress import say, working
from flows.settings import Settings
from storage.runs import recorded
from storage.store import Store
from tasks.dedup.kept import duplicates_for
from tasks.split.steps import split_images, split_recipe


@flow(name="split", flow_run_name="split")
def split(settings: Settings, images: str | None = None, duplicates: str | None = None) -> str:
    """Share out the images (by default those collected last) that dedup keeps; returns the fingerprint of the split.

    Raises
    ------
    StoreError
        When `dedup` is on, and was not run on these images.
    """
    store = Store(settings.store)
    source = store.version("images", images).fingerprint
    removed = duplicates_for(store, source, duplicates) if settings.dedup.enabled else None
    recipe = split_recipe(settings.split, source, removed)
    with recorded(store, "split", settings.model_dump(mode="json")) as run:
        run.tables.update(recipe.inputs, splits=recipe.fingerprint)
        if store.reuse(recipe, ["splits"]):
            run.reused.append("split")
            say("split: nothing to do, split %s is there", recipe.fingerprint)
            return recipe.fingerprint
        with working("split"):
            counts = split_images(store.root, settings.split, recipe)
        say("split: %s", ", ".join(f"{count} {part}" for part, count in sorted(counts.items())))
        return recipe.fingerprint
