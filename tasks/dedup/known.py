"""Pairs that an earlier run has found, so that only new images are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from storage.errors import StoreError
from storage.store import Recipe, Store, TableVersion
from storage.vectors import Rows, Vectors, read_vectors
from tasks.dedup.labelled import SYNTHETIC, Label
from tasks.dedup.pairs import Pairs


@dataclass(frozen=True)
class KnownPairs:
    """All pairs, from a least cosine on, of the images at `rows` (ascending); rows are those of the table of now."""

    rows: Rows
    pairs: Pairs


def known_pairs(
    store: Store, image_ids: Sequence[str], vectors: Vectors, encoder: str, min_cosine: float
) -> KnownPairs:
    """Pairs of images whose vectors are still what they were when an earlier version of ``pairs`` was made.

    Of all versions that were searched exactly, from `min_cosine` or below, that with the most such images; none, if there is
    none.
    """
    row_of = {identity: row for row, identity in enumerate(image_ids)}
    best: tuple[Rows, TableVersion] | None = None
    for version in reversed(store.versions("pairs")):
        notes = version.notes
        searched_from = notes["searched_from"]
        if notes["encoder"] != encoder or notes["search"] != "exact" or searched_from is None:
            continue
        if searched_from > min_cosine:
            continue
        rows = _unchanged(store, version.manifest["recipe"]["inputs"]["embeddings"], row_of, vectors)
        if best is None or len(rows) > len(best[0]):
            best = rows, version
        if len(rows) == len(image_ids):
            break
    if best is None or not len(best[0]):
        nothing = np.empty(0, np.int64)
        return KnownPairs(nothing, Pairs(nothing, nothing, np.empty(0, np.float32)))
    rows, version = best
    return KnownPairs(rows, _pairs_among(version, rows, row_of, min_cosine))


def known_copies(store: Store, recipe: Recipe, image_ids: Sequence[str]) -> dict[str, Label]:
    """Synthetic duplicates that earlier versions of ``pairs`` hold, made and embedded as this recipe would, by the image's id."""
    there = set(image_ids)
    known: dict[str, Label] = {}
    for version in reversed(store.versions("pairs")):
        other = version.manifest["recipe"]
        if other["step_version"] != recipe.step_version or _of_copies(other) != _of_copies(asdict(recipe)):
            continue
        table = version.read(["image_id_a", "image_id_b", "cosine", "edit", "labelled_by"])
        table = table.filter(pc.and_(pc.is_valid(table["edit"]), pc.equal(table["labelled_by"], SYNTHETIC)))
        for row in table.to_pylist():
            # One of the two is an image of the store, the other was made of it.
            originals = [identity for identity in (row["image_id_a"], row["image_id_b"]) if identity in there]
            if len(originals) == 1 and originals[0] not in known:
                label = Label.of(row["image_id_a"], row["image_id_b"], True, SYNTHETIC)
                known[originals[0]] = replace(label, edit=row["edit"], cosine=row["cosine"])
    return known


def _of_copies(recipe: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides which edit an image gets, and its vector."""
    settings = recipe["settings"]
    encode = {name: value for name, value in settings.get("encode", {}).items() if name != "shard_size"}
    return settings["seed"], settings.get("synthetic", {}).get("edits"), recipe["inputs"].get("encoder"), encode


def _unchanged(store: Store, embeddings: str, row_of: dict[str, int], vectors: Vectors) -> Rows:
    """Rows of now whose image was in an earlier table of embeddings with the same vector, bit for bit."""
    try:
        version = store.version("embeddings", embeddings)
        earlier = read_vectors(version)
        identities = version.read(["image_id"])["image_id"].to_pylist()
    except StoreError:  # removed since
        return np.empty(0, np.int64)
    if earlier.shape[1] != vectors.shape[1]:
        return np.empty(0, np.int64)
    now = np.array([row_of.get(identity, -1) for identity in identities], dtype=np.int64)
    there = np.flatnonzero(now >= 0)
    same = (earlier[there].view(np.uint32) == vectors[now[there]].view(np.uint32)).all(axis=1)
    return np.sort(now[there][same])


def _pairs_among(version: TableVersion, rows: Rows, row_of: dict[str, int], min_cosine: float) -> Pairs:
    table = version.read(["image_id_a", "image_id_b", "cosine", "edit"])
    # A pair that two people labelled is there twice; an edited copy is no image of the table.
    table = table.filter(pc.is_null(table["edit"]))
    first, second = (
        np.array([row_of.get(identity, -1) for identity in table[name].to_pylist()], dtype=np.int64)
        for name in ("image_id_a", "image_id_b")
    )
    cosine = table["cosine"].to_numpy()
    known = np.zeros(len(row_of) + 1, dtype=np.bool_)
    known[rows] = True
    wanted = known[first] & known[second] & (cosine >= np.float32(min_cosine))
    ends = np.sort(np.stack([first[wanted], second[wanted]], axis=1), axis=1)
    ends, at = np.unique(ends, axis=0, return_index=True)
    return Pairs(ends[:, 0], ends[:, 1], cosine[wanted][at])
