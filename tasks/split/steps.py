"""Split: from ``images`` and ``duplicates`` to the table ``splits``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.errors import PlaceprintError
from storage.s3_path import StorePath
from storage.schemas import SPLITS, Part
from storage.store import Recipe, Store, TableVersion
from storage.vectors import Vectors, read_vectors
from tasks.dedup.kept import kept_images
from tasks.geo import place_names
from tasks.split.balance import cap, of_large_classes
from tasks.split.kinds import NOWHERE, NamedSplit, SplitImages, make_splits
from tasks.split.leaks import Leaks, find_leaks, without_leaks
from tasks.split.quality import split_quality
from tasks.split.settings import SplitSettings

# Nothing is learned from these, and nothing judged on them.
UNUSED_PARTS = (NOWHERE, Part.BUFFER.value, Part.UNUSED.value)
_COLUMNS = ["image_id", "label", "source", "path", "latitude", "longitude", "captured_at"]


def duplicates_of(store: Store, recipe: Recipe) -> TableVersion | None:
    """The duplicates that a recipe reads through; None where dedup is off."""
    fingerprint = recipe.inputs.get("duplicates")
    return None if fingerprint is None else store.version("duplicates", fingerprint)


def place_groups(rows: pa.Table) -> list[str]:
    """A name of the place of each image, as `place_names` gives it, from the columns of ``images``."""
    found: list[str] = place_names(
        _floats(rows["latitude"]), _floats(rows["longitude"]), rows["image_id"].to_pylist()
    ).tolist()
    return found


@task(name="split-images", task_run_name="split images", cache_policy=NO_CACHE)
def split_images(root: StorePath, settings: SplitSettings, recipe: Recipe) -> dict[str, int]:
    """Assign every labelled image that is kept to a part of each split, and commit the table; returns the counts.

    Raises
    ------
    PlaceprintError
        When a split cannot be made, a part is empty, or images that belong together lie in two parts.
    """
    store = Store(root)
    source = store.version("images", recipe.inputs["images"])
    rows = kept_images(source, duplicates_of(store, recipe), _COLUMNS).sort_by("image_id")
    labelled = rows.filter(rows["label"].is_valid())
    chosen = _balanced(settings, labelled)
    counts = {
        "near_duplicates": len(set(source.read(["image_id"])["image_id"].to_pylist())) - rows.num_rows,
        "unlabelled": rows.num_rows - labelled.num_rows,
        "balanced_out": labelled.num_rows - chosen.num_rows,
        "images": chosen.num_rows,
    }
    if len(pc.unique(chosen["label"])) < 2:
        raise PlaceprintError(
            "split: the images have fewer than two labels, so there is nothing to tell apart: "
            "put them into one subfolder a label (search and sql work without)"
        )
    images = _split_images(store, recipe, chosen)
    pairs = _near_pairs(store, recipe, images)
    moved: dict[str, int] = {}

    def check(split: NamedSplit) -> NamedSplit:
        clean, moved[split.name] = _checked(settings, split, images, pairs)
        return clean

    made = make_splits(settings, images, check)
    splits = list(made.splits.values())
    for split in splits:
        counts |= {f"{split.name}: {part or 'none'}": n for part, n in sorted(Counter(split.part.tolist()).items())}
    notes = {
        "splits": [split.name for split in splits],
        "quality": {split.name: _quality(split) for split in splits if split.sizes is not None},
        "moved": {name: n for name, n in moved.items() if n},
        "left_out": made.left_out,
        "tables": {split.name: split.table for split in splits if split.table is not None},
        "mapped": [split.name for split in splits if split.cells is not None],
    }
    table = pa.concat_tables([_rows(split, images) for split in splits])
    store.commit(
        "splits", recipe, [store.write_shard("splits", recipe.fingerprint, 0, table)], counts=counts, notes=notes
    )
    return counts


def _balanced(settings: SplitSettings, labelled: pa.Table) -> pa.Table:
    """Rows of classes that are large enough, and of each no more than is allowed."""
    if not labelled.num_rows:
        return labelled
    labels, ids = np.array(labelled["label"].to_pylist(), dtype=str), labelled["image_id"].to_pylist()
    taken = of_large_classes(labels, min_per_class=settings.min_per_class)
    if settings.max_per_class is not None:
        taken &= cap(labels, ids, max_per_class=settings.max_per_class, seed=settings.seed)
    return labelled.filter(pa.array(taken))


def _split_images(store: Store, recipe: Recipe, rows: pa.Table) -> SplitImages:
    image_ids = rows["image_id"].to_pylist()

    def vectors() -> Vectors:
        version = store.version("embeddings", recipe.inputs["embeddings"])
        row_of = {each: row for row, each in enumerate(version.read(["image_id"])["image_id"].to_pylist())}
        missing = [each for each in image_ids if each not in row_of]
        if missing:
            raise ValueError(f"{len(missing)} images have no embedding, such as {missing[0]}")
        return read_vectors(version)[[row_of[each] for each in image_ids]]

    return SplitImages(
        image_id=image_ids,
        label=np.array(rows["label"].to_pylist(), dtype=str),
        source=np.array(rows["source"].to_pylist(), dtype=str),
        place=np.array(place_groups(rows), dtype=str),
        latitude=_floats(rows["latitude"]),
        longitude=_floats(rows["longitude"]),
        captured_at=np.array(
            [
                np.datetime64("NaT") if each is None else each.replace(tzinfo=None)
                for each in rows["captured_at"].to_pylist()
            ],
            dtype="datetime64[us]",
        ),
        vectors=vectors,
        path=rows["path"].to_pylist(),
        label_set=str(recipe.settings.get("labels", "from-data")),
    )


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.array([np.nan if each is None else each for each in column.to_pylist()], dtype=np.float64)


def _near_pairs(
    store: Store, recipe: Recipe, images: SplitImages
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Rows of near-duplicates that are both still there: with complete linkage some are, and with `remove: certain`."""
    duplicates = duplicates_of(store, recipe)
    if duplicates is None or duplicates.notes["threshold"] is None:
        return None
    table = store.version("pairs", duplicates.fingerprint).read(["image_id_a", "image_id_b", "cosine", "edit"])
    near = pc.and_(
        pc.greater_equal(table["cosine"], pa.scalar(duplicates.notes["threshold"], pa.float32())),
        pc.is_null(table["edit"]),
    )
    table = table.filter(near)
    row_of = {identity: row for row, identity in enumerate(images.image_id)}
    ends = [
        (row_of[a], row_of[b])
        for a, b in zip(table["image_id_a"].to_pylist(), table["image_id_b"].to_pylist(), strict=True)
        if a in row_of and b in row_of
    ]
    i, j = np.array(ends, dtype=np.int64).reshape(-1, 2).T
    return i, j


def _checked(
    settings: SplitSettings,
    split: NamedSplit,
    images: SplitImages,
    pairs: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None,
) -> tuple[NamedSplit, int]:
    """The split without leaks, and how many images were moved for it.

    Raises
    ------
    PlaceprintError
        When there are leaks, and they are not to be moved.
    """
    if settings.leaks == "off":
        return split, 0

    def leaks(part: npt.NDArray[np.str_]) -> Leaks:
        return find_leaks(part, pairs=pairs, groups=split.groups, cells=split.cells, ignored=UNUSED_PARTS)

    found = leaks(split.part)
    if len(found) and settings.leaks == "fail":
        first, second = (images.image_id[int(rows[0])] for rows in (found.i, found.j))
        kinds = ", ".join(f"{n} by {why}" for why, n in sorted(Counter(found.why).items()))
        raise PlaceprintError(
            f"split: {split.name}: {len(found)} leaks between parts ({kinds}), such as {first} ({split.part[found.i[0]]}) and "
            f"{second} ({split.part[found.j[0]]}): set split.leaks=move, or off"
        )
    part = split.part
    while len(found):
        part = without_leaks(part, found)
        found = leaks(part)
    return replace(split, part=part), int((part != split.part).sum())


def _quality(split: NamedSplit) -> dict[str, Any]:
    """How near the split came to what was wanted, for the manifest and the report."""
    sizes = split.sizes or {}
    used = np.isin(split.part, list(sizes))
    groups = split.cells if split.cells is not None else split.groups
    found = split_quality(
        split.stratum[used] if split.labels is None else split.labels[used],
        split.part[used],
        sizes,
        None if groups is None else np.asarray(groups)[used],
        class_names=split.classes,
    )
    worst = [
        f"{found.worst_images:.1f} images ({', '.join(found.worst_images_at)})",
        f"{100 * found.worst_share:.1f} points ({', '.join(found.worst_share_at)})",
    ]
    return {
        "sizes": dict(sizes),
        "worst": "; ".join(worst),
        "groups": found.n_groups,
        "divided": found.n_divided,
        "warnings": list(found.warnings),
    }


def _rows(split: NamedSplit, images: SplitImages) -> pa.Table:
    there = np.flatnonzero(split.part != NOWHERE)
    observed: Iterable[str | None] = (
        [None] * len(there) if split.observed is None else [split.observed[row] for row in there.tolist()]
    )
    return pa.table(
        [
            [split.name] * len(there),
            [images.image_id[row] for row in there.tolist()],
            split.part[there].tolist(),
            pa.nulls(len(there), pa.int32()),
            split.stratum[there].tolist(),
            pa.array(observed, pa.string()),
        ],
        schema=SPLITS,
    )
