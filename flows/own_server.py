"""A Prefect server for one command alone, which starts while the command still imports its flows.

Prefect would start one by itself, seconds later: it first imports the whole server into the process that asks.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from flows.environment import may_name_a_server
from flows.prefect_server import collect_garbage_apart
from storage.errors import PlaceprintError

# The first start makes the database, which takes a while on a slow disk.
STARTUP_S = 120.0
_STOP_S = 5.0


@contextmanager
def own_server() -> Iterator[Callable[[], None]]:
    """Start a server on a free port of loopback and have Prefect, not yet imported, use it. It ends with this process.

    Nothing is started where the user may have named a server, or Prefect has read its settings already.

    Yields
    ------
    Callable
        Waits until the server answers, which it does later than this begins. It raises `PlaceprintError` when it does not.
    """
    if "prefect" in sys.modules or may_name_a_server():
        yield lambda: None
        return
    try:
        address = _start()
    except OSError as error:
        raise PlaceprintError(f"Prefect's server cannot be started: {error}") from error
    os.environ["PREFECT_API_URL"] = f"{address}/api"
    os.environ.setdefault("PREFECT_UI_URL", "")  # it has no pages
    with ExitStack() as stack:

        def wait() -> None:
            _wait_for(f"{address}/api/health")
            stack.enter_context(_no_heartbeats())

        yield wait


def _start() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener, _log().open("wb") as log:
        # In a session of its own: Ctrl-C is for the flows, which then still need the server to say that they have stopped.
        process = subprocess.Popen(  # noqa: S603  (our own arguments)
            # -P: the folder where the user is may have a `flows` of its own.
            [sys.executable, "-P", "-m", "flows.own_server", str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        # Before Prefect's own functions of this kind, so that it runs after them: they still send what the log holds.
        atexit.register(_stop, process)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _log() -> Path:
    return Path(os.environ["PREFECT_HOME"]) / "own-server.log"


def _wait_for(address: str) -> None:
    import httpx

    try:
        # Its port is open since before it started: one question is enough.
        httpx.get(address, timeout=STARTUP_S, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        raise PlaceprintError(f"Prefect's server did not start; what it said last is in {_log()}") from error


def _no_heartbeats() -> AbstractContextManager[object]:
    """Nobody watches for them here, and every flow run would wait a second at its end for the thread that sends them."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    return temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None})


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()


def _serve(listener: socket.socket) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    collect_garbage_apart()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    app = create_app(ephemeral=True, final=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on")).run(sockets=[listener])


def _end_with_parent() -> None:
    """The other end of standard input is the parent's: it is closed when the parent is gone, however it went."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
