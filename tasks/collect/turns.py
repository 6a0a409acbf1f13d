"""A rate limit that all runs of one Prefect server share: a global concurrency limit whose slots come back with time.

Slots that come back by themselves need nobody to give them back: a killed run leaves none taken.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial

from tasks.step import under_prefect


def shared_turn(requests_per_second: float | None) -> Callable[[str], None] | None:
    """What waits for a host's turn among all runs; None without a limit, or outside of Prefect."""
    if requests_per_second is None or not under_prefect():
        return None
    return partial(_wait_for_turn, requests_per_second)


def _wait_for_turn(requests_per_second: float, host: str) -> None:
    from prefect.concurrency.sync import rate_limit

    rate_limit(_limit(host, requests_per_second), occupy=1)


@lru_cache(maxsize=256)
def _limit(host: str, requests_per_second: float) -> str:
    """The name of the host's limit, which is made or set to this rate."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectAlreadyExists

    name = f"placeprint-{host.replace(':', '-')}"
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):  # another run was quicker
        client.upsert_global_concurrency_limit_by_name(name, limit=1, slot_decay_per_second=requests_per_second)
    return name
