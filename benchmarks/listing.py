"""What the listing costs the shards of a collection: each edits its own items, where it once edited all of them.

Run it with: python benchmarks/listing.py. Appends to RESULTS.md. Both ways are timed in turn, on the same listing of 100,000 files; then
the whole of it, writing included, for 100,000 and for 1,000,000.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tasks.collect.folder import FolderSettings
from tasks.collect.listing import read_listing, write_listing
from tasks.collect.settings import CollectSettings
from tasks.collect.source import Item
from tasks.collect.steps import listed

RESULTS = Path(__file__).parent / "RESULTS.md"
FEW, MANY, LABELS = 100_000, 1_000_000, 150
REPEATS = 3


def note(what: str, figures: str, ratio: str) -> None:
    line = f"| {datetime.now(UTC):%Y-%m-%d} | {what} | {os.cpu_count()} cores, {platform.machine()} | {figures} | {ratio} |"
    print(line, flush=True)
    with RESULTS.open("a") as stream:
        stream.write(line + "\n")


def seconds(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def main() -> None:
    """Measure, and append what was found."""
    with tempfile.TemporaryDirectory() as folder:
        settings = CollectSettings(sources=(FolderSettings(path=Path(folder), name="photos"),))

        def listing_of(n: int) -> Path:
            path = Path(folder) / f"{n}.parquet"
            write_listing(
                path, (Item(f"label {k % LABELS}/{k:08d}.jpg", label=f"label {k % LABELS}") for k in range(n))
            )
            return path

        def own(path: Path, n: int) -> None:
            for start in range(0, n, settings.shard_size):
                listed(settings, "photos", "from-data", path, start, start + settings.shard_size)

        def every(path: Path, n_shards: int) -> None:
            for start in range(0, n_shards * settings.shard_size, settings.shard_size):
                listed(settings, "photos", "from-data", path)[start : start + settings.shard_size]

        def written_and_shared_out(n: int) -> None:
            own(listing_of(n), n)

        few = listing_of(FEW)
        read_listing(few)
        n_shards = FEW // settings.shard_size
        # Of the slow way a tenth of the shards is timed.
        before_s = min(seconds(lambda: every(few, n_shards // 10)) for _ in range(REPEATS)) * 10
        now_s = min(seconds(lambda: own(few, FEW)) for _ in range(REPEATS))
        note(
            f"collect, the shards' items of a listing of {FEW:,} files in {n_shards} shards: cut before they are edited, and after (a tenth, scaled)",
            f"{now_s:.2f} s and {before_s:.1f} s",
            f"{before_s / now_s:.0f}x less (goal 50)",
        )
        whole = {}
        for n in (FEW, MANY):
            read_listing.cache_clear()
            whole[n] = seconds(partial(written_and_shared_out, n))
        note(
            f"collect, listings of {FEW:,} and {MANY:,} files: written, read, shared out",
            f"{whole[FEW]:.1f} s and {whole[MANY]:.1f} s",
            f"{whole[MANY] / whole[FEW]:.1f}x (goal: at most 11)",
        )


if __name__ == "__main__":
    main()
