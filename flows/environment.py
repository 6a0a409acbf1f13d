"""Prefect's surroundings: its home lies in the store, and nothing asks the internet.

Imported before Prefect, which reads its settings once. What a user has set in the environment is left alone.
"""

from __future__ import annotations

import os
from pathlib import Path

from storage.errors import StoreError
from storage.local_copies import local_place
from storage.s3_path import StorePath, store_path

DEFAULT_STORE = Path("store")
# A run says that it lives so often: the shortest that Prefect allows.
HEARTBEAT_S = 30


def default_store() -> StorePath:
    """``PLACEPRINT_STORE``, or the folder ``store``."""
    return store_path(os.environ.get("PLACEPRINT_STORE", str(DEFAULT_STORE)))


def use_store(root: StorePath) -> None:
    """Have Prefect keep its database and results in the store, or near one on S3. Call it before any flow is imported."""
    home = local_place(store_path(root).expanduser().absolute()) / ".prefect"
    try:
        home.mkdir(parents=True, exist_ok=True)  # Prefect does not make the folders above its own
    except OSError as error:
        raise StoreError(f"store: {home} cannot be made: {error.strerror}") from error
    defaults = {
        "PREFECT_HOME": str(home),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # The newer one asks a service for measuring its users, whatever the setting above says.
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        # The first start makes the database: on a slow disk longer than Prefect's 20 seconds.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # Torch's threads sleep while they wait: on a CPU, those that decode images use the same cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        # Weights come from files or from a hub's cache; the libraries' own telemetry is off as well.
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def may_name_a_server() -> bool:
    """Whether the environment, or a file that Prefect reads, may name the server that it shall use.

    Raises
    ------
    StoreError
        If such a file cannot be read.
    """
    if not {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"}.isdisjoint(os.environ):
        return True
    files = {
        Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser() / "profiles.toml": b"prefect_api_url",
        Path(".env"): b"prefect_",
        Path("prefect.toml"): b"",
        Path("pyproject.toml"): b"[tool.prefect",
    }
    for path, sign in files.items():
        try:
            if path.is_file() and sign in path.read_bytes().lower():
                return True
        except OSError as error:
            raise StoreError(f"{path}, which Prefect reads, cannot be read: {error.strerror}") from error
    return False


def quiet_terminal() -> None:
    """Leave the terminal to progress bars: Prefect's log goes to its database only."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_LOGGERS_PREFECT_LEVEL", "INFO")
