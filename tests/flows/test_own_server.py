"""The server that a command starts for itself: where, until when, and what is said when it does not start."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from command_line import CONFIG, start_alone
from conftest import write_photos

from flows.environment import may_name_a_server


def start_run(root: Path, n_photos: int = 6, shard_size: int = 100) -> subprocess.Popen[str]:
    """A command without a server to go to, in a folder that has modules of its own."""
    photos = write_photos(root / "photos", n_photos)
    (root / "flows").mkdir()
    (root / "flows" / "__init__.py").touch()
    command = ["run", "-c", str(CONFIG), "-s", f"collect.sources.0.path={photos}", "--store", str(root / "store")]
    return start_alone(*command, "-s", f"collect.shard_size={shard_size}", folder=root)


def server_of(process: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        for child in children.read_text().split():
            if b"flows.own_server" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])


def test_a_killed_command_leaves_no_server(tmp_path: Path) -> None:
    process = start_run(tmp_path)
    server = server_of(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{server}/cmdline").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    home = tmp_path / "store" / ".prefect"
    home.mkdir(parents=True)
    (home / "prefect.db").write_bytes(b"this is no database" * 1000)
    process = start_run(tmp_path)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1
    assert said == f"error: Prefect's server did not start; what it said last is in {home}/own-server.log\n"
    assert "file is not a database" in (home / "own-server.log").read_text()


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "store/.prefect/own-server.log").mkdir(parents=True)
    process = start_run(tmp_path)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1
    assert said.startswith("error: Prefect's server cannot be started: ")
    assert len(said.splitlines()) == 1


def test_a_file_of_prefects_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to("/proc/self/mem")  # the superuser, too, is told that it cannot be read
    process = start_run(tmp_path)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1
    assert said == "error: .env, which Prefect reads, cannot be read: Input/output error\n"


def test_an_interrupted_command_ends_its_server_after_its_flow(tmp_path: Path) -> None:
    process = start_run(tmp_path, n_photos=200, shard_size=1)
    server = server_of(process)
    while not list((tmp_path / "store").glob("leases/run-*.lease")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "Connect" not in said, "the flow could still say to its server that it has ended"
    assert not Path(f"/proc/{server}").exists()
    database = sqlite3.connect(tmp_path / "store/.prefect/prefect.db")
    assert database.execute("select distinct state_name from flow_run").fetchall() == [("Crashed",)]


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        (None, "", False),
        (".env", "PREFECT_API_URL=http://server/api", True),
        (".env", "AWS_PROFILE=me", False),
        ("prefect.toml", "[api]", True),
        ("pyproject.toml", "[tool.prefect.api]", True),
        ("pyproject.toml", '[project]\nkeywords = ["prefect"]', False),
        ("home/profiles.toml", '[profiles.own]\nPREFECT_API_URL = "http://server/api"', True),
        ("home/profiles.toml", 'active = "ephemeral"', False),
    ],
)
def test_files_that_may_name_a_server(
    file: str | None, text: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    if file is not None:
        (tmp_path / file).write_text(text)
    assert may_name_a_server() == named
    monkeypatch.setenv("PREFECT_API_URL", "http://server/api")
    assert may_name_a_server()
