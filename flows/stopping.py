"""A flow that is cancelled, or whose machine shuts down, ends within seconds; a killed one loses nothing but a shard."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.exceptions import ExternalSignal

from tasks.stop import forget_stop, request_stop

# For tasks that cannot look up, such as one that waits for a server: Prefect's worker would kill the run after 30 s.
GRACE_S = 6.0


@contextmanager
def stoppable() -> Iterator[None]:
    """While the block waits for tasks: on SIGTERM have them end, and this process with them at last."""
    forget_stop()
    try:
        yield
    except ExternalSignal:
        request_stop()
        for child in multiprocessing.active_children():
            child.terminate()
        end = threading.Timer(GRACE_S, os._exit, [128 + signal.SIGTERM])
        end.daemon = True
        end.start()
        raise
