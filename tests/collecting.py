"""Running the flow `collect` on one source, and looking at what it made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from flows.settings import Settings
from storage.store import Store


def settings(store: Path, source: dict[str, Any], *, labels: str = "country211", **collect: Any) -> Settings:
    section = {"sources": [source], "retries": 0, "retry_delay_s": 0.0, **collect}
    return Settings.model_validate({"store": store, "labels": labels, "collect": section})


def run(given: Settings) -> dict[str, int]:
    from flows.collect import collect

    version = Store(given.store).version("images", collect(given))
    counts = dict(version.counts)
    assert counts["listed"] == counts["kept"] + counts["rejected"] + counts["exact_duplicates"]
    return counts


def table(store: Path, name: str) -> pl.DataFrame:
    frame = pl.from_arrow(Store(store).version(name).read())
    assert isinstance(frame, pl.DataFrame)
    return frame


def reasons(store: Path) -> dict[str, str]:
    rejects = table(store, "rejects")
    return dict(zip(rejects["path"], rejects["reason"], strict=True))
