"""Collect: from sources to the tables ``images`` and ``rejects``, and the images themselves.

Every item that a source lists ends in exactly one of the two tables.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.errors import PlaceprintError, StoreError
from storage.image_files import flush_images, put_image
from storage.schemas import IMAGES, REJECTS, RejectReason
from storage.store import Recipe, Store, TableVersion, write_parquet
from tasks.collect.settings import CollectSettings
from tasks.collect.source import Item, Source
from tasks.collect.sources import open_sources
from tasks.images import ImageError, decode_rgb
from tasks.labels.label_set import FROM_DATA, load_label_set

STEP_VERSION = 1


def collect_recipe(settings: CollectSettings, labels: str) -> Recipe:
    """What makes the images: settings, and what the sources hold now."""
    sources = open_sources(settings.sources)
    return Recipe(
        step="collect",
        step_version=STEP_VERSION,
        settings={"max_pixels": settings.max_pixels, "max_bytes": settings.max_bytes, "labels": labels},
        inputs={source.name: source.identity() for source in sources},
    )


@lru_cache(maxsize=8)
def listed(settings: CollectSettings, source_name: str) -> tuple[Item, ...]:
    """The items of one source; kept for the shards of the same run."""
    return tuple(_source(settings, source_name).items())


@task(name="list-source", task_run_name="list {source_name}", cache_policy=NO_CACHE)
def list_source(settings: CollectSettings, source_name: str, labels: str) -> int:
    """List a source and check its labels before anything is fetched; returns how many items it has."""
    items = listed(settings, source_name)
    found = {item.label for item in items if item.label is not None}
    if labels != FROM_DATA:
        load_label_set(labels, found).check(found, labels)
    return len(items)


@task(name="collect-shard", task_run_name="collect {source_name} {start}-{stop}", cache_policy=NO_CACHE)
def collect_shard(
    root: Path, settings: CollectSettings, work: Path, source_name: str, start: int, stop: int
) -> dict[str, int]:
    """Fetch and check items `start` to `stop` of a source; rows go to this run's work folder. Returns the counts."""
    store = Store(root)
    source = _source(settings, source_name)
    images, rejects = [], []
    for item in listed(settings, source_name)[start:stop]:
        try:
            images.append(_keep(store, settings, source, item))
        except ImageError as error:
            rejects.append(
                {"source": source_name, "path": item.path, "reason": error.reason.value, "detail": error.detail}
            )
    stem = work / f"{source_name}-{start:09d}"
    write_parquet(stem.with_suffix(".images.parquet"), pa.Table.from_pylist(images, IMAGES))
    write_parquet(stem.with_suffix(".rejects.parquet"), pa.Table.from_pylist(rejects, REJECTS))
    return {"kept": len(images), "rejected": len(rejects)}


@task(name="commit-images", cache_policy=NO_CACHE)
def commit_images(root: Path, recipe: Recipe, work: Path, n_listed: int) -> dict[str, int]:
    """Join the shards, keep byte-identical files of a source once, and commit both tables.

    Raises
    ------
    PlaceprintError
        When not one image is left.
    StoreError
        When items in and rows out do not reconcile.
    """
    store = Store(root)
    images, rejects = (
        pa.concat_tables(
            [schema.empty_table(), *(pq.read_table(path) for path in sorted(work.glob(f"*.{kind}.parquet")))]
        )
        for kind, schema in (("images", IMAGES), ("rejects", REJECTS))
    )
    images, duplicates = _without_exact_duplicates(images)
    n_rejected = rejects.num_rows
    rejects = pa.concat_tables([rejects, duplicates])
    counts = {
        "listed": n_listed,
        "kept": images.num_rows,
        "rejected": n_rejected,
        "exact_duplicates": duplicates.num_rows,
    }
    if n_listed != images.num_rows + rejects.num_rows:
        raise StoreError(f"collect: {n_listed} inputs, but {images.num_rows} kept and {rejects.num_rows} rejected")
    if not images.num_rows:
        reasons = Counter(rejects["reason"].to_pylist()).most_common()
        raise PlaceprintError(
            f"collect: none of {n_listed} inputs is a usable image: "
            + ", ".join(f"{n} {reason}" for reason, n in reasons)
        )
    flush_images()
    for table, rows in (("rejects", rejects), ("images", images)):
        rows = rows.sort_by([("source", "ascending"), ("path", "ascending")])
        store.commit(table, recipe, [store.write_shard(table, recipe.fingerprint, 0, rows)], counts=counts)
    shutil.rmtree(work, ignore_errors=True)
    return counts


def unique_images(version: TableVersion, columns: list[str]) -> pa.Table:
    """Rows of the images table with each `image_id` once (the first), in order: what is embedded and split."""
    rows = version.read(columns)
    first: dict[str, int] = {}
    for number, identity in enumerate(rows["image_id"].to_pylist()):
        first.setdefault(identity, number)
    return rows.take(pa.array(first.values(), pa.int64()))


def _source(settings: CollectSettings, name: str) -> Source:
    return next(source for source in open_sources(settings.sources) if source.name == name)


def _keep(store: Store, settings: CollectSettings, source: Source, item: Item) -> dict[str, Any]:
    """Fetch one item, check it, store it; its row of ``images``."""
    if item.problem is not None:
        raise ImageError(RejectReason.BAD_METADATA, item.problem)
    try:
        data = source.fetch(item)
    except OSError as error:
        raise ImageError(RejectReason.UNREADABLE, error.strerror or str(error)) from None
    if len(data) > settings.max_bytes:
        raise ImageError(RejectReason.TOO_MANY_BYTES, f"{len(data)} bytes, allowed are {settings.max_bytes}")
    image, suffix = decode_rgb(data, settings.max_pixels)
    identity, file = put_image(store.root, data, suffix)
    known = asdict(item)
    del known["problem"]
    return {
        **known,
        "image_id": identity,
        "source": source.name,
        "file": file,
        "width": image.width,
        "height": image.height,
        "bytes": len(data),
    }


def _without_exact_duplicates(images: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Keep the first path of byte-identical files of one source; the others become rows of ``rejects``."""
    images = images.sort_by([("source", "ascending"), ("path", "ascending")])
    kept: dict[tuple[str, str], tuple[str, str | None]] = {}
    keep, rejects = [], []
    columns = (images[name].to_pylist() for name in ("source", "image_id", "path", "label"))
    for source, identity, path, label in zip(*columns, strict=True):
        first = kept.setdefault((source, identity), (path, label))
        keep.append(first[0] == path)
        if first[0] != path:
            conflict = f", where its label is {first[1]!r} and not {label!r}" if first[1] != label else ""
            rejects.append(
                {
                    "source": source,
                    "path": path,
                    "reason": RejectReason.EXACT_DUPLICATE.value,
                    "detail": f"same bytes as {first[0]}{conflict}",
                }
            )
    return images.filter(pa.array(keep, pa.bool_())), pa.Table.from_pylist(rejects, REJECTS)
