"""A stage that a command runs in its own process, without Prefect: no server, no engine, not even its import.

The steps, the store and the manifest of the run are those of a run of Prefect's. What lacks is what a server is for: the run is not
in the Prefect UI, and nothing is retried.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import typer

from flows.environment import may_name_a_server
from flows.progress import SAID, terminal
from flows.stopping import Terminated, sigterm_raises
from tasks.step import LOG

if TYPE_CHECKING:
    from flows.settings import Settings

Result = TypeVar("Result")


def can_run_directly() -> bool:
    """Whether nobody has named a Prefect server that should know of the run; Prefect's settings must not have been read yet."""
    return "prefect" not in sys.modules and not may_name_a_server()


def run_directly(stage: Callable[[Settings], Result], settings: Settings, *, verbose: bool = False) -> Result:
    """Run a stage. Ctrl-C and SIGTERM end it within seconds, with the exit codes that they have under Prefect.

    Parameters
    ----------
    stage
        What the flow of that name does. It must not be a flow.
    verbose
        Show the log of the run, which says more than what is printed anyway.
    """
    _show_log(verbose)
    try:
        with sigterm_raises():
            return stage(settings)
    except KeyboardInterrupt:
        _say_stopped()
        raise typer.Exit(128 + signal.SIGINT) from None
    except Terminated:
        _say_stopped()
        # So that who sent it sees that it was that. Process 1 of a container survives it.
        os.kill(os.getpid(), signal.SIGTERM)
        raise typer.Exit(128 + signal.SIGTERM) from None


def _say_stopped() -> None:
    terminal.print("stopped: what was finished is kept, run again to go on")


class _Shown(logging.Handler):
    """Lines above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        terminal.print(self.format(record), highlight=False, markup=False, soft_wrap=True)


def _show_log(verbose: bool) -> None:
    """Warnings of steps, above the progress bar; with `verbose` all that is not printed anyway, with its time."""
    handler = _Shown()
    handler.setFormatter(logging.Formatter("%(asctime)s | %(levelname)-7s | %(message)s" if verbose else "%(message)s"))
    handler.addFilter(lambda record: not getattr(record, SAID, False))
    log = logging.getLogger(LOG)
    # Libraries that load meanwhile may give the root a handler of its own.
    log.propagate = False
    log.handlers = [handler]
    log.setLevel(logging.INFO if verbose else logging.WARNING)
