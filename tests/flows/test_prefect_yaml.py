"""``prefect.yaml`` on a real server: deployed by Prefect's own command, with parameters that the flow takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment
from prefect.client.orchestration import get_client

from flows.settings import Settings

pytestmark = pytest.mark.usefixtures("prefect_server")
ROOT = Path(__file__).parents[2]


def test_prefect_deploys_what_it_says(tmp_path: Path) -> None:
    given = {**environment(tmp_path), "PLACEPRINT_DIR": str(ROOT)}
    for command in (["work-pool", "create", "placeprint", "--type", "process"], ["deploy", "--all"]):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *command],
            cwd=ROOT,
            env=given,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0 or "already exists" in done.stdout + done.stderr, done.stdout + done.stderr
    with get_client(sync_client=True) as client:
        for name in ("demo", "photographs"):
            deployment = client.read_deployment_by_name(f"pipeline/{name}")
            Settings.model_validate(deployment.parameters["settings"])
            assert not any(schedule.active for schedule in deployment.schedules)
