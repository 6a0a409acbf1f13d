"""Rows of the tables ``pairs`` and ``duplicates``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage.schemas import DUPLICATES, PAIRS
from storage.store import Recipe, Store
from storage.vectors import Rows
from tasks.dedup.embedded import METADATA, EmbeddedImages
from tasks.dedup.found import FoundPairs, pairs_that_group
from tasks.dedup.groups import group_numbers, groups, keep_order, kept_rows
from tasks.dedup.labelled import Labels
from tasks.dedup.pairs import pair_cosines
from tasks.dedup.settings import DedupSettings
from tasks.dedup.threshold import DuplicateModel

_KNOWN_OF_PAIRS = pa.schema(
    [PAIRS.field(name) for name in ("image_id_a", "image_id_b", "cosine", "is_duplicate", "labelled_by", "edit")]
)


def pair_rows(
    settings: DedupSettings, labels: Labels, model: DuplicateModel | None, found: FoundPairs, images: EmbeddedImages
) -> pa.Table:
    """Every pair that was labelled, and every other one that was found, by image ids."""
    rows = pa.concat_tables([_labelled_rows(labels), _other_rows(labels, found, images)]).sort_by(
        [(name, "ascending") for name in ("image_id_a", "image_id_b", "labelled_by", "edit")]
    )
    cosine = rows["cosine"].to_numpy()
    near = np.full(len(cosine), None, dtype=object)
    if model is not None:
        for name in ("suspected", "certain"):
            near[np.abs(cosine.astype(np.float64) - getattr(model, name)) <= settings.near_threshold] = name
    known = {name: rows[name] for name in rows.column_names}
    probability = pa.nulls(len(cosine), pa.float64()) if model is None else pa.array(model.probability(cosine))
    columns = {**known, "probability": probability, "near": pa.array(near, pa.string())}
    return pa.table([columns[name] for name in PAIRS.names], schema=PAIRS)


def _labelled_rows(labels: Labels) -> pa.Table:
    return pa.Table.from_pylist([asdict(each) for each in labels.labels], _KNOWN_OF_PAIRS)


def _other_rows(labels: Labels, found: FoundPairs, images: EmbeddedImages) -> pa.Table:
    """Pairs that were found and that nobody has labelled."""
    ids, pairs = np.array(images.image_id), found.pairs
    swapped = ids[pairs.i] > ids[pairs.j]
    first, second = np.where(swapped, pairs.j, pairs.i), np.where(swapped, pairs.i, pairs.j)
    row_of, n = images.row_of, len(ids)
    labelled = [row_of[each.image_id_a] * n + row_of[each.image_id_b] for each in labels.labels if each.edit is None]
    new = ~np.isin(first * n + second, np.array(labelled, dtype=np.int64))
    n_new = int(new.sum())
    nothing = [pa.nulls(n_new, _KNOWN_OF_PAIRS.field(name).type) for name in ("is_duplicate", "labelled_by", "edit")]
    return pa.table(
        [pa.array(ids[first[new]]), pa.array(ids[second[new]]), pairs.cosine[new], *nothing], schema=_KNOWN_OF_PAIRS
    )


def duplicate_rows(
    store: Store,
    settings: DedupSettings,
    recipe: Recipe,
    found: FoundPairs,
    model: DuplicateModel | None,
    images: EmbeddedImages,
) -> tuple[pa.Table, dict[str, int]]:
    """The images of all groups, by group, the kept one first; and what is counted."""
    n = len(images.image_id)
    near = pairs_that_group(found)
    threshold = float(np.float32(found.threshold))
    numbers = group_numbers(
        n, found.pairs.i[near], found.pairs.j[near], images.vectors, min_cosine=threshold, how=settings.linkage
    )
    kept = kept_rows(numbers, _keep_orders(images))
    sources, labels = _sources_and_labels(store, recipe)
    rows: list[dict[str, Any]] = []
    # In float32, the largest first; a table is easier to read by number.
    for group in sorted(groups(numbers, images.vectors, min_cosine=threshold), key=lambda each: int(each.rows[0])):
        rows += _group_rows(
            group.rows, int(numbers[group.rows[0]]), group.is_chain, kept, model, images, sources, labels
        )
    removed = [row for row in rows if not row["kept"]]
    first = [row for row in rows if row["kept"]]
    counts = {
        "images": n,
        "kept": n - len(removed),
        "removed": len(removed),
        "removed_certain": sum(row["certainty"] == "certain" for row in removed),
        "groups": len(first),
        "chains": sum(row["chain"] for row in first),
        "across_sources": sum(row["across_sources"] for row in first),
        "across_labels": sum(row["across_labels"] for row in first),
        "label_conflicts": sum(row["label_conflict"] for row in first),
        "identical_across_sources": sum(len(each) > 1 for each in sources.values()),
        "identical_across_labels": sum(len(each) > 1 for each in labels.values()),
    }
    return pa.Table.from_pylist(rows, DUPLICATES), counts


def _group_rows(
    members: Rows,
    number: int,
    chain: bool,
    kept: npt.NDArray[np.bool_],
    model: DuplicateModel | None,
    images: EmbeddedImages,
    sources: Mapping[str, set[str]],
    labels: Mapping[str, set[str]],
) -> list[dict[str, Any]]:
    """One row for each image of a group."""
    first = int(members[kept[members]][0])
    others = members[members != first]
    cosines = pair_cosines(images.vectors, np.full(len(others), first), others)
    certain = cosines >= np.float32(np.inf if model is None else model.certain)
    ids = [images.image_id[row] for row in others.tolist()]
    passed = labels[images.image_id[first]].union(
        *(labels[identity] for identity, sure in zip(ids, certain, strict=True) if sure)
    )
    every = {images.image_id[first], *ids}
    shared = {
        "group_id": number,
        "chain": chain,
        "across_sources": len(set().union(*(sources[identity] for identity in every))) > 1,
        "across_labels": len(set().union(*(labels[identity] for identity in every))) > 1,
    }
    kept_row = {
        **shared,
        "image_id": images.image_id[first],
        "kept": True,
        "certainty": "certain" if certain.any() else "suspected",
        "cosine_to_kept": None,
        "labels": sorted(passed),
        "label_conflict": len(passed) > 1,
    }
    return [
        kept_row,
        *(
            {
                **shared,
                "image_id": identity,
                "kept": False,
                "certainty": "certain" if sure else "suspected",
                "cosine_to_kept": float(cosine),
                "labels": sorted(labels[identity]),
                "label_conflict": False,
            }
            for identity, sure, cosine in zip(ids, certain.tolist(), cosines.tolist(), strict=True)
        ),
    ]


def _keep_orders(images: EmbeddedImages) -> Sequence[tuple[Any, ...]]:
    table = images.rows
    known = np.sum([table[name].is_valid().to_numpy() for name in METADATA], axis=0)
    times = [None if each is None else each.timestamp() for each in table["captured_at"].to_pylist()]
    return [
        keep_order(width, height, int(n_metadata), captured_at, identity)
        for width, height, n_metadata, captured_at, identity in zip(
            table["width"].to_pylist(), table["height"].to_pylist(), known, times, images.image_id, strict=True
        )
    ]


def _sources_and_labels(store: Store, recipe: Recipe) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """All collections and all labels of each image: the same bytes may be in several."""
    table = store.version("images", recipe.inputs["images"]).read(["image_id", "source", "label"])
    sources: dict[str, set[str]] = defaultdict(set)
    labels: dict[str, set[str]] = defaultdict(set)
    for identity, source, label in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        sources[identity].add(source)
        labels[identity].update([] if label is None else [label])
    return sources, labels
