"""The command line: in this process, and in one of its own that may be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_photos
from prefect.settings import PREFECT_API_URL

from flows import cli

CONFIG = Path(__file__).parents[1] / "configs/folder.yaml"


def placeprint(
    *arguments: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run the command line in this process; returns exit code, standard output, standard error."""
    monkeypatch.setattr(sys, "argv", ["placeprint", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    out, err = capfd.readouterr()
    code = stopped.value.code
    return (code if isinstance(code, int) else 0), out, err


def environment(home: Path) -> dict[str, str]:
    """This one's, with another home, and the session's Prefect server: to start one of its own takes longer."""
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    url = PREFECT_API_URL.value()
    server = {} if url is None else {"PREFECT_API_URL": url}
    return {**kept, **server, "HOME": str(home), "PREFECT_HOME": str(home / "prefect")}


def start(*arguments: str, home: Path) -> subprocess.Popen[str]:
    """Start ``placeprint`` in a process group of its own; what it prints comes in one stream."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments],
        env=environment(home),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def start_alone(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    """Start ``placeprint`` in a folder, where nothing names a Prefect server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [Path(sys.executable).with_name("placeprint"), *arguments],
        cwd=folder,
        env={**kept, "HOME": str(folder)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def folder_options(root: Path, *more: str) -> list[str]:
    """Options for six photographs in a folder, which are written, and a store beside it."""
    photos = write_photos(root / "photos", 6)
    given = [f"collect.sources.0.path={photos}", *more]
    return ["-c", str(CONFIG), "--store", str(root / "store"), *(part for each in given for part in ("-s", each))]
