"""What docker/compose.yaml starts, without Docker and on loopback: PostgreSQL, a Prefect server, a worker, an S3 server.

`make stack` starts it, `make stack-down` stops it, `eval "$(.venv/bin/python scripts/stack.py env)"` lets a shell use it.
Its data stay in the folder, so that it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

POOL, BUCKET, DATABASE = "placeprint", "placeprint", "prefect"
WAIT_S = 120.0
ORDER = ("postgresql", "s3", "server", "worker")


class StackError(Exception):
    """What is missing, in one line."""


class Stack:
    """The processes of one folder; what is known of them is in its ``stack.json``, which only this user can read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._file = self.folder / "stack.json"
        self.known: dict[str, Any] = json.loads(self._file.read_bytes()) if self._file.is_file() else {}

    def up(self) -> None:
        """Start what does not run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.known:
            ports = dict(zip((*ORDER, "health"), free_ports(5), strict=True))
            self.known = {
                "ports": ports,
                "password": secrets.token_urlsafe(24),
                "auth": f"admin:{secrets.token_urlsafe(24)}",
            }
            self._save()
        for name in ORDER:
            if not self.runs(name):
                getattr(self, f"start_{name}")()

    def down(self) -> None:
        """Stop all, the worker first; data stay."""
        for name in reversed(ORDER):
            self.stop(name)

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop one of the processes, and what it started."""
        if not self.runs(name):
            return
        if how == signal.SIGTERM and name == "postgresql":
            self._postgres("pg_ctl", "stop", "-D", str(self._data), "-m", "fast", "-w")
            return
        pid = self.known["pids"][name]
        os.killpg(pid, how)
        try:
            wait_for(lambda: not self.runs(name), f"{name} to end", 30)
        except StackError:
            os.killpg(pid, signal.SIGKILL)

    def runs(self, name: str) -> bool:
        """Whether it was started, and still runs."""
        pid = self.known.get("pids", {}).get(name)
        if pid is None:
            return False
        with suppress(ChildProcessError):  # one that this process started and that has ended must be collected
            os.waitpid(pid, os.WNOHANG)
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    @property
    def environment(self) -> dict[str, str]:
        """In which placeprint and Prefect find the server and the bucket."""
        ports = self.known["ports"]
        return {
            "PREFECT_API_URL": f"http://127.0.0.1:{ports['server']}/api",
            "PREFECT_API_AUTH_STRING": self.known["auth"],
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports['s3']}",
            "AWS_ACCESS_KEY_ID": "stack",
            "AWS_SECRET_ACCESS_KEY": self.known["password"],
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "DO_NOT_TRACK": "1",
        }

    def start_postgresql(self) -> None:
        """Make the cluster where there is none, and start it: as root cannot, as Debian's user postgres."""
        if not (self._data / "PG_VERSION").is_file():
            self._data.mkdir(exist_ok=True)
            password = self.folder / "password"
            write_secret(password, self.known["password"])
            if os.getuid() == 0:
                for path in (self._data, password):
                    shutil.chown(path, "postgres", "postgres")
            self._postgres(
                "initdb", "-D", str(self._data), "-U", DATABASE, "--auth=scram-sha-256", f"--pwfile={password}"
            )
            password.unlink()
        listen = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories= -p {self.known['ports']['postgresql']}"
        log = self._data / "server.log"
        self._postgres(
            "pg_ctl", "start", "-D", str(self._data), "-o", listen, "-l", str(log), "-w", "-t", str(int(WAIT_S))
        )
        self._remember("postgresql", int((self._data / "postmaster.pid").read_text().split()[0]))
        login = {"PGPASSWORD": self.known["password"]}
        where = ("-h", "127.0.0.1", "-p", str(self.known["ports"]["postgresql"]), "-U", DATABASE)
        named = f"select 1 from pg_database where datname = '{DATABASE}'"
        if "1" not in self._postgres("psql", *where, "-d", "postgres", "-tAc", named, **login):
            self._postgres("createdb", *where, DATABASE, **login)

    def start_s3(self) -> None:
        """Moto's server, with the bucket; it forgets all when it stops."""
        port = self.known["ports"]["s3"]
        self._start("s3", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(url), "the S3 server", WAIT_S)
        urlopen(Request(f"{url}/{BUCKET}", method="PUT")).close()  # noqa: S310  (loopback)

    def start_server(self) -> None:
        """Prefect's server, on PostgreSQL and with a password."""
        port = self.known["ports"]["server"]
        database = f"{DATABASE}:{self.known['password']}@127.0.0.1:{self.known['ports']['postgresql']}/{DATABASE}"
        url = f"http://127.0.0.1:{port}/api"
        given = {
            "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}",
            "PREFECT_SERVER_API_AUTH_STRING": self.known["auth"],
            "PREFECT_SERVER_UI_API_URL": url,
            "PREFECT_UI_URL": url.removesuffix("/api"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_V2_ENABLED": "false",  # it asks the internet
        }
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self._start("server", command, **given)
        wait_for(lambda: answers(f"{url}/health", self.known["auth"]), "the Prefect server", WAIT_S)

    def start_worker(self) -> None:
        """A worker that runs flows as processes, with the pool where there is none."""
        health = str(self.known["ports"]["health"])
        command = [
            sys.executable,
            "-m",
            "prefect",
            "worker",
            "start",
            "--pool",
            POOL,
            "--type",
            "process",
            "--with-healthcheck",
        ]
        given = {"PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1", "PREFECT_WORKER_WEBSERVER_PORT": health}
        self._start("worker", command, **self.environment, **given)
        wait_for(lambda: answers(f"http://127.0.0.1:{health}/health"), "the worker", WAIT_S)

    @property
    def _data(self) -> Path:
        return self.folder / "postgresql"

    def _start(self, name: str, command: list[str], **given: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "AWS_"))}
        environment = {**kept, "PREFECT_HOME": str(self.folder / "prefect"), "DO_NOT_TRACK": "1", **given}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self._remember(name, process.pid)

    def _remember(self, name: str, pid: int) -> None:
        self.known.setdefault("pids", {})[name] = pid
        self._save()

    def _save(self) -> None:
        write_secret(self._file, json.dumps(self.known, indent=1))

    def _postgres(self, program: str, *arguments: str, **given: str) -> str:
        """Run one of PostgreSQL's programs, which Debian does not put on the path."""
        found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[-3]))
        command = str(found[-1]) if found else shutil.which(program)
        if command is None:
            raise StackError(f"{program} is not on this machine: apt-get install postgresql")
        user = "postgres" if os.getuid() == 0 else None
        done = subprocess.run(
            [command, *arguments],
            env={**os.environ, **given},
            cwd="/",
            user=user,
            capture_output=program != "pg_ctl",
            stdout=subprocess.DEVNULL if program == "pg_ctl" else None,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StackError(f"{program} failed: {(done.stderr or '').strip() or f'see {self._data}/server.log'}")
        return done.stdout or ""


def wait_for(condition: Callable[[], bool], what: str, limit_s: float) -> None:
    """Look again until it is so.

    Raises
    ------
    StackError
        When it takes longer than `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(f"waited {limit_s:.0f} s for {what}: see the logs")
        time.sleep(0.2)


def answers(url: str, login: str | None = None) -> bool:
    """Whether a server answers there; any answer to a question without a login will do."""
    headers = {} if login is None else {"Authorization": f"Basic {b64encode(login.encode()).decode()}"}
    try:
        urlopen(Request(url, headers=headers), timeout=2).close()  # noqa: S310  (loopback)
    except HTTPError:
        return login is None
    except (URLError, OSError):
        return False
    return True


def free_ports(n: int) -> list[int]:
    """Ports of this machine that nobody uses now."""
    probes = [socket.socket() for _ in range(n)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def write_secret(path: Path, text: str) -> None:
    """Write a file that only this user can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["up", "down", "env"])
    parser.add_argument("--folder", type=Path, default=Path("build/stack"), help="of its data and logs")
    given = parser.parse_args()
    stack = Stack(given.folder)
    try:
        if given.what == "down":
            stack.down()
            return 0
        if given.what == "up":
            stack.up()
            print(
                f"Prefect UI: {stack.environment['PREFECT_API_URL'].removesuffix('/api')}, login {stack.known['auth']}"
            )
            print(f"Worker: pool {POOL}. Store on S3: s3://{BUCKET}/store. Logs: {given.folder}/*.log")
            print(f'Use it: eval "$({sys.executable} scripts/stack.py env)"')
            return 0
        if not stack.known:
            raise StackError("nothing was started yet: make stack")
        for name, value in stack.environment.items():
            print(f"export {name}={shlex.quote(value)}")
    except StackError as error:
        print(f"stack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
