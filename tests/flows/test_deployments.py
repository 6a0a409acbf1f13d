"""Flows served and deployed on a real server: a schedule that fires, a worker that runs, settings that the server checks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest
from command_line import environment, start
from conftest import write_photos
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import ValidationError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

from flows.schedules import ScheduleSettings
from flows.settings import load_settings
from storage.store import Store
from tasks.settings import SettingsError

pytestmark = pytest.mark.usefixtures("prefect_server")
CONFIG = Path(__file__).parents[2] / "configs/folder.yaml"


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def options(root: Path, *more: str) -> list[str]:
    photos = write_photos(root / "photos", 6)
    given = [f"collect.sources.0.path={photos}", *more]
    return ["-c", str(CONFIG), "--store", str(root / "store"), *(part for each in given for part in ("-s", each))]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def wait_for_server(address: str, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
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
    command = ["serve", *options(tmp_path, "schedules={collect: {interval_s: 10}}"), "--name", "served", "--port", port]
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
            by_hand = start("run", *options(tmp_path, "fit.n_resamples=100"), home=tmp_path / "other")
            assert by_hand.wait(240) == 0, by_hand.stdout and by_hand.stdout.read()
            (shown,) = [each for each in client.read_flow_runs() if each.name == "pipeline of photos"]
            artifacts = {each.key: each.id for each in client.read_artifacts(limit=200) if each.flow_run_id == shown.id}
            assert look_at_run(browser, address, shown, artifacts) == []
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


def test_a_worker_runs_what_was_deployed_with_other_settings(
    tmp_path: Path, client: SyncPrefectClient, capfd: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    process = start("deploy", *options(tmp_path), "--name", "deployed", "--pool", "local", home=home)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "pipeline/deployed" in said
    deployment = client.read_deployment_by_name("collect/deployed")
    settings: dict[str, Any] = deployment.parameters["settings"]
    with pytest.raises(PrefectHTTPStatusError, match="409"):
        client.create_flow_run_from_deployment(
            deployment.id, parameters={"settings": {**settings, "store": 3, "split": {"seed": "many"}}}
        )
    other = {**settings, "store": str(tmp_path / "other")}
    run = client.create_flow_run_from_deployment(deployment.id, parameters={"settings": other})
    worker = subprocess.run(
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local", "--type", "process", "--run-once"],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    ended = client.read_flow_run(run.id)
    assert ended.state is not None
    assert ended.state.is_completed(), worker.stdout + worker.stderr
    assert Store(tmp_path / "other").version("images").rows == 6
    assert not (tmp_path / "store" / "tables").exists()
    capfd.readouterr()


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"cron": "0 3 * * *", "interval_s": 60}, "exactly one of cron, interval_s and rrule"),
        ({}, "exactly one of cron, interval_s and rrule"),
        ({"cron": "0 3 * * *", "timezone": "Mars/Olympus"}, "no such time zone"),
        ({"interval_s": 0}, "greater than 0"),
    ],
)
def test_a_schedule_is_one_thing(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ScheduleSettings.model_validate(schedule)


@pytest.mark.parametrize("schedule", ["{pipeline: {cron: 99 99 * * *}}", "{pipeline: {rrule: FREQ=SOMETIMES}}"])
def test_a_schedule_that_cannot_be_read_is_named(schedule: str, tmp_path: Path) -> None:
    from flows.deployments import deployments

    settings = load_settings(CONFIG, [f"store={tmp_path}", f"schedules={schedule}"])
    with pytest.raises(SettingsError, match=r"^schedules\.pipeline: "):
        deployments(settings, "wrong")


def test_a_flow_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"schedules\.nightly"):
        load_settings(CONFIG, ["schedules={nightly: {interval_s: 60}}"])


def test_every_flow_is_deployed_with_its_schedule(tmp_path: Path) -> None:
    from flows.deployments import deployments

    kinds = "{pipeline: {cron: 0 3 * * *, timezone: Europe/Berlin}, fit: {rrule: FREQ=WEEKLY;BYDAY=MO}}"
    made = deployments(load_settings(CONFIG, [f"store={tmp_path}", f"schedules={kinds}"]), "nightly")
    by_flow: dict[str, Callable[[], Any]] = {each.flow_name: each for each in made}  # type: ignore[dict-item,misc]
    assert set(by_flow) == {
        "pipeline",
        "case-study",
        "collect",
        "describe",
        "encode",
        "dedup",
        "split",
        "fit",
        "publish",
    }
    (schedule,) = by_flow["pipeline"].schedules  # type: ignore[attr-defined]
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 3 * * *", "Europe/Berlin")
    assert by_flow["encode"].schedules == []  # type: ignore[attr-defined]
