"""Prefect's server on SQLite that does not stand still: ``python -m flows.prefect_server``, with the options of ``prefect server start``.

Python's garbage collector runs in whichever thread has just made the most objects: in Prefect's server that of the event loop. To take a
cursor of SQLite apart it waits for the cursor's connection; where that waits for SQLite's one write lock, and who holds the lock for the
event loop, nothing moves until SQLite gives up after 60 seconds (seen in Prefect 3.8.8 with Python 3.11: ``gc_collect_main``,
``cursor_dealloc``, ``sqlite3_reset``, ``pthread_mutex_lock``). In a thread of its own the collector may wait.
"""

from __future__ import annotations

import gc
import os
import runpy
import sys
import threading
import time

_YOUNG_S = 1.0
_ALL_EVERY = 60  # of the young


def server_command(port: int) -> list[str]:
    """What starts the server at this port of loopback, in a process of its own."""
    # -P: the folder where the user is may have a `flows` of its own.
    return [sys.executable, "-P", "-m", "flows.prefect_server", "--host", "127.0.0.1", "--port", str(port)]


def server_environment(port: int) -> dict[str, str]:
    """Variables of this process, and the addresses that the pages of a server at this port ask."""
    address = f"http://127.0.0.1:{port}"
    return {**os.environ, "PREFECT_SERVER_UI_API_URL": f"{address}/api", "PREFECT_UI_URL": address}


def collect_garbage_apart() -> None:
    """Have no thread but one for it collect garbage, from now on to the end of this process."""
    gc.disable()
    threading.Thread(target=_collect, name="garbage collector", daemon=True).start()


def _collect() -> None:
    while True:
        for _ in range(_ALL_EVERY):
            time.sleep(_YOUNG_S)
            gc.collect(1)
        gc.collect()


if __name__ == "__main__":
    collect_garbage_apart()
    sys.argv[1:1] = ["server", "start"]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
