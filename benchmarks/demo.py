"""Time the demo from an empty store, and again with everything done; appends to ``RESULTS.md``.

Run it on an idle machine: ``make bench``.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("RESULTS.md")


def seconds_of_run(store: Path) -> float:
    """Wall-clock seconds of one ``placeprint run``."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", "run", "-c", "configs/demo.yaml", "--store", str(store)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def append(what: str, figures: str, ratio: str) -> None:
    """Add a line to the results, with the date and this machine."""
    line = f"| {datetime.now(UTC):%Y-%m-%d} | {what} | {os.cpu_count()} cores, {platform.machine()} | {figures} | {ratio} |\n"
    if not RESULTS.exists():
        RESULTS.write_text(
            "# Benchmark results\n\n| date | what | machine | figures | ratio |\n| --- | --- | --- | --- | --- |\n"
        )
    with RESULTS.open("a") as stream:
        stream.write(line)
    print(line)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = (seconds_of_run(Path(folder) / "store") for _ in range(2))
    append("demo", f"first run {first:.1f} s, second run {second:.1f} s", f"{first / second:.0f}x")


if __name__ == "__main__":
    main()
