"""Manifests of runs: ``runs/<time>-<id>.json`` says what was run, with what, and what it read and wrote."""

from __future__ import annotations

import json
import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from typing import Any

from storage.atomic import write_bytes
from storage.s3_path import sorted_glob
from storage.store import Store
from storage.under_way import run_under_way

_current: ContextVar[RunRecord | None] = ContextVar("current_run", default=None)


class RunRecord:
    """What a run has done so far."""

    def __init__(self, flow: str, settings: Mapping[str, Any]) -> None:
        self.flow = flow
        self.settings = settings
        self.started_at = datetime.now(UTC)
        self.seconds: dict[str, float] = {}
        self.tables: dict[str, str] = {}
        self.reused: list[str] = []
        self.figures: dict[str, Any] = {}
        self.warnings: list[str] = []

    def write(self, store: Store, status: str) -> None:
        """Write the manifest; a run that failed has one too."""
        content = {
            "flow": self.flow,
            "status": status,
            "started_at": self.started_at.isoformat(timespec="seconds"),
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
            "settings": self.settings,
            "tables": self.tables,
            "reused": self.reused,
            "figures": self.figures,
            "warnings": self.warnings,
            "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
            "packages": _packages(),
        }
        name = f"{self.started_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.json"
        write_bytes(store.root / "runs" / name, json.dumps(content, indent=1).encode())


@cache
def _packages() -> dict[str, str]:
    """Name and version of all that is installed."""
    # A distribution parses its file at each look.
    read = [each.metadata for each in distributions()]
    return dict(sorted((each["Name"], each["Version"]) for each in read))


def last_figures(store: Store, name: str, **wanted: Any) -> dict[str, Any] | None:
    """What the newest run noted under `name` in which `wanted` is so; None when there is none."""
    for manifest in _manifests(store):
        figures = manifest.get("figures", {}).get(name)
        if figures is not None and all(figures.get(key) == value for key, value in wanted.items()):
            return dict(figures)
    return None


def last_tables(store: Store, table: str) -> Iterator[str]:
    """Fingerprints of a table that completed runs made or found, the newest run first."""
    for manifest in _manifests(store):
        if manifest.get("status") == "completed" and table in manifest.get("tables", {}):
            yield str(manifest["tables"][table])


def _manifests(store: Store) -> Iterator[dict[str, Any]]:
    """The manifests of runs that can be read, the newest first."""
    for path in reversed(sorted_glob(store.root / "runs", "*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(content, dict):
            yield content


@contextmanager
def recorded(store: Store, stage: str, settings: Mapping[str, Any]) -> Iterator[RunRecord]:
    """Record a stage: as a run of its own, or as a part of the run that is under way."""
    outer = _current.get()
    if outer is not None:
        with _timed(outer, stage):
            yield outer
        return
    with run_under_way(store):
        record, status = RunRecord(stage, settings), "failed"
        token = _current.set(record)
        try:
            with _timed(record, stage):
                yield record
            status = "completed"
        finally:
            _current.reset(token)
            record.write(store, status)


@contextmanager
def _timed(record: RunRecord, stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        record.seconds[stage] = time.perf_counter() - start
