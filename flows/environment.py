"""Prefect's surroundings: its home lies in the store, and nothing asks the internet.

Imported before Prefect, which reads its settings once. What a user has set in the environment is left alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from storage.errors import StoreError

DEFAULT_STORE = Path("store")


def default_store() -> Path:
    """``PLACEPRINT_STORE``, or the folder ``store``."""
    return Path(os.environ.get("PLACEPRINT_STORE", DEFAULT_STORE))


def use_store(root: Path) -> None:
    """Have Prefect keep its database and results in the store. Call it before any flow is imported."""
    home = root.expanduser().absolute() / ".prefect"
    try:
        home.mkdir(parents=True, exist_ok=True)  # Prefect does not make the folders above its own
    except OSError as error:
        raise StoreError(f"store: {home} cannot be made: {error.strerror}") from error
    defaults = {
        "PREFECT_HOME": str(home),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # The first start makes the database: on a slow disk longer than Prefect's 20 seconds.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # Torch's threads sleep while they wait: on a CPU, those that decode images use the same cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Weights come from files or from a hub's cache; the libraries' own telemetry is off as well.
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def quiet_terminal() -> None:
    """Leave the terminal to progress bars: Prefect's log goes to its database only."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_LOGGERS_PREFECT_LEVEL", "INFO")
