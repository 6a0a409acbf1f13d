"""Deployments: every flow as something that the Prefect UI can start, with the schedules of the settings."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, cast, get_args

import httpx
from prefect import Flow, serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.schedules import Cron, Interval, RRule, Schedule
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types.entrypoint import EntrypointType

from flows.automations import TAG, register_automations
from flows.environment import HEARTBEAT_S
from flows.prefect_server import server_command, server_environment
from flows.schedules import FlowName, ScheduleSettings
from flows.settings import Settings
from storage.errors import PlaceprintError
from tasks.settings import SettingsError

# How many runs of one deployment may be under way at once: a second one would only wait for the first one's shards.
RUNS_AT_ONCE = 1
_SERVER_S = 120.0
HEARTBEAT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}


def deployments(settings: Settings, name: str, *, work_pool: str | None = None) -> list[RunnerDeployment]:
    """One deployment a flow, with these settings as its parameters, which a person may change in the UI.

    Parameters
    ----------
    name
        Of the deployments: ``pipeline/<name>``, ``encode/<name>``, …
    work_pool
        The pool whose workers run them; None for those that are served by this process.

    Raises
    ------
    SettingsError
        When a schedule cannot be read.
    """
    parameters = {"settings": settings.model_dump(mode="json") | {"store": _absolute(settings)}}
    made = []
    for flow_name in get_args(FlowName):
        given = settings.schedules.get(flow_name)
        try:
            deployment = flow_of(flow_name).to_deployment(
                name,
                schedule=None if given is None else _schedule(given),
                parameters=parameters,
                description=f"{settings.publish.title}. Store: {parameters['settings']['store']}",
                tags=[TAG, flow_name],
                concurrency_limit=RUNS_AT_ONCE,
                work_pool_name=work_pool,
                # Relative paths of the settings are those of the folder from which it was deployed.
                job_variables={"working_dir": str(Path.cwd()), "env": HEARTBEAT} if work_pool else None,
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
            made.append(cast(RunnerDeployment, deployment))
        except ValueError as error:
            raise SettingsError(f"schedules.{flow_name}: {' '.join(str(error).split())}") from None
    return made


def serve_all(settings: Settings, name: str, port: int) -> None:
    """Run a server, where none is named in the environment, and all deployments, until it is stopped."""
    with server(port):
        with get_client(sync_client=True) as client:
            register_automations(client)
        serve(*deployments(settings, name), limit=None)


def deploy_all(settings: Settings, name: str, work_pool: str) -> list[str]:
    """Register all deployments with a work pool, made where there is none, and the automations; returns their names.

    Raises
    ------
    PlaceprintError
        When no server is named in the environment, or it does not answer.
    """
    address = PREFECT_API_URL.value()
    if not address:
        raise PlaceprintError("deploy: set PREFECT_API_URL to the server's address, such as http://127.0.0.1:4200/api")
    made = deployments(settings, name, work_pool=work_pool)
    try:
        with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=work_pool, type="process"))
        for deployment in made:
            deployment.apply()
        with get_client(sync_client=True) as client:
            automations = register_automations(client)
    except httpx.HTTPError as error:
        raise PlaceprintError(f"deploy: the server at {address} does not answer: {error}") from error
    return [*(f"{deployment.flow_name}/{deployment.name}" for deployment in made), *automations]


def flow_of(name: str) -> Flow[..., Any]:
    """The flow of that name, in the module of that name."""
    found: Flow[..., Any] = getattr(import_module(f"flows.{name.replace('-', '_')}"), name.replace("-", "_"))
    return found


def _schedule(given: ScheduleSettings) -> Schedule:
    if given.cron is not None:
        return Cron(given.cron, timezone=given.timezone, active=given.active)
    if given.rrule is not None:
        return RRule(given.rrule, timezone=given.timezone, active=given.active)
    return Interval(given.interval_s or 0.0, timezone=given.timezone, active=given.active)


def _absolute(settings: Settings) -> str:
    return str(settings.store.expanduser().absolute()) if isinstance(settings.store, Path) else str(settings.store)


@contextmanager
def server(port: int) -> Iterator[None]:
    """A Prefect server on this machine while the block runs; the one that the environment names, if it names one."""
    if PREFECT_API_URL.value():
        yield
        return
    address = f"http://127.0.0.1:{port}"
    # In a session of its own: Ctrl-C is for the flows, which then still need the server to say that they have stopped.
    process = subprocess.Popen(  # noqa: S603  (our own arguments)
        server_command(port), env=server_environment(port), stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_for(f"{address}/api/health", process)
        os.environ["PREFECT_API_URL"] = f"{address}/api"
        with temporary_settings({PREFECT_API_URL: f"{address}/api"}):
            yield
    finally:
        process.terminate()
        process.wait(30)


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SERVER_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(address, timeout=2).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    raise PlaceprintError(f"serve: the Prefect server did not start: is the port of {address} taken?")
