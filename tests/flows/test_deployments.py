"""Flows served and deployed on a real server: a schedule that fires, a worker that runs, settings that the server checks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import environment, folder_options, start
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import ValidationError

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


def test_a_worker_runs_what_was_deployed_with_other_settings(
    tmp_path: Path, client: SyncPrefectClient, capfd: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    process = start("deploy", *folder_options(tmp_path), "--name", "deployed", "--pool", "local", home=home)
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
