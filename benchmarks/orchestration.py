"""What Prefect costs: a run with nothing to do, a shard, and 500 shards; appends to ``RESULTS.md``.

Run it on an idle machine: ``make bench``.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent), str(ROOT / "tests")]

from demo import RESULTS, append  # noqa: E402

if TYPE_CHECKING:
    from flows.settings import Settings

N_IMAGES = 500


def settings_of(folder: Path, *overrides: str) -> Settings:
    from flows.settings import load_settings

    given = [f"store={folder / 'store'}", f"collect.sources.0.path={folder / 'photos'}", "fit.n_resamples=100"]
    return load_settings(ROOT / "configs/folder.yaml", [*given, *overrides])


def seconds_of_command(folder: Path, **more: str) -> float:
    """Wall-clock seconds of ``placeprint run`` as a process of its own, with more variables in its environment."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", "run", "-c", "configs/folder.yaml", "--store", str(folder / "store")]
    command += ["-s", f"collect.sources.0.path={folder / 'photos'}", "-s", "fit.n_resamples=100"]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    subprocess.run(
        command, cwd=ROOT, env={**alone, **more}, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def compare_servers(folder: Path) -> None:
    """A small run with the server that the command starts, and with the one that Prefect would start, in turn."""
    from conftest import write_photos

    write_photos(folder / "photos", 24)
    seconds_of_command(folder)  # makes the server's database
    own: list[float] = []
    prefects: list[float] = []
    for _ in range(3):
        for measured, profile in ((own, {}), (prefects, {"PREFECT_PROFILE": "ephemeral"})):
            for part in ("tables", "images", "indexes", "reports"):
                shutil.rmtree(folder / "store" / part)
            measured.append(seconds_of_command(folder, **profile))
    append(
        "a run of 24 images: with the server that the command starts, and with the one that Prefect starts (medians of 3)",
        f"{statistics.median(own):.1f} and {statistics.median(prefects):.1f} s",
        f"{statistics.median(prefects) / statistics.median(own):.2f}x",
    )


def seconds_of_encoding(settings: Settings) -> float:
    from flows.encode import encode

    start = time.perf_counter()
    encode(settings)
    return time.perf_counter() - start


@contextmanager
def latencies_s() -> Iterator[list[float]]:
    """Seconds in which the server answers what a page of the UI asks, four times a second while the block runs."""
    from prefect.client.orchestration import get_client

    found: list[float] = []
    stop = threading.Event()

    def ask() -> None:
        with get_client(sync_client=True) as client:
            while not stop.wait(0.25):
                start = time.perf_counter()
                client.read_task_runs(limit=50)
                found.append(time.perf_counter() - start)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def main() -> None:
    from conftest import write_photos

    from flows.environment import quiet_terminal, use_store

    with tempfile.TemporaryDirectory() as name:
        compare_servers(Path(name))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", N_IMAGES)
        use_store(folder / "store")
        quiet_terminal()
        first, second, third = (seconds_of_command(folder) for _ in range(3))
        append(
            "a run of 500 images, and two runs with nothing to do, each from the start of its process",
            f"{first:.1f} s, then {second:.1f} and {third:.1f} s (goal: under 5 s)",
            f"{first / third:.0f}x",
        )
        from flows.deployments import server

        with server(4287):
            from flows.pipeline import pipeline

            pipeline(settings_of(folder))
            start = time.perf_counter()
            pipeline(settings_of(folder))
            again = time.perf_counter() - start
            append(
                "the flow `pipeline` with nothing to do, on a server that runs", f"{again:.2f} s (goal: under 5 s)", ""
            )
            whole = seconds_of_encoding(settings_of(folder, "encode.shard_size=500", "encode.batch_size=8"))
            whole = min(whole, seconds_of_encoding(settings_of(folder, "encode.shard_size=499", "encode.batch_size=8")))
            with latencies_s() as before:
                time.sleep(10)
            hundred = seconds_of_encoding(settings_of(folder, "encode.shard_size=5", "encode.batch_size=8"))
            with latencies_s() as during:
                each = seconds_of_encoding(settings_of(folder, "encode.shard_size=1", "encode.batch_size=8"))
            with latencies_s() as after:
                time.sleep(10)
    overhead_100, overhead_500 = (hundred - whole) / 99, (each - whole) / 499
    append(
        "500 images in 1, 100 and 500 shards: what a shard adds",
        f"{whole:.1f}, {hundred:.1f} and {each:.1f} s: {overhead_100:.3f} s a shard of 100, {overhead_500:.3f} s a shard of 500 "
        "(goal: under 0.3 s)",
        f"{overhead_500 / overhead_100:.2f}x from 100 to 500 shards",
    )
    ms = [1000 * statistics.median(each) for each in (before, during, after)]
    append(
        "a page of 50 task runs asked of the server, before, while and after 500 shards run (medians)",
        f"{ms[0]:.0f}, {ms[1]:.0f} and {ms[2]:.0f} ms",
        f"{ms[2] / ms[0]:.2f}x after to before",
    )
    print(RESULTS.read_text().splitlines()[-5:])


if __name__ == "__main__":
    main()
