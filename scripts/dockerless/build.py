"""A Dockerfile, carried out instruction by instruction."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from dockerless.dockerfile import CheckError, Ignored, Instruction, Stage, needed, read_stages, seconds, substituted
from dockerless.layers import (
    DEFAULT_SHM,
    DOCKERFILE,
    LENT_FILES,
    LENT_VARIABLES,
    PROJECT,
    SEARCH_PATH,
    Health,
    Image,
    Workshop,
    base_image,
    bind,
    home,
    in_root,
    mounted,
    run,
    say,
)


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
