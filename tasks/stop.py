"""A run that was told to stop: its tasks end at their next batch or image, not at the end of their shard."""

from __future__ import annotations

import threading

from storage.errors import PlaceprintError

_stop = threading.Event()


class StoppedError(PlaceprintError):
    """The run was cancelled; what was finished is kept."""


def request_stop() -> None:
    """Have the tasks of this process end."""
    _stop.set()


def forget_stop() -> None:
    """A new run begins."""
    _stop.clear()


def end_if_stopped() -> None:
    """Raise StoppedError where a stop was requested."""
    if _stop.is_set():
        raise StoppedError("the run was cancelled: what was finished is kept, run again to go on")
