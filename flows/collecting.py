"""What the flow `collect` does, in a run of Prefect's or without Prefect: sources -> images, rejects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from flows.progress import gather, say, say_who_is_waited_for, working
from flows.settings import Settings
from flows.shortfalls import check_rejects
from flows.side_by_side import side_by_side, threads
from storage.host_locks import alone
from storage.runs import RunRecord, recorded
from storage.s3_path import StorePath
from storage.store import Store
from tasks.collect.listing import listing_remarks
from tasks.collect.recipes import collect_recipe, known_listings
from tasks.collect.service import ServiceSettings
from tasks.collect.source import Item
from tasks.collect.sources import open_sources
from tasks.collect.steps import collect_shard, commit_images, list_source, listed

TABLES = ("rejects", "images")

SHARDS_AT_ONCE = 4
_MOST_RETRIES = 50  # that Prefect takes delays for


class Part(NamedTuple):
    """A run of items of one listing, for one task."""

    source: str
    start: int
    stop: int
    title: str


def collect_images(settings: Settings) -> str:
    """Collect every source of the settings; returns the fingerprint of the tables."""
    store = Store(settings.store)
    with recorded(store, "collect", settings.model_dump(mode="json")) as run:
        found = _found(store, settings, run)
        if found is None:
            with alone(["collect"], say_who_is_waited_for) as waited:
                found = (_found(store, settings, run) if waited else None) or _collect(store, settings, run)
        return found


def _found(store: Store, settings: Settings, run: RunRecord) -> str | None:
    """The fingerprint of the tables if they are there; else None."""
    known = known_listings(store.root, settings.collect)
    if known is None:
        return None
    recipe = collect_recipe(settings.collect, settings.labels, known)
    if not store.reuse(recipe, TABLES):
        return None
    run.reused.append("collect")
    run.tables["images"] = run.tables["rejects"] = recipe.fingerprint
    say("collect: nothing to do, images %s are there", recipe.fingerprint)
    return recipe.fingerprint


def _collect(store: Store, settings: Settings, run: RunRecord) -> str:
    given, work = settings.collect, store.new_work_folder()
    again: dict[str, Any] = {
        "retries": given.retries,
        "retry_delay_seconds": [given.retry_delay_s * 2**n for n in range(min(given.retries, _MOST_RETRIES))],
        "retry_jitter_factor": 0.5,
    }
    ask, fetch = list_source.with_options(**again), collect_shard.with_options(**again)
    sources = open_sources(given.sources)
    with side_by_side(threads(SHARDS_AT_ONCE)) as submit:
        with working("list sources"):
            lists = [submit(ask, store.root, given, work, source.name, settings.labels) for source in sources]
            listings = {source.name: each.result() for source, each in zip(sources, lists, strict=True)}
        remarks = {name: listing_remarks(path) for name, path in listings.items()}
        for name, lines in remarks.items():
            for line in lines:
                say("collect: %s: %s", name, line)
        parts: list[Part] = []
        for source in sources:
            items = listed(given, source.name, settings.labels, listings[source.name])
            is_service = isinstance(source.settings, ServiceSettings)
            parts += _parts(source.name, items, given.shard_size, by_place=is_service)
            if is_service:
                wanted = sum(item.problem is None for item in items)
                say("collect: %s lists %d inputs, of which %d are wanted", source.name, len(items), wanted)
        shards = [
            submit(fetch, store.root, given, work, part.source, settings.labels, listings[part.source], *part[1:])
            for part in parts
        ]
        done = gather("collect", shards, [part.stop - part.start for part in parts])
    missing = [path for counts in done for path in counts.unreachable]
    services: dict[str, StorePath] = {
        source.name: listings[source.name] for source in sources if isinstance(source.settings, ServiceSettings)
    }
    recipe = collect_recipe(settings.collect, settings.labels, services, missing)
    n_listed = sum(part.stop - part.start for part in parts)
    counts = commit_images(store.root, recipe, work, n_listed, len(missing), services, remarks)
    run.tables["images"] = run.tables["rejects"] = recipe.fingerprint
    say(
        "collect: %d inputs = %d kept + %d rejected + %d exact duplicates",
        *(counts[name] for name in ("listed", "kept", "rejected", "exact_duplicates")),
    )
    notes = store.version("images", recipe.fingerprint).notes
    if notes["from_exif"]:
        told = ", ".join(f"{name.replace('_', ' ')} of {n} images" for name, n in sorted(notes["from_exif"].items()))
        say("collect: from the cameras' own EXIF: %s", told)
    if conflicts := notes["conflicts"]:
        told = ", ".join(f"{n} of another {field}" for field, n in conflicts.items())
        warning = f"collect: exact copies say different things of their picture: {told}; select * from rejects where detail like '%and not%'"
        run.warnings.append(warning)
        say("warning: %s", warning)
    check_rejects(run, settings.quality, "collect", n_listed, store.version("rejects", recipe.fingerprint))
    if missing:
        say("collect: %d of the rejected could not be reached: run again, and only they are asked for", len(missing))
    return recipe.fingerprint


def _parts(source: str, items: Sequence[Item], size: int, *, by_place: bool) -> Iterator[Part]:
    """Cut a listing into runs of at most `size` items; with `by_place` also where the country or folder changes."""
    start = 0
    for stop in range(1, len(items) + 1):
        is_end = stop == len(items)
        if is_end or stop - start == size or (by_place and _place(items[stop]) != _place(items[start])):
            place = f"{_place(items[start])} " if by_place else ""
            yield Part(source, start, stop, f"{place}{start}-{stop}")
            start = stop


def _place(item: Item) -> str:
    folder, slash, _ = item.path.partition("/")
    return item.label or (folder if slash else "")
