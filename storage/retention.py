"""What a store keeps, and the removal of the rest: ``placeprint gc``.

Terminology
-----------
kept
    A fingerprint is kept when a table's `selected` pointer names it, when it is one of the newest `keep_last` versions of a table
    made by one step, when a file of it changed less than `older_than_s` ago, or when the recipe of another kept version names it.
    With it stay all tables of that fingerprint, its index, its heads and its collection cards.
removed
    Fingerprints that are not kept, whether they were finished or not; reports on them; image files that no version of `images`
    names; work folders; what killed processes left under a temporary name. All only when no file in it changed for `older_than_s`.
never touched
    ``labels/`` (a person's answers), ``plans/``, ``runs/`` (small, and the memory of what was done), ``listings/``, ``originals/``
    and ``quarantine/`` (what services sent, which may not be had again), but for temporary files; and what has no name that
    placeprint gives.

What is guaranteed
------------------
- Nothing is removed while a run is under way (`storage.under_way`), and a run that begins waits for the removal to end.
- What is selected can be read at any time, also when it was selected while a removal is under way without a run (``placeprint run``
  looks what is there before it starts one): the manifests go first, then the pointers are looked at once more, and the
  manifests are put back if one names them; `Store.reuse` selects first and then looks once more for the manifest. So either the
  removal sees the pointer, or the run sees that the version is gone and makes it again.
- An image that any manifest names when images are removed stays.
- A version is whole or it is none, wherever a removal is cut off: what it left are unfinished folders, which the next one removes.
- Two at once: the second refuses. On S3, where a lease is not exclusive, both may go on: they remove the same things.

What is not
-----------
- A process that only reads (``sql`` on an older version, ``search``, the page for labelling) is not seen. What is selected stays; an
  older version that it reads may go.
- A run on another machine that could not renew its lease for ten minutes (it slept, or the disk was away) counts as ended. Then
  only age protects what it reuses.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain

from storage.atomic import remove_folder, write_bytes
from storage.errors import StoreError
from storage.leases import Leases
from storage.s3_path import StoredFile, StorePath, files_below
from storage.store import FORMER_MANIFEST, MANIFEST, RECIPE_FILE, SELECTED, Store, TableVersion, manifest_in
from storage.under_way import TTL_S, removal_under_way

FOLDERS = (
    "tables",
    "indexes",
    "heads",
    "collections",
    "reports",
    "images",
    "originals",
    "quarantine",
    "listings",
    "work",
    "runs",
    "plans",
    "searches",
    "leases",
)
# What is removed as a whole, by kind: a folder or a file. Names that placeprint does not give match none.
_FINGERPRINT = r"(?P<fingerprint>[0-9a-f]{16})/"
_PLACES = {
    "table versions": re.compile(rf"tables/[^/]+/{_FINGERPRINT}"),
    "indexes": re.compile(rf"indexes/{_FINGERPRINT}"),
    "heads": re.compile(rf"heads/{_FINGERPRINT}"),
    "collection cards": re.compile(rf"collections/[^/]+/{_FINGERPRINT}"),
    "reports": re.compile(r"reports/[0-9a-f]{16}/"),
    "images": re.compile(r"images/([0-9a-f]{2})/\1[0-9a-f]{30}\.\w+$"),
    "work folders": re.compile(r"work/[0-9a-f]{12}/"),
    "leases": re.compile(r"leases/run-[0-9a-f]{12}\.lease$"),
}
_UNFINISHED, _TEMPORARY = "unfinished versions", "temporary files"
# Also commands that are no runs write these for a moment.
_SHORT_LIVED = ("leases", _TEMPORARY)
# As storage/atomic.py and storage/leases.py name them; DuckDB adds an ending of its own.
_TEMPORARY_NAME = re.compile(r"(.*/)?\.([^/]+\.\d+-[0-9a-f]{8}\.tmp(\.wal)?|now-[0-9a-f]{12})$")
_PAGE = "index.html"
_REMOVED_AT_ONCE = 16  # on S3 a file is a request, and most of its time is waiting


@dataclass(frozen=True)
class Removal:
    """A folder or a file that is to be removed, or was: what it is, its size, and the fingerprint that it belongs to, if any."""

    kind: str
    path: StorePath
    bytes: int
    fingerprint: str | None = None


@dataclass
class _Thing:
    """What lies in one place, as its files say."""

    kind: str
    fingerprint: str | None
    bytes: int = 0
    changed_s: float = 0.0
    leases: list[str] = field(default_factory=list)

    def add(self, file: StoredFile) -> None:
        self.bytes += file.bytes
        self.changed_s = max(self.changed_s, file.changed_s)
        if file.name.endswith(".lease"):
            self.leases.append(file.name)


def collect_garbage(store: Store, *, keep_last: int, older_than_s: float, now: float) -> list[Removal]:
    """Plan and remove, while no run is under way; returns what was removed.

    Raises
    ------
    StoreError
        As `plan_removals`, and when a run or another removal is under way.
    """
    _versions(store)  # before a lease makes a folder where no store is
    with removal_under_way(store):
        return remove(store, plan_removals(store, keep_last=keep_last, older_than_s=older_than_s, now=now))


def plan_removals(store: Store, *, keep_last: int, older_than_s: float, now: float) -> list[Removal]:
    """What `remove` would remove. Changes nothing.

    Parameters
    ----------
    keep_last
        How many versions of each table and step are kept whatever their age; at least 1.
    older_than_s
        Seconds for which nothing in a thing must have changed.
    now
        Seconds since 1970, by the clock that also dates the files.

    Returns
    -------
    list of Removal
        Versions made last come first, so that what was made from another version goes before it.

    Raises
    ------
    StoreError
        When the store holds no tables, or a manifest or the file names of a kept version of `images` cannot be read: then it
        is not known what must stay.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last must be 1 or more, got {keep_last}")
    things = _things(store)
    versions = _versions(store)
    oldest_kept_s = now - older_than_s
    changed_s: dict[str | None, float] = defaultdict(float)
    for thing in things.values():
        changed_s[thing.fingerprint] = max(changed_s[thing.fingerprint], thing.changed_s)
    roots = {fingerprint for fingerprint, last_s in changed_s.items() if fingerprint and last_s > oldest_kept_s}
    roots |= {store.version(table).fingerprint for table in {each.table for each in versions}}
    roots |= _newest(versions, keep_last)
    roots |= {each.fingerprint for each in things.values() if each.fingerprint and _is_leased(store, each)}
    kept = _with_inputs(roots, versions)
    named = _image_files(version for version in versions if version.fingerprint in kept)
    committed = {(each.table, each.fingerprint) for each in versions}

    def goes(name: str, thing: _Thing) -> bool:
        if thing.fingerprint is not None:
            return thing.fingerprint not in kept
        if thing.changed_s > (oldest_kept_s if thing.kind not in _SHORT_LIVED else min(oldest_kept_s, now - TTL_S)):
            return False
        if thing.kind == "reports":
            return _is_outdated(store.root / name, kept)
        return not (thing.kind == "images" and name in named) and not _is_leased(store, thing)

    planned = {name: thing for name, thing in things.items() if goes(name, thing)}
    folders = {name for name, thing in planned.items() if thing.kind != _TEMPORARY}
    removals = []
    for name, thing in planned.items():
        if thing.kind == _TEMPORARY and any(parent in folders for parent in _parents(name)):
            continue  # it goes with its folder
        is_version = thing.kind == "table versions"
        unfinished = is_version and (name.split("/")[1], thing.fingerprint) not in committed
        kind = _UNFINISHED if unfinished else thing.kind
        removals.append(Removal(kind, store.root / name, thing.bytes, thing.fingerprint))
    made_at: dict[str | None, str] = defaultdict(str)
    for version in versions:
        made_at[version.fingerprint] = max(made_at[version.fingerprint], version.created_at)
    removals.sort(key=lambda each: str(each.path))
    return sorted(removals, key=lambda each: made_at[each.fingerprint], reverse=True)


def remove(store: Store, removals: Iterable[Removal]) -> list[Removal]:
    """Remove what was planned, but for what is selected or named by now; returns what is gone through this call."""
    of_versions: dict[str, list[Removal]] = defaultdict(list)
    others: list[Removal] = []
    images: list[Removal] = []
    for each in removals:
        if each.fingerprint is not None:
            of_versions[each.fingerprint].append(each)
        else:
            (images if each.kind == "images" else others).append(each)
    removed = []
    for fingerprint, things in of_versions.items():
        if _hide(store, fingerprint, things):
            removed += [each for each in things if _is_removed(each)]
    removed += [each for each in others if _is_removed(each)]
    if images:
        # Also those of versions that were planned to go and stayed.
        named = {store.root / name for name in _image_files(store.versions("images"))}
        unnamed = [each for each in images if each.path not in named]
        with ThreadPoolExecutor(_REMOVED_AT_ONCE) as pool:
            gone = pool.map(_is_removed, unnamed)
            removed += [each for each, is_gone in zip(unnamed, gone, strict=True) if is_gone]
    return removed


def _versions(store: Store) -> list[TableVersion]:
    versions = store.versions()
    if not versions:
        raise StoreError(f"{store.root} holds no tables yet: nothing is removed from what may be no store")
    return versions


def _things(store: Store) -> dict[str, _Thing]:
    """What lies in the store, by its path from the root. A temporary file counts for its folder, and by itself."""
    things: dict[str, _Thing] = {}
    for file in _files(store):
        for kind, place in _PLACES.items():
            if match := place.match(file.name):
                name = match[0].rstrip("/")
                things.setdefault(name, _Thing(kind, match.groupdict().get("fingerprint"))).add(file)
        if _TEMPORARY_NAME.match(file.name):
            things.setdefault(file.name, _Thing(_TEMPORARY, None)).add(file)
    return things


def _files(store: Store) -> Iterator[StoredFile]:
    for folder in FOLDERS:
        for file in files_below(store.root / folder):
            yield file._replace(name=f"{folder}/{file.name}")
    for path in store.root.glob(".*.tmp*"):
        with suppress(FileNotFoundError):  # finished since it was listed
            status = path.stat()
            yield StoredFile(path.name, status.st_size, status.st_mtime)


def _newest(versions: Iterable[TableVersion], n: int) -> set[str]:
    """The fingerprints of the newest `n` versions of each table and step; `versions` come oldest first."""
    by_step: dict[tuple[str, str], list[str]] = defaultdict(list)
    for version in versions:
        by_step[version.table, version.step].append(version.fingerprint)
    return set(chain.from_iterable(fingerprints[-n:] for fingerprints in by_step.values()))


def _with_inputs(roots: Iterable[str], versions: Iterable[TableVersion]) -> set[str]:
    """The roots, and every fingerprint from which they were made, however far back.

    Inputs that are no versions (hashes of files, ids of encoders) may be among them and do no harm.
    """
    inputs: dict[str, set[str]] = defaultdict(set)
    for version in versions:
        inputs[version.fingerprint].update(version.manifest["recipe"]["inputs"].values())
    kept: set[str] = set()
    waiting = list(roots)
    while waiting:
        fingerprint = waiting.pop()
        if fingerprint not in kept:
            kept.add(fingerprint)
            waiting += inputs.get(fingerprint, ())
    return kept


def _image_files(versions: Iterable[TableVersion]) -> set[str]:
    """The files that versions of `images` name, as paths from the store's root."""
    return {
        str(file)
        for version in versions
        if version.table == "images"
        for file in version.read(["file"])["file"].to_pylist()
    }


def _is_outdated(report: StorePath, kept: set[str]) -> bool:
    """Whether a report has no page, or is on something that is not kept; where it does not say on what, it stays."""
    if not (report / _PAGE).is_file():
        return True
    try:
        inputs = json.loads((report / RECIPE_FILE).read_bytes())["inputs"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return not kept.issuperset(inputs)


def _is_leased(store: Store, thing: _Thing) -> bool:
    paths = [store.root / name for name in thing.leases]
    return any(Leases(path.parent).is_held(path.stem) for path in paths)


def _parents(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _hide(store: Store, fingerprint: str, things: Iterable[Removal]) -> bool:
    """Take away the manifests of a fingerprint, so that it is no version any more; False, and all is as it was, if it is selected."""
    if _is_selected(store, fingerprint):
        return False
    hidden: dict[StorePath, bytes] = {}
    for each in things:
        manifest = manifest_in(each.path) if each.kind == "table versions" else None
        if manifest is not None:
            with suppress(OSError):  # what cannot be removed stays
                hidden[manifest] = manifest.read_bytes()
                manifest.unlink()
    if not _is_selected(store, fingerprint):
        return True
    for path, content in hidden.items():
        write_bytes(path, content, exclusive=True)
    return False


def _is_selected(store: Store, fingerprint: str) -> bool:
    return any(path.read_text().strip() == fingerprint for path in (store.root / "tables").glob(f"*/{SELECTED}"))


def _is_removed(removal: Removal) -> bool:
    """Remove a file, or a folder with what says that it is whole first; False for what was gone, or cannot be removed."""
    path = removal.path
    try:
        if path.is_file():
            path.unlink()
            return True
        if not path.is_dir():
            return False
        for name in (MANIFEST, FORMER_MANIFEST, _PAGE):
            (path / name).unlink(missing_ok=True)
    except OSError:
        return False
    remove_folder(path)
    return not path.exists()
