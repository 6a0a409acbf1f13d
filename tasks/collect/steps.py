"""Collect: from sources to the tables ``images`` and ``rejects``, and the images themselves.

Every item that a source lists ends in exactly one of the two tables.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from storage.atomic import remove_folder
from storage.errors import PlaceprintError, StoreError
from storage.image_files import flush_images
from storage.local_copies import local_place
from storage.s3_path import StorePath, read_parquet, sorted_glob
from storage.schemas import IMAGES, REJECTS, RejectReason
from storage.store import Recipe, Store, TableVersion, write_parquet
from tasks.collect.exact_duplicates import join_exact_duplicates
from tasks.collect.keep import Keeper, web_of
from tasks.collect.label_edits import edited, load_label_edits, spellings
from tasks.collect.listing import Listings, read_listing, write_listing
from tasks.collect.service import FetchError, ServiceSettings
from tasks.collect.settings import CollectSettings
from tasks.collect.side_files import lies_among_side_files
from tasks.collect.source import Item, Remarking, Source
from tasks.collect.sources import open_sources
from tasks.collect.web import OFFLINE
from tasks.images import ImageError
from tasks.labels.label_set import FROM_DATA, load_label_set
from tasks.step import step, under_prefect

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun
    from prefect.tasks import Task


class UnreachableError(PlaceprintError):
    """A service did not answer; asking later may help, so the task is tried again."""


@dataclass(frozen=True)
class ShardCounts:
    """What became of the items of a shard."""

    kept: int
    rejected: int
    unreachable: tuple[str, ...]


def _may_be_mended(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), UnreachableError)


@step(name="list-source", task_run_name="list {source_name}", retry_condition_fn=_may_be_mended)
def list_source(
    root: StorePath, settings: CollectSettings, work: StorePath, source_name: str, labels: str
) -> StorePath:
    """List a source and check its labels before anything is fetched; returns the file that holds the items."""
    source = _source(settings, source_name)
    if isinstance(source.settings, ServiceSettings):
        path = _list_service(Listings(root, source), source, settings)
    else:
        path = work / f"{hashlib.blake2b(source_name.encode(), digest_size=6).hexdigest()}.items.parquet"
        remarks = source.remarks if isinstance(source, Remarking) else None
        write_listing(path, source.items(OFFLINE), remarks=remarks)
    items = listed(settings, source_name, labels, path)
    found = {item.label for item in items if item.label is not None and item.problem is None}
    if labels != FROM_DATA:
        load_label_set(labels, found).check(found, labels)
    return path


def _list_service(listings: Listings, source: Source, settings: CollectSettings) -> StorePath:
    latest = listings.latest()
    if latest is not None and not settings.refresh:
        return latest
    path = listings.next()
    web = web_of(source, path, settings)
    try:
        # In an order of our own: a service may give the same things in another.
        found = sorted(source.items(web), key=lambda item: (item.path, item.url or "", item.checksum or ""))
        items = [item for item in found if item.problem is not None or not lies_among_side_files(item.path)]
        write_listing(path, items, exclusive=True, remarks=lambda: _passed_over(len(found) - len(items)))
    except FetchError as error:
        if error.reason is not RejectReason.UNREACHABLE:
            raise PlaceprintError(f"collect: {source.name} cannot be listed: {error.detail}") from error
        raise UnreachableError(
            f"collect: {source.name} cannot be listed: {error.detail}; what it answered is kept: run again to go on"
        ) from error
    return path


def _passed_over(n: int) -> list[str]:
    return [f"passed over {n} hidden or system files"] if n else []


def listed(
    settings: CollectSettings,
    source_name: str,
    labels: str,
    listing: StorePath,
    start: int = 0,
    stop: int | None = None,
) -> list[Item]:
    """Items `start` to `stop` of a listing as the settings want them: no other files than images, and labels edited."""
    section = _source(settings, source_name).settings
    suffixes = section.suffixes if isinstance(section, ServiceSettings) else ("",)
    edits = load_label_edits(section.label_edits)
    names = _spellings(labels) if labels != FROM_DATA else {}
    return [edited(_refused_by_name(item, suffixes), edits, names) for item in read_listing(listing)[start:stop]]


@lru_cache(maxsize=4)
def _spellings(labels: str) -> dict[str, str]:
    return spellings(load_label_set(labels, ()).names)


def _refused_by_name(item: Item, suffixes: tuple[str, ...]) -> Item:
    if item.problem is not None or item.path.lower().endswith(suffixes):
        return item
    return replace(item, problem="not an image, by its name", reason=RejectReason.NOT_AN_IMAGE)


@step(name="collect-shard", task_run_name="collect {source_name} {title}", retry_condition_fn=_may_be_mended)
def collect_shard(
    root: StorePath,
    settings: CollectSettings,
    work: StorePath,
    source_name: str,
    labels: str,
    listing: StorePath,
    start: int,
    stop: int,
    title: str,  # noqa: ARG001  (of the task run)
) -> ShardCounts:
    """Fetch and check items `start` to `stop` of a listing; rows go to this run's work folder.

    Raises
    ------
    UnreachableError
        When a file did not come and the task may be tried again. What came is kept, and not asked for twice.
    """
    store = Store(root)
    source = _source(settings, source_name)
    keeper = Keeper(store, settings, source, listing)
    items = listed(settings, source_name, labels, listing, start, stop)
    with ThreadPoolExecutor(keeper.connections) as pool:
        outcomes = list(pool.map(keeper.row_or_error, items))
    images = [each for each in outcomes if not isinstance(each, ImageError)]
    errors = [(item, each) for item, each in zip(items, outcomes, strict=True) if isinstance(each, ImageError)]
    missing = [(item, error) for item, error in errors if error.reason is RejectReason.UNREACHABLE]
    if missing and not _is_last_attempt(settings.retries):
        raise UnreachableError(
            f"collect: {source_name}: {len(missing)} of {len(items)} did not come, such as {missing[0][1].detail}"
        )
    rejects = [
        {"source": source_name, "path": item.path, "reason": error.reason.value, "detail": error.detail}
        for item, error in errors
    ]
    # Named by its place in the settings: a collection's name may be anything.
    number = [each.name for each in open_sources(settings.sources)].index(source_name)
    stem = work / f"{number:03d}-{start:09d}"
    write_parquet(stem.with_suffix(".images.parquet"), pa.Table.from_pylist(images, IMAGES))
    write_parquet(stem.with_suffix(".rejects.parquet"), pa.Table.from_pylist(rejects, REJECTS))
    return ShardCounts(len(images), len(rejects), tuple(f"{source_name}/{item.path}" for item, _ in missing))


@step(name="commit-images", task_run_name="commit images")
def commit_images(
    root: StorePath,
    recipe: Recipe,
    work: StorePath,
    n_listed: int,
    n_unreachable: int,
    listings: Mapping[str, StorePath],
    remarks: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, int]:
    """Join the shards, keep byte-identical files of a source once, and commit both tables.

    Parameters
    ----------
    listings
        Of services, by collection.
    remarks
        What sources have said of themselves, by collection: it is kept in the manifests' notes.

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
            [schema.empty_table(), *(read_parquet(path) for path in sorted_glob(work, f"*.{kind}.parquet"))]
        )
        for kind, schema in (("images", IMAGES), ("rejects", REJECTS))
    )
    images, duplicates, conflicts = join_exact_duplicates(images)
    n_rejected = rejects.num_rows
    rejects = pa.concat_tables([rejects, duplicates])
    counts = {
        "listed": n_listed,
        "kept": images.num_rows,
        "rejected": n_rejected,
        "exact_duplicates": duplicates.num_rows,
        "unreachable": n_unreachable,
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
    notes = {
        "listings": {
            name: path.as_posix().removeprefix(f"{store.root.as_posix()}/") for name, path in listings.items()
        },
        "remarks": {name: list(lines) for name, lines in (remarks or {}).items() if lines},
        "conflicts": dict(conflicts),
        "from_exif": _from_exif(images),
    }
    for table, rows in (("rejects", rejects), ("images", images)):
        rows = rows.sort_by([("source", "ascending"), ("path", "ascending")])
        shard = store.write_shard(table, recipe.fingerprint, 0, rows)
        store.commit(table, recipe, [shard], counts=counts, notes=notes)
    remove_folder(work)
    if not n_unreachable:
        for path in listings.values():
            remove_folder(local_place(path.parent) / "downloads")
    return counts


def _from_exif(images: pa.Table) -> dict[str, int]:
    """Of how many images the place and the time are the camera's."""
    told = [json.loads(text).get("from_exif", ()) for text in images["metadata"].to_pylist() if text]
    return dict(Counter(name for names in told for name in names))


def unique_images(version: TableVersion, columns: list[str]) -> pa.Table:
    """Rows of the images table with each `image_id` once (the first), in order: what is embedded and split."""
    rows = version.read(columns)
    first: dict[str, int] = {}
    for number, identity in enumerate(rows["image_id"].to_pylist()):
        first.setdefault(identity, number)
    return rows.take(pa.array(first.values(), pa.int64()))


def _source(settings: CollectSettings, name: str) -> Source:
    return next(source for source in open_sources(settings.sources) if source.name == name)


def _is_last_attempt(retries: int) -> bool:
    if not under_prefect():
        return True
    from prefect.context import TaskRunContext

    context = TaskRunContext.get()
    return context is None or context.task_run.run_count > retries
