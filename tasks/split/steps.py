"""Split: from ``images`` to the table ``splits``."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.errors import PlaceprintError
from storage.s3_path import StorePath
from storage.schemas import SPLITS, Part
from storage.store import Recipe, Store, TableVersion
from tasks.dedup.kept import kept_images
from tasks.split.settings import SplitSettings
from tasks.split.stratified import stratified_split

STEP_VERSION = 2


def split_recipe(settings: SplitSettings, images: str, duplicates: str | None) -> Recipe:
    """What makes a split: its settings, the images, and which of them are near-duplicates (None: all are kept)."""
    inputs = {"images": images, **({"duplicates": duplicates} if duplicates is not None else {})}
    return Recipe("split", STEP_VERSION, settings.model_dump(mode="json"), inputs)


def duplicates_of(store: Store, recipe: Recipe) -> TableVersion | None:
    """The duplicates that a recipe reads through; None where dedup is off."""
    fingerprint = recipe.inputs.get("duplicates")
    return None if fingerprint is None else store.version("duplicates", fingerprint)


def place_groups(rows: pa.Table) -> list[str]:
    """A name of the place of each image: its label and coordinates, or the image itself where it has none."""
    columns = (rows[name].to_pylist() for name in ("image_id", "label", "latitude", "longitude"))
    return [
        identity if latitude is None or longitude is None else f"{label} {latitude} {longitude}"
        for identity, label, latitude, longitude in zip(*columns, strict=True)
    ]


@task(name="split-images", cache_policy=NO_CACHE)
def split_images(root: StorePath, settings: SplitSettings, recipe: Recipe) -> dict[str, int]:
    """Assign every labelled image that is kept to a part and commit the table; returns the counts."""
    store = Store(root)
    images = store.version("images", recipe.inputs["images"])
    rows = kept_images(images, duplicates_of(store, recipe), ["image_id", "label", "latitude", "longitude"]).sort_by(
        "image_id"
    )
    n_removed = len(set(images.read(["image_id"])["image_id"].to_pylist())) - rows.num_rows
    labelled = rows.filter(rows["label"].is_valid())
    labels = np.array(labelled["label"].to_pylist(), dtype=str)
    if len(set(labels.tolist())) < 2:
        raise PlaceprintError(
            "split: the images have fewer than two labels, so there is nothing to tell apart: "
            "put them into one subfolder a label (search and sql work without)"
        )
    groups = place_groups(labelled) if settings.keep_together == "place" else None
    parts = stratified_split(
        labels,
        sizes={Part.TRAIN.value: 1 - settings.test_share, Part.TEST.value: settings.test_share},
        seed=settings.seed,
        groups=groups,
        min_class_size=settings.min_class_size,
        small_class_part=Part.ZERO_SHOT.value,
        ids=labelled["image_id"].to_numpy(),
    )
    counts = {
        **Counter(parts.tolist()),
        "unlabelled": rows.num_rows - labelled.num_rows,
        "near_duplicates": n_removed,
    }
    for part in (Part.TRAIN, Part.TEST):
        if not counts.get(part.value):
            raise PlaceprintError(
                f"split: no image is left for the part {part.value}: every class is too small for test_share={settings.test_share}"
            )
    table = pa.table(
        [
            [settings.name] * len(labels),
            labelled["image_id"].combine_chunks(),
            parts.tolist(),
            pa.nulls(len(labels), pa.int32()),
            labels.tolist(),
        ],
        schema=SPLITS,
    )
    store.commit("splits", recipe, [store.write_shard("splits", recipe.fingerprint, 0, table)], counts=counts)
    return counts
