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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = (seconds_of_run(Path(folder) / "store") for _ in range(2))
    line = (
        f"| {datetime.now(UTC):%Y-%m-%d} | demo | {os.cpu_count()} cores, {platform.machine()} | "
        f"first run {first:.1f} s, second run {second:.1f} s | {first / second:.0f}x |\n"
    )
    if not RESULTS.exists():
        RESULTS.write_text(
            "# Benchmark results\n\n| date | what | machine | figures | ratio |\n| --- | --- | --- | --- | --- |\n"
        )
    with RESULTS.open("a") as stream:
        stream.write(line)
    print(line)


if __name__ == "__main__":
    main()
