"""Flow `fit`: embeddings, prompts, splits -> predictions, metrics."""

from __future__ import annotations

from prefect import flow

from flows.progress import say, working
from flows.settings import Settings
from flows.shortfalls import check_metrics, see_if_it_fell_short
from storage.errors import StoreError
from storage.runs import recorded
from storage.store import Store
from tasks.heads.recipes import fit_recipe
from tasks.heads.steps import fit_heads

TABLES = ("predictions", "metrics")


@flow(name="fit", flow_run_name="fit heads on {settings.collect.title}", on_completion=[see_if_it_fell_short])
def fit(
    settings: Settings, embeddings: str | None = None, prompts: str | None = None, splits: str | None = None
) -> str:
    """Fit the heads on the given versions (by default those made last); returns the fingerprint of the metrics.

    Raises
    ------
    StoreError
        When embeddings, prompts and split do not belong to the same images.
    """
    store = Store(settings.store)
    versions = {
        "embeddings": store.version("embeddings", embeddings),
        "prompts": store.version("prompts", prompts),
        "splits": store.version("splits", splits),
    }
    images = {name: version.manifest["recipe"]["inputs"]["images"] for name, version in versions.items()}
    if len(set(images.values())) > 1:
        listing = ", ".join(f"{name} to {image}" for name, image in images.items())
        raise StoreError(f"fit: the tables belong to different images ({listing}): run encode and split again")
    duplicates = versions["splits"].manifest["recipe"]["inputs"].get("duplicates")
    inputs = {
        "images": images["splits"],
        **{name: version.fingerprint for name, version in versions.items()},
        **({"duplicates": duplicates} if duplicates is not None else {}),
    }
    recipe = fit_recipe(settings.fit, inputs, settings.labels)
    with recorded(store, "fit", settings.model_dump(mode="json")) as run:
        run.tables.update(inputs, predictions=recipe.fingerprint, metrics=recipe.fingerprint)
        if store.reuse(recipe, TABLES):
            run.reused.append("fit")
            say("fit: nothing to do, metrics %s are there", recipe.fingerprint)
            return recipe.fingerprint
        with working("fit heads"):
            n_metrics = fit_heads(store.root, settings.fit, recipe)
        say("fit: %d metrics", n_metrics)
        check_metrics(run, settings.quality, store, store.version("metrics", recipe.fingerprint))
        return recipe.fingerprint
