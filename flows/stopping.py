"""A run that is cancelled, or whose machine shuts down, ends within seconds; a killed one loses nothing but a shard."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tasks.step import under_prefect
from tasks.stop import forget_stop, request_stop

# For tasks that cannot look up, such as one that waits for a server: Prefect's worker would kill the run after 30 s.
GRACE_S = 6.0


class Terminated(BaseException):
    """SIGTERM came, in a run that is none of Prefect's, which has an exception of its own for it."""


@contextmanager
def stoppable() -> Iterator[None]:
    """While the block waits for tasks: on SIGTERM, and on Ctrl-C too outside of Prefect, have them end, and this process at last."""
    forget_stop()
    # Polars has put a handler of its own before Python's, with which Ctrl-C would not wake a thread that waits.
    signal.siginterrupt(signal.SIGINT, True)
    try:
        yield
    except _told_to_stop() as error:
        request_stop()
        for child in multiprocessing.active_children():
            child.terminate()
        number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        end = threading.Timer(GRACE_S, os._exit, [128 + number])
        end.daemon = True
        end.start()
        raise


def _told_to_stop() -> tuple[type[BaseException], ...]:
    if not under_prefect():
        return (KeyboardInterrupt, Terminated)
    from prefect.exceptions import ExternalSignal

    return (ExternalSignal,)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Have SIGTERM raise `Terminated` in the block, as Ctrl-C raises KeyboardInterrupt: what is under way can be noted."""

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
