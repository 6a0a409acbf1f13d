"""A run that ended badly, once more. What the store has is not done again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterParentTaskRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry

from flows.deployments import flow_of
from flows.settings import Settings
from storage.errors import PlaceprintError

BAD_ENDS = (StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)


def retry(run: str | None) -> str:
    """Have a worker take up a run again if it is one of a deployment; else do its work here, as a new run.

    Parameters
    ----------
    run
        Id or name of a flow run that failed, crashed, was cancelled, or ended with a warning; of several with one name the
        newest. None is the newest of all that ended so.

    Returns
    -------
    str
        What was done, for people.

    Raises
    ------
    PlaceprintError
        When there is no such run, or it need not be retried.
    """
    try:
        with get_client(sync_client=True) as client:
            found = _find(client, run)
            name = client.read_flow(found.flow_id).name
            if found.deployment_id is not None:
                return _given_to_a_worker(client, found)
    except httpx.HTTPError as error:
        raise PlaceprintError(f"retry: the Prefect server does not answer: {error}") from error
    flow: Flow[..., Any] = flow_of(name)
    flow(Settings.model_validate(found.parameters["settings"]))
    return f"{found.name} was done again, as a new run"


def _given_to_a_worker(client: SyncPrefectClient, run: FlowRun) -> str:
    answer: OrchestrationResult[Any] = client.set_flow_run_state(run.id, AwaitingRetry(message="placeprint retry"))
    if answer.state is None or not answer.state.is_scheduled():
        raise PlaceprintError(f"retry: the server refused: {getattr(answer.details, 'reason', answer.status)}")
    return f"{run.name} waits for a worker"


def _find(client: SyncPrefectClient, run: str | None) -> FlowRun:
    found = _named(client, run) if run is not None else _newest_that_ended_badly(client)
    if found.parent_task_run_id is not None:
        raise PlaceprintError(f"retry: {found.name} is a part of another run: retry that one")
    if found.state_type not in BAD_ENDS:
        raise PlaceprintError(f"retry: {found.name} is {found.state_name}: nothing to retry")
    return found


def _named(client: SyncPrefectClient, run: str) -> FlowRun:
    try:
        return client.read_flow_run(UUID(run))
    except ValueError:
        named = FlowRunFilter(name=FlowRunFilterName(any_=[run]))
        runs = client.read_flow_runs(flow_run_filter=named, sort=FlowRunSort.START_TIME_DESC, limit=1)
        if runs:
            return runs[0]
    except ObjectNotFound:
        pass
    raise PlaceprintError(f"retry: the server knows no run {run!r}; `placeprint ui` shows them")


def _newest_that_ended_badly(client: SyncPrefectClient) -> FlowRun:
    wanted = FlowRunFilter(
        parent_task_run_id=FlowRunFilterParentTaskRunId(is_null_=True),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(BAD_ENDS))),
    )
    found = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.START_TIME_DESC, limit=1)
    if not found:
        raise PlaceprintError("retry: no run has failed")
    return found[0]
