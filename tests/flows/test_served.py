"""``placeprint serve``: a schedule that fires, and the Prefect UI in a real browser. A file of its own: the browser's event loop stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
import pytest
from command_line import environment, folder_options, start
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from storage.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def wait_for_server(address: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            httpx.get(f"{address}/health").raise_for_status()
            return
        time.sleep(0.5)


def wait_for_run(client: SyncPrefectClient, name: str, process: subprocess.Popen[str]) -> FlowRun:
    """The first run of a deployment's that has ended well."""
    wanted = DeploymentFilter(name=DeploymentFilterName(any_=[name]))
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        for run in client.read_flow_runs(deployment_filter=wanted):
            if run.state is not None and run.state.is_completed():
                return run
        time.sleep(0.5)
    process.kill()
    raise AssertionError(process.stdout.read() if process.stdout else "no run ended")


def look_at_run(browser: Browser, address: str, run: FlowRun, artifacts: dict[str, UUID]) -> list[str]:
    """Open a flow run's page in the Prefect UI, and some of its artifacts; returns what was asked for elsewhere."""
    site = address.removesuffix("/api")
    tab = browser.new_page(viewport={"width": 1400, "height": 1300}, color_scheme="light")
    elsewhere: list[str] = []
    tab.on(
        "request", lambda asked: None if asked.url.startswith((site, "data:", "blob:")) else elsewhere.append(asked.url)
    )
    tab.goto(f"{site}/runs/flow-run/{run.id}")
    tab.get_by_text("Artifacts", exact=True).first.click(timeout=60_000)
    tab.get_by_text("report-map").first.wait_for(timeout=60_000)
    tab.locator("canvas").first.wait_for(timeout=60_000)
    tab.wait_for_timeout(2000)  # the timeline is drawn there
    folder = Path("build/screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=folder / "prefect-run.png")
    tab.goto(f"{site}/artifacts/artifact/{artifacts['metrics']}")
    tab.get_by_text("majority-class").first.wait_for(timeout=60_000)
    tab.goto(f"{site}/artifacts/artifact/{artifacts['report-confusion']}")
    picture = tab.locator("img[src^='data:image/svg']").first
    picture.wait_for(timeout=60_000)
    assert picture.evaluate("image => image.naturalWidth") > 100
    tab.close()
    return elsewhere


@pytest.mark.browser
def test_a_served_schedule_fires_and_the_ui_shows_a_run_with_its_artifacts(tmp_path: Path, browser: Browser) -> None:
    port = free_port()
    alone = {name: value for name, value in environment(tmp_path / "home").items() if name != "PREFECT_API_URL"}
    command = [
        "serve",
        *folder_options(tmp_path, "schedules={collect: {interval_s: 10}}"),
        "--name",
        "served",
        "--port",
        port,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *command],
        env=alone,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}/api"
    try:
        with temporary_settings({PREFECT_API_URL: address}), get_client(sync_client=True) as client:
            wait_for_server(address, process)
            run = wait_for_run(client, "served", process)
            assert run.auto_scheduled
            assert {"placeprint", "collect"} <= set(run.tags)
            assert Store(tmp_path / "store").version("images").rows == 6
            assert run.deployment_id is not None
            client.pause_deployment(run.deployment_id)
            by_hand = start("run", *folder_options(tmp_path, "fit.n_resamples=100"), home=tmp_path / "other")
            assert by_hand.wait(240) == 0, by_hand.stdout and by_hand.stdout.read()
            (shown,) = [each for each in client.read_flow_runs() if each.name == "pipeline of photos"]
            artifacts = {each.key: each.id for each in client.read_artifacts(limit=200) if each.flow_run_id == shown.id}
            assert look_at_run(browser, address, shown, artifacts) == []
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")
