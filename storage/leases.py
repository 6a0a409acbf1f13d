"""Leases: small files that say who is making something, so that two runs at once share work out rather than do it twice.

A lease is a courtesy. Whoever makes a shard makes the same bytes and puts them in place in one step, so two owners at once
cost time and nothing else. That is why files will do, on any disk that machines share, and no database is needed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from storage.atomic import write_bytes
from storage.errors import StoreError
from storage.s3_path import StorePath

TTL_S = 60.0


class Leases:
    """The leases in one folder.

    A lease expires when its owner has not renewed it for `ttl_s`, or at once when its owner was a process of this machine
    that no longer runs. Its age is told by the disk's clock alone: the clocks of the machines may differ.

    Parameters
    ----------
    folder
        Shared by all who take leases.
    ttl_s
        Seconds without a renewal after which a lease is free again.
    """

    def __init__(self, folder: StorePath, ttl_s: float = TTL_S) -> None:
        self.folder = folder
        self.ttl_s = ttl_s

    @contextmanager
    def held(self, name: str) -> Iterator[bool]:
        """Hold the lease of `name` while the block runs, renewing it; False when another one holds it."""
        owner = secrets.token_hex(8)
        if not self._take(name, owner):
            yield False
            return
        stop = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(name, owner, stop), daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            stop.set()
            renewing.join()
            if self._owner(name) == owner:
                self._path(name).unlink(missing_ok=True)

    def is_held(self, name: str) -> bool:
        """Whether somebody holds the lease of `name` now."""
        return self._path(name).is_file() and not self._is_abandoned(name)

    def _take(self, name: str, owner: str) -> bool:
        path = self._path(name)
        if self._is_abandoned(name):
            path.unlink(missing_ok=True)
        write_bytes(path, self._content(owner), durable=False, exclusive=True)
        return self._owner(name) == owner

    def _renew(self, name: str, owner: str, stop: threading.Event) -> None:
        while not stop.wait(self.ttl_s / 4):
            if self._owner(name) != owner:
                return  # it expired, perhaps while this machine slept: another one has it now
            with suppress(OSError, StoreError):
                write_bytes(self._path(name), self._content(owner), durable=False)

    def _is_abandoned(self, name: str) -> bool:
        holder = self._holder(name)
        try:
            changed_s = self._path(name).stat().st_mtime
        except FileNotFoundError:
            return False
        if holder is not None and _has_ended(holder):
            return True
        # A lease from the future was written before the disk's clock was set back.
        return abs(self._now_s() - changed_s) > self.ttl_s

    def _now_s(self) -> float:
        """The time by the clock that also dates the leases."""
        probe = self.folder / f".now-{secrets.token_hex(6)}"
        try:
            write_bytes(probe, b"", durable=False)
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _owner(self, name: str) -> str | None:
        holder = self._holder(name)
        return None if holder is None else str(holder.get("owner"))

    def _holder(self, name: str) -> dict[str, Any] | None:
        """What a lease says; None when there is none, or it says nothing that can be read."""
        try:
            content = json.loads(self._path(name).read_bytes())
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def _content(self, owner: str) -> bytes:
        return json.dumps({"owner": owner, **_whereabouts()}).encode()

    def _path(self, name: str) -> StorePath:
        return self.folder / f"{name}.lease"


def _whereabouts() -> dict[str, Any]:
    """Which process, of which machine (or container), this is."""
    return {"host": socket.gethostname(), "processes": _process_namespace(), "pid": os.getpid()}


def _process_namespace() -> str | None:
    """Containers may share a host's name, but not its process numbers."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _has_ended(holder: dict[str, Any]) -> bool:
    here = _whereabouts()
    if holder.get("host") != here["host"] or holder.get("processes") != here["processes"]:
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (KeyError, ValueError, OverflowError, PermissionError):
        return False
    return False
