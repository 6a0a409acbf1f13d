"""Collecting from a service by the command line, killed at any moment, and by two at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from collecting import table
from command_line import start
from loopback import Loopback
from services import FakeOpenAerialMap, FakeOsf, jpeg, meta_record, thumbnail
from shapely.geometry import box

from storage.store import Store

FILES = {f"{label}/{number}.jpg": jpeg(number) for number, label in enumerate(["Egypt", "France", "Japan"] * 10)}


pytestmark = pytest.mark.usefixtures("prefect_server")


def osf_options(loopback: Loopback, store: Path) -> list[str]:
    wanted = {"base_url": f"{loopback.url}/v2", "requests_per_second": "null", "backoff_s": "0.01", "connections": "2"}
    sets = [option for name, value in wanted.items() for option in ("-s", f"collect.sources.0.{name}={value}")]
    return ["collect", "osf", "pe453", "--store", str(store), *sets, "-s", "collect.shard_size=10"]


def test_killed_at_any_moment_and_run_again_is_the_undisturbed_table(loopback: Loopback, tmp_path: Path) -> None:
    osf = FakeOsf(loopback, FILES)
    quiet = tmp_path / "quiet"
    process = start(*osf_options(loopback, quiet), home=tmp_path)
    assert process.wait(120) == 0, process.stdout and process.stdout.read()
    loopback.latency_s = 0.15
    store = tmp_path / "store"
    # Killed while it lists, while it fetches, and while it fetches what was left.
    for n_requests in (2, 12, 30):
        loopback.requests.clear()
        process = start(*osf_options(loopback, store), home=tmp_path)
        deadline = time.monotonic() + 240
        while len(loopback.requests) < n_requests and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not Store(store).versions()
    loopback.requests.clear()
    process = start(*osf_options(loopback, store), home=tmp_path)
    assert process.wait(120) == 0, process.stdout and process.stdout.read()
    assert table(store, "images").equals(table(quiet, "images"))
    assert Store(store).version("images").fingerprint == Store(quiet).version("images").fingerprint
    fetched = [request.path for request in loopback.requests if request.path.startswith("/storage")]
    assert len(fetched) == len(set(fetched)) < len(FILES)  # only what was missing
    assert {osf.storage(path) for path in FILES} >= set(fetched)


def test_two_at_once(loopback: Loopback, tmp_path: Path) -> None:
    FakeOsf(loopback, FILES)
    loopback.latency_s = 0.03
    store = tmp_path / "store"
    processes = [start(*osf_options(loopback, store), home=tmp_path / name) for name in ("one", "two")]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert table(store, "images")["path"].to_list() == sorted(FILES)
    assert len(Store(store).versions("images")) == 1


@pytest.mark.parametrize("backend", ["meta", "stac"])
def test_openaerialmap_from_the_command_line(loopback: Loopback, tmp_path: Path, backend: str) -> None:
    record = meta_record(1, box(-56.001, -33.001, -56.0, -33.0), f"{loopback.url}/thumbs/1.png")
    base_url = FakeOpenAerialMap(loopback, [record], {"1.png": thumbnail(1)}).settings(backend)["base_url"]
    wanted = {"base_url": base_url, "backend": backend, "countries": "[Uruguay]", "requests_per_second": "null"}
    sets = [option for name, value in wanted.items() for option in ("-s", f"collect.sources.0.{name}={value}")]
    process = start("collect", "openaerialmap", "--store", str(tmp_path / "store"), *sets, home=tmp_path)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    assert "1 inputs = 1 kept + 0 rejected + 0 exact duplicates" in output
