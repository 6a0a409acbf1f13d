"""The command line in a process of its own, that may be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prefect.settings import PREFECT_API_URL


def environment(home: Path, *, own_server: bool = False) -> dict[str, str]:
    """This one's, with another home, and the session's Prefect server unless each process is to start its own."""
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    url = PREFECT_API_URL.value()
    server = {} if own_server or url is None else {"PREFECT_API_URL": url}
    return {**kept, **server, "HOME": str(home), "PREFECT_HOME": str(home / "prefect")}


def start(*arguments: str, home: Path, own_server: bool = False) -> subprocess.Popen[str]:
    """Start ``placeprint`` in a process group of its own; what it prints comes in one stream."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments],
        env=environment(home, own_server=own_server),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
