"""Dedup: from ``images`` and ``embeddings`` to the tables ``pairs`` and ``duplicates``."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.errors import PlaceprintError
from storage.s3_path import StorePath
from storage.store import Recipe, Store
from tasks.dedup.embedded import EmbeddedImages, read_images
from tasks.dedup.found import NOTHING, find_pairs
from tasks.dedup.judge import Judgement, judge
from tasks.dedup.known import known_copies
from tasks.dedup.labelled import (
    SYNTHETIC,
    Labels,
    NoThresholdError,
    answers_of,
    labels_of_answers,
    labels_of_file,
    with_cosines,
)
from tasks.dedup.recipes import PERSON
from tasks.dedup.rows import duplicate_rows, pair_rows
from tasks.dedup.settings import DedupSettings
from tasks.dedup.synthetic import synthetic_labels
from tasks.dedup.threshold import DuplicateModel, fit_thresholds
from tasks.encode.settings import EncodeSettings

PAIRS_A_SHARD = 1_000_000


@task(name="find-duplicates", task_run_name="find duplicates", cache_policy=NO_CACHE)
def find_duplicates(root: StorePath, settings: DedupSettings, encode: EncodeSettings, recipe: Recipe) -> dict[str, int]:
    """Label pairs, fit the threshold, find all pairs, group them, and commit both tables; returns the counts.

    Where nobody asked for certain labels (``auto``) and no threshold comes of them, nothing is removed, with a warning.

    Raises
    ------
    PlaceprintError
        When the labels that were asked for do not give a threshold.
    """
    store = Store(root)
    embeddings = store.version("embeddings", recipe.inputs["embeddings"])
    images = read_images(store, recipe, embeddings)
    labels, model, found = Labels((), {}), None, NOTHING
    try:
        labels = _labels(store, settings, encode, recipe, images)
        model = _fitted(settings, labels)
    except NoThresholdError as error:
        if settings.labels != "auto":
            raise
        found = replace(NOTHING, warning=f"no image is removed: {error}")
    if model is not None:
        found = find_pairs(store, settings, embeddings, images, model)
    table = pair_rows(settings, labels, model, found, images)
    try:
        duplicates, counts = duplicate_rows(store, settings, recipe, found, model, images)
    except ValueError as error:
        raise PlaceprintError(f"dedup.linkage: {error}") from None
    judgement = (
        Judgement((), ())
        if model is None
        else judge(*_of_labels(labels), probabilities=settings.probabilities, seed=settings.seed)
    )
    notes = {
        "encoder": embeddings.notes["encoder"],
        "labels": recipe.settings["labels"],
        "label_counts": dict(labels.counts),
        "model": None if model is None else _plain(asdict(model)),
        **_plain(asdict(judgement)),
        "threshold": None if model is None else found.threshold,
        "removes": found.removes,
        "searched_from": found.searched_from,
        "search": found.search,
        "recall": found.recall,
        "warnings": [each for each in (_synthetic_warning(recipe), found.warning) if each is not None],
    }
    shards = [
        store.write_shard("pairs", recipe.fingerprint, number, table.slice(start, PAIRS_A_SHARD))
        for number, start in enumerate(range(0, max(table.num_rows, 1), PAIRS_A_SHARD))
    ]
    store.commit("pairs", recipe, shards, counts={"pairs": table.num_rows}, notes=notes)
    shard = store.write_shard("duplicates", recipe.fingerprint, 0, duplicates)
    store.commit("duplicates", recipe, [shard], counts=counts, notes=notes)
    return {**counts, "known": found.n_known}


def _labels(
    store: Store, settings: DedupSettings, encode: EncodeSettings, recipe: Recipe, images: EmbeddedImages
) -> Labels:
    """Labelled pairs with their cosines, from where the recipe says."""
    kind = recipe.settings["labels"]
    if kind == SYNTHETIC:
        known = known_copies(store, recipe, images.image_id)
        return synthetic_labels(store, settings.synthetic, encode, images.rows, images.vectors, settings.seed, known)
    if kind == PERSON:
        given = labels_of_answers(answers_of(store))
    else:
        every = store.version("images", recipe.inputs["images"]).read(["path", "image_id"])
        id_of_path: dict[str, set[str]] = defaultdict(set)
        for path, identity in zip(every["path"].to_pylist(), every["image_id"].to_pylist(), strict=True):
            id_of_path[path].add(identity)
        given = labels_of_file(Path(settings.labels).expanduser(), id_of_path)
    return with_cosines(given, images.row_of, images.vectors)


def _of_labels(labels: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    # Rows of float16 are not quite of length 1.
    cosines = np.clip(np.array([each.cosine for each in labels.labels], dtype=np.float64), -1.0, 1.0)
    return cosines, np.array([each.is_duplicate for each in labels.labels], dtype=np.bool_)


def _fitted(settings: DedupSettings, labels: Labels) -> DuplicateModel:
    try:
        return fit_thresholds(
            *_of_labels(labels),
            probabilities=settings.probabilities,
            n_resamples=settings.n_resamples,
            seed=settings.seed,
        )
    except ValueError as error:
        counted = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in labels.counts.items())
        raise NoThresholdError(
            f"dedup: no threshold can be fitted: {error} (pairs: {counted}); `placeprint dedup label` adds labels, dedup=off goes without"
        ) from None


def _synthetic_warning(recipe: Recipe) -> str | None:
    if recipe.settings["labels"] != SYNTHETIC:
        return None
    edits = ", ".join(recipe.settings["synthetic"]["edits"])
    return f"no person has labelled pairs (`placeprint dedup label`): the threshold describes edits made here ({edits}), not the copies that are out there"


def _plain(values: Any) -> Any:
    """Without infinities and NaN, which JSON lacks: an end of an interval that the labels do not bound is null."""
    if isinstance(values, Mapping):
        return {name: _plain(each) for name, each in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(each) for each in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
