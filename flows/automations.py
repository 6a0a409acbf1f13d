"""Automations as code: what the Prefect server does by itself when a run fails or falls silent."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import cast, get_args
from uuid import UUID

import httpx
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import AutomationCore, EventTrigger, Posture, ResourceSpecification
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from pydantic import SecretStr

from flows.environment import HEARTBEAT_S
from flows.schedules import FlowName
from storage.errors import PlaceprintError

# The address may hold a token, as Slack's does: so it is no setting, and Prefect keeps it encrypted in a block.
WEBHOOK_URL = "PLACEPRINT_WEBHOOK_URL"
BLOCK = "placeprint-webhook"
TAG = "placeprint"
ENDED_BADLY = ("Failed", "Crashed", "TimedOut", "Warning")
ENDED = (*ENDED_BADLY, "Completed", "Cancelled", "Cancelling", "AwaitingRetry", "Paused", "Suspended", "Scheduled")
# A run is taken for dead when so many heartbeats in a row are missing.
MISSED_HEARTBEATS = 3

# What the webhook is sent: Slack, Mattermost and Discord (at its address for Slack) show `text`.
PAYLOAD = """{
  "text": {{ ("placeprint: " ~ flow_run.name ~ " ended as " ~ flow_run.state.name ~ ": " ~ (flow_run.state.message or "")) | tojson }},
  "flow": {{ flow.name | tojson }},
  "flow_run": {{ flow_run.name | tojson }},
  "state": {{ flow_run.state.name | tojson }},
  "message": {{ (flow_run.state.message or "") | tojson }},
  "url": {{ flow_run | ui_url | tojson }}
}"""


def register_automations(client: SyncPrefectClient, silent_s: float = MISSED_HEARTBEATS * HEARTBEAT_S) -> list[str]:
    """Make, or bring up to date, all automations on the server; returns their names.

    The one that calls a webhook is made where the environment names its address.

    Parameters
    ----------
    silent_s
        Seconds without a heartbeat after which a run is marked as crashed.

    Raises
    ------
    PlaceprintError
        When the address is none.
    """
    made = [silent_runs(silent_s)]
    address = os.environ.get(WEBHOOK_URL)
    if address:
        made.append(failed_runs(_webhook_block(address)))
    for automation in made:
        known = client.read_automations_by_name(automation.name)
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)
    return [automation.name for automation in made]


def silent_runs(silent_s: float) -> AutomationCore:
    """Mark a run as crashed whose heartbeat has stopped: its machine was switched off, or its process killed."""
    return AutomationCore(
        name="placeprint: runs that fell silent",
        description="Marks runs as crashed whose process has died. Retry them: the store has what they finished.",
        trigger=EventTrigger(
            # Also of a run that was killed before its first heartbeat.
            after={"prefect.flow-run.Running", "prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{state}" for state in ENDED)},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": list(get_args(FlowName))}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=silent_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="its process fell silent")],
    )


def failed_runs(block_id: UUID) -> AutomationCore:
    """Call the webhook when a run of a deployment ends badly; not for each part of it."""
    return AutomationCore(
        name="placeprint: runs that ended badly",
        description=f"Calls the webhook of the block {BLOCK}.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in ENDED_BADLY},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[CallWebhook(block_document_id=block_id, payload=PAYLOAD)],
    )


def _webhook_block(address: str) -> UUID:
    try:
        valid = httpx.URL(address).host
    except httpx.InvalidURL:
        valid = ""
    if not valid:
        raise PlaceprintError(f"deploy: {WEBHOOK_URL} is no address such as https://…")
    block = Webhook(url=SecretStr(address), headers={"Content-Type": "application/json"})
    return cast(UUID, block.save(BLOCK, overwrite=True))
