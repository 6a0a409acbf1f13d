"""Which device this process works on."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from tempfile import gettempdir

import torch

from storage.errors import PlaceprintError
from storage.leases import Leases
from tasks.encode.encoder import devices
from tasks.encode.weights import EncoderSettings

# Held until the process ends: a lease of a process that has ended is free at once.
_held = ExitStack()
_claimed: dict[EncoderSettings, str] = {}


def this_device(settings: EncoderSettings) -> str:
    """The device of this process; of several that the settings name, one that no other process of this machine has.

    Raises
    ------
    PlaceprintError
        When all are taken.
    """
    if settings not in _claimed:
        wanted = devices(settings)
        _claimed[settings] = wanted[0] if len(wanted) == 1 else _free_one(wanted)
    return _claimed[settings]


def _free_one(wanted: tuple[str, ...]) -> str:
    leases = Leases(Path(gettempdir()) / "placeprint-devices")
    for number, device in enumerate(wanted):
        name = f"{socket.gethostname()}-{number}-{device.replace(':', '-')}"
        if _held.enter_context(leases.held(name)):
            # Processes that all used every core would wait for each other.
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(wanted)))
            return device
    raise PlaceprintError(f"encode: every device of {', '.join(wanted)} is taken by another run")
