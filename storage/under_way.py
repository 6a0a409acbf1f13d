"""Runs and the removal of old things take turns in a store: leases in ``leases/`` say what is under way.

Each writes its own lease first and then looks for the other's. So of two that begin at one moment at least one sees the other:
a run then waits, and a removal gives up.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from storage.atomic import remove_folder
from storage.errors import StoreError
from storage.leases import Leases
from storage.s3_path import sorted_glob
from storage.store import Recipe, Store, manifest_in

FOLDER = "leases"
# Long, so that a machine may be busy, or sleep for a while, and its run is still seen; a lease of a process of this machine that
# was killed is free at once, however long.
TTL_S = 600.0
REMOVAL = "gc"
_LOOK_AGAIN_S = 0.5


@contextmanager
def run_under_way(store: Store) -> Iterator[None]:
    """Say that a run is under way while the block runs; waits first for a removal that is."""
    leases = _leases(store)
    with leases.held(f"run-{secrets.token_hex(6)}"):
        while leases.is_held(REMOVAL):
            time.sleep(_LOOK_AGAIN_S)
        yield


@contextmanager
def removal_under_way(store: Store) -> Iterator[None]:
    """Keep runs from beginning while the block runs.

    Raises
    ------
    StoreError
        When a run, or another removal, is under way.
    """
    leases = _leases(store)
    with leases.held(REMOVAL) as mine:
        if not mine:
            raise StoreError(f"gc: another gc is under way in {store.root}: nothing was removed")
        runs = [path.stem for path in sorted_glob(leases.folder, "run-*.lease") if leases.is_held(path.stem)]
        if runs:
            raise StoreError(
                f"gc: runs are under way in {store.root} ({len(runs)}): nothing was removed, try again later"
            )
        yield


def take_away(store: Store, versions: Mapping[str, Recipe]) -> None:
    """Take away what there is of these versions, by table, so that they are made anew. Called by a run.

    Raises
    ------
    StoreError
        When another run is under way, which may be reading them.
    """
    leases = _leases(store)
    runs = [path.stem for path in sorted_glob(leases.folder, "run-*.lease") if leases.is_held(path.stem)]
    if len(runs) > 1:
        raise StoreError(
            f"encode.fresh: other runs are under way in {store.root}: nothing was taken away, try again later"
        )
    for table, recipe in versions.items():
        folder = store.folder(table, recipe.fingerprint)
        # First what says that it is complete: it is there wholly or not at all.
        manifest = manifest_in(folder)
        if manifest is not None:
            manifest.unlink(missing_ok=True)
        remove_folder(folder)


def _leases(store: Store) -> Leases:
    return Leases(store.root / FOLDER, TTL_S)
