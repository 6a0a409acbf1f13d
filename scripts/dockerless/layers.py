"""Layers of files, mounted as a root file system, and commands in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dockerless.dockerfile import CheckError

PROJECT = Path(__file__).resolve().parents[2]
DOCKERFILE = PROJECT / "docker/Dockerfile"
COMPOSE_FILE = PROJECT / "docker/compose.yaml"
EXAMPLE_ENV = PROJECT / "docker/example.env"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Of this machine's root, what no base image has.
HIDDEN = ("home", "mnt", "opt/placeprint", "opt/uv", "root", "srv", "store", "tmp", "var/tmp", "work")
# How this machine reaches its registries, lent to RUN: files, and variables that begin so.
LENT_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs", "/etc/pip.conf", "/etc/apt")
LENT_VARIABLES = ("PIP_", "UV_", "SSL_CERT_", "REQUESTS_CA_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
DEFAULT_SHM = "64m"  # Docker's


def say(place: str, text: str, begun: float | None = None) -> None:
    """One line: where, what, and how long it took."""
    took = "" if begun is None else f"{time.monotonic() - begun:8.1f} s"
    print(f"{place:<22} {' '.join(text.split())[:88]:<88}{took}".rstrip(), flush=True)


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
