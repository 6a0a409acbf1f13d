"""Services as the compose file describes them, each a process in namespaces of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dockerless.dockerfile import CheckError, seconds
from dockerless.layers import (
    COMPOSE_FILE,
    DEFAULT_SHM,
    EXAMPLE_ENV,
    Image,
    Workshop,
    bind,
    home,
    in_root,
    mounted,
    run,
    say,
)

DEFAULT_STOP_S = 10.0  # Docker's


@dataclass(frozen=True)
class Service:
    """What compose.yaml, or `docker run`, says of one container."""

    name: str
    entrypoint: tuple[str, ...] | None = None
    command: tuple[str, ...] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = ()
    read_only: bool = False
    locked: bool = False
    shm: str = DEFAULT_SHM
    stop_s: float = DEFAULT_STOP_S


@dataclass
class Container:
    service: Service
    image: Image
    environment: dict[str, str]
    process: subprocess.Popen[str]
    log: Path

    def first_process(self) -> int:
        """Process 1 of the container, by the number it has outside."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (numbers := children.read_text(encoding="utf-8").split()):
            time.sleep(0.01)
        return int(numbers[0])

    def healthy(self) -> bool:
        """Whether the image's HEALTHCHECK, run in the container as its user, ends with 0."""
        if self.image.health is None:
            raise CheckError("the image has no HEALTHCHECK")
        uid, _, gid = self.image.user.partition(":")
        enter = [shutil.which("nsenter") or "nsenter", f"--target={self.first_process()}", "--mount", "--pid", "--root"]
        user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--"]
        command = [*enter, f"--wdns={self.image.workdir}", *user, *self.image.health.command]
        asked = subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            timeout=self.image.health.timeout_s,
            check=False,
        )
        return asked.returncode == 0

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def secret_names() -> list[str]:
    """The variables of example.env."""
    return re.findall(r"^(\w+)=", EXAMPLE_ENV.read_text(encoding="utf-8"), flags=re.MULTILINE)


def read_services(variables: dict[str, str]) -> dict[str, Service]:
    """The services of compose.yaml, with those variables for its own."""

    def value(match: re.Match[str]) -> str:
        name, sign, word = match[1], match[2], match[3]
        if not variables.get(name) and sign == ":?":
            raise CheckError(f"compose.yaml: {name}: {word}")
        return variables.get(name) or word or ""

    text = re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, COMPOSE_FILE.read_text(encoding="utf-8"))
    return {name: read_service(name, given) for name, given in yaml.safe_load(text)["services"].items()}


def read_service(name: str, given: dict[str, Any]) -> Service:
    return Service(
        name=name,
        entrypoint=tuple(given["entrypoint"]) if "entrypoint" in given else None,
        command=tuple(given["command"]) if "command" in given else None,
        environment={key: str(value) for key, value in given.get("environment", {}).items() if value is not None},
        volumes=tuple(given.get("volumes", ())),
        tmpfs=tuple(given.get("tmpfs", ())),
        read_only=given.get("read_only", False),
        locked=given.get("cap_drop") == ["ALL"] and "no-new-privileges:true" in given.get("security_opt", ()),
        shm=given.get("shm_size", DEFAULT_SHM).removesuffix("b"),
        stop_s=seconds(given.get("stop_grace_period", f"{DEFAULT_STOP_S:.0f}s")),
    )


@contextmanager
def started(service: Service, image: Image, workshop: Workshop) -> Iterator[Container]:
    """The service in a container; what is left of it at the end is killed."""
    changes = None if service.read_only else workshop.folder("changes", service.name)
    with mounted(image.layers, workshop, changes=changes, shm=service.shm) as root:
        bind(workshop.scratch / "hosts", root, "/etc/hosts", read_only=True)
        volumes = volumes_of(service, image, root, workshop)  # looked up before any of them hides another
        for target in service.tmpfs:
            run("mount", "-t", "tmpfs", "-o", "mode=1777,nosuid,nodev,noexec", "tmpfs", root / target.lstrip("/"))
        for target, (source, read_only) in sorted(volumes.items()):
            bind(source, root, target, read_only=read_only)
        words = [*(service.entrypoint or image.entrypoint), *command_of(service, image)]
        environment = {"HOME": home(root, image.user), **image.environment, **service.environment}
        log = workshop.folder("logs") / service.name
        with log.open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                in_root(root, image.user, image.workdir, words, locked=service.locked),
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
            )
        try:
            yield Container(service, image, environment, process, log)
        finally:
            process.kill()
            process.wait()


def command_of(service: Service, image: Image) -> tuple[str, ...]:
    """The image's own words go with its own entrypoint only."""
    if service.command is not None:
        return service.command
    return () if service.entrypoint is not None else image.command


def volumes_of(service: Service, image: Image, root: Path, workshop: Workshop) -> dict[str, tuple[Path, bool]]:
    """What is to be seen at which place, and whether it is read-only: folders of this project, volumes, the image's own."""
    found = {target: (new_volume("anonymous", target, root, workshop), False) for target in image.volumes}
    for volume in service.volumes:
        source, target, *options = volume.split(":")
        if source.startswith("."):
            found[target] = ((COMPOSE_FILE.parent / source).resolve(), "ro" in options)
        else:
            found[target] = (new_volume(source, target, root, workshop), False)
    return found


def new_volume(name: str, target: str, root: Path, workshop: Workshop) -> Path:
    """A volume; one that is new begins, as with Docker, with what the image has there, and as whose."""
    place = workshop.folder("volumes") / name
    if not place.exists():
        run("cp", "--archive", root / target.lstrip("/"), place)
    return place


def run_to_its_end(service: Service, image: Image, workshop: Workshop, *, limit_s: float = 900.0) -> str:
    """What it printed.

    Raises
    ------
    CheckError
        When it ends with another code than 0, or not in time.
    """
    with started(service, image, workshop) as container:
        try:
            code = container.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise CheckError(f"{container.said()}\n{service.name} did not end in {limit_s:.0f} s") from None
        if code:
            raise CheckError(f"{container.said()}\n{service.name} ended with {code}")
        return container.said()


def wait_until_healthy(container: Container) -> int:
    """How often it was asked before it was healthy. It must have the time to say no: else nothing was asked."""
    health = container.image.health
    assert health is not None  # noqa: S101  (asked by healthy())
    deadline = time.monotonic() + health.start_s + health.retries * health.interval_s
    asked = 0
    while time.monotonic() < deadline and container.process.poll() is None:
        if container.healthy():
            if not asked:
                raise CheckError(f"{container.service.name}: healthy before it can have started")
            return asked
        asked += 1
        time.sleep(0.5)
    raise CheckError(f"{container.said()}\n{container.service.name} did not become healthy")


def stop(container: Container) -> None:
    """What `docker stop` does: SIGTERM to process 1.

    Raises
    ------
    CheckError
        When it does not end in the grace period, or not as one that was told to.
    """
    begun = time.monotonic()
    os.kill(container.first_process(), signal.SIGTERM)
    try:
        code = container.process.wait(container.service.stop_s)
    except subprocess.TimeoutExpired:
        raise CheckError(f"{container.said()}\n{container.service.name} did not end on SIGTERM") from None
    if code not in (0, 128 + signal.SIGTERM):
        raise CheckError(f"{container.said()}\n{container.service.name} ended with {code} on SIGTERM")
    say(container.service.name, f"ends with {code} on SIGTERM, {container.service.stop_s:.0f} s are allowed", begun)
