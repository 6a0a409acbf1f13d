"""Flow `dedup`: images, embeddings -> pairs, duplicates."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.progress import say, working
from flows.settings import Settings
from flows.shortfalls import see_if_it_fell_short
from storage.errors import StoreError
from storage.runs import recorded
from storage.store import Store, TableVersion
from tasks.dedup.recipes import TABLES, dedup_recipe
from tasks.dedup.steps import find_duplicates
from tasks.encode.recipes import embeddings_recipe


@flow(name="dedup", flow_run_name="dedup {settings.collect.title}", on_completion=[see_if_it_fell_short])
def dedup(settings: Settings, embeddings: str | None = None) -> str:
    """Find near-duplicates among embeddings (by default those made last); returns the fingerprint of both tables.

    Raises
    ------
    StoreError
        When the embeddings were made by another encoder than the settings name.
    """
    store = Store(settings.store)
    version = store.version("embeddings", embeddings)
    encoding = embeddings_recipe(settings.encode, version.manifest["recipe"]["inputs"]["images"])
    recipe = dedup_recipe(store, settings.dedup, version.fingerprint, encoding)
    if recipe.inputs.get("encoder", version.notes["encoder"]) != version.notes["encoder"]:
        raise StoreError(
            f"dedup: the embeddings were made by {version.notes['encoder']}, the settings name {recipe.inputs['encoder']}: "
            "give the settings that they were encoded with (-c), or encode again"
        )
    with recorded(store, "dedup", settings.model_dump(mode="json")) as run:
        run.tables.update({**recipe.inputs, "pairs": recipe.fingerprint, "duplicates": recipe.fingerprint})
        if store.reuse(recipe, TABLES):
            run.reused.append("dedup")
            say("dedup: nothing to do, duplicates %s are there", recipe.fingerprint)
            return recipe.fingerprint
        with working("dedup"):
            counts = find_duplicates(store.root, settings.dedup, settings.encode, recipe)
        duplicates = store.version("duplicates", recipe.fingerprint)
        run.figures["dedup"] = {**counts, "model": duplicates.notes["model"], "rules": duplicates.notes["rules"]}
        create_table_artifact(_rows(duplicates), key="duplicates", description="near-duplicates")
        for line in summary(duplicates, counts["known"]):
            say("%s", line)
        return recipe.fingerprint


def summary(duplicates: TableVersion, n_known: int = 0) -> list[str]:
    """What a person should read of it, line by line."""
    notes, counts = duplicates.notes, duplicates.counts
    warnings = [f"dedup: warning: {each}" for each in notes["warnings"]]
    model = notes["model"]
    if model is None:
        return warnings
    labels = f"{model['n']} {notes['labels']} pairs, AUC {model['auc']:.3f}" + (
        ", separable" if model["separable"] else ""
    )
    lines = [
        f"dedup: suspected from a cosine of {_threshold(model, 'suspected')}, certain from {_threshold(model, 'certain')} ({labels})",
        *warnings,
    ]
    if n_known:
        lines.append(f"dedup: pairs of {n_known} images were known")
    if notes["search"] == "index":
        lines.append(f"dedup: pairs were found through the index, with a recall of {notes['recall']:.3f}")
    lines.append(
        f"dedup: {counts['images']} images = {counts['kept']} kept + {counts['removed']} duplicates, in {counts['groups']} groups; "
        f"groups across collections {counts['across_sources']}, across labels {counts['across_labels']}, chains {counts['chains']}"
    )
    if counts["label_conflicts"]:
        lines.append(
            f"dedup: warning: {counts['label_conflicts']} kept images have certain copies with another label, their own is used: "
            "select * from duplicates where label_conflict"
        )
    return lines


def _threshold(model: dict[str, Any], name: str) -> str:
    low, high = (f"{each:.4f}" if each is not None else "?" for each in model[f"interval_{name}"])
    return f"{model[name]:.4f} [{low}, {high}]" + (" (no pair reaches it)" if model[name] > 1 else "")


def _rows(duplicates: TableVersion) -> list[dict[str, Any]]:
    model = duplicates.notes["model"]
    thresholds = (
        []
        if model is None
        else [{"what": f"{name} from", "value": _threshold(model, name)} for name in ("suspected", "certain")]
    )
    return [
        *thresholds,
        *({"what": name.replace("_", " "), "value": count} for name, count in duplicates.counts.items()),
    ]
