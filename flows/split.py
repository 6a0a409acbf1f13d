"""Flow `split`: images, duplicates -> splits."""

from __future__ import annotations

import polars as pl
from prefect import flow

from flows.progress import say, working
from flows.settings import Settings
from flows.shortfalls import see_if_it_fell_short
from storage.runs import recorded
from storage.store import Store, TableVersion
from tasks.dedup.kept import duplicates_for
from tasks.report.tables import markdown_table
from tasks.split.recipes import needs_embeddings, split_recipe
from tasks.split.steps import split_images


@flow(name="split", flow_run_name="split {settings.collect.title}", on_completion=[see_if_it_fell_short])
def split(
    settings: Settings, images: str | None = None, duplicates: str | None = None, embeddings: str | None = None
) -> str:
    """Share out the images (by default those collected last) that dedup keeps; returns the fingerprint of the split.

    Raises
    ------
    StoreError
        When `dedup` is on, and was not run on these images.
    """
    store = Store(settings.store)
    source = store.version("images", images).fingerprint
    removed = duplicates_for(store, source, duplicates) if settings.dedup.enabled else None
    encoded = store.version("embeddings", embeddings).fingerprint if needs_embeddings(settings.split) else ""
    recipe = split_recipe(settings.split, source, duplicates=removed, embeddings=encoded, labels=settings.labels)
    with recorded(store, "split", settings.model_dump(mode="json")) as run:
        run.tables.update(recipe.inputs, splits=recipe.fingerprint)
        if store.reuse(recipe, ["splits"]):
            run.reused.append("split")
            say("split: nothing to do, split %s is there", recipe.fingerprint)
            return recipe.fingerprint
        with working("split"):
            counts = split_images(store.root, settings.split, recipe)
        lines = summary(counts, store.version("splits", recipe.fingerprint))
        # Not among the run's warnings, which are what it fell short of.
        run.figures["split"] = {"warnings": [line for line in lines if line.startswith("split: warning: ")]}
        for line in lines:
            say("%s", line)
        return recipe.fingerprint


def summary(counts: dict[str, int], splits: TableVersion) -> list[str]:
    """What a person should read of it, line by line."""
    notes = splits.notes
    left = ", ".join(
        f"{counts[name]} {name.replace('_', ' ')}" for name in ("near_duplicates", "unlabelled", "balanced_out")
    )
    lines = [f"split: {counts['images']} images; left out {left}"]
    for name in notes["splits"]:
        parts = {key.removeprefix(f"{name}: "): n for key, n in counts.items() if key.startswith(f"{name}: ")}
        worst = notes["quality"].get(name, {}).get("worst")
        lines.append(
            f"split: {name}: {', '.join(f'{n} {part}' for part, n in parts.items())}"
            + (f"; worst deviation {worst}" if worst else "")
        )
    for table in notes["tables"].values():
        lines += ["split: of what the sets are made", markdown_table(pl.DataFrame(table)).rstrip()]
    lines += [
        f"split: warning: {name}: {n} images were moved to train, so that nothing leaks"
        for name, n in notes["moved"].items()
    ]
    lines += [
        f"split: warning: {name}: {each}" for name in notes["quality"] for each in notes["quality"][name]["warnings"]
    ]
    lines += [f"split: warning: {name} is left out: {why}" for name, why in notes["left_out"].items()]
    return lines
