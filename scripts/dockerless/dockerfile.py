"""What a Dockerfile and its .dockerignore say."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

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


class CheckError(Exception):
    """What was checked is wrong: a line for who reads it."""


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


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)(s|m)", text)
    if match is None:
        raise CheckError(f"{text!r} is no duration that is known here: 30s, 2m")
    return float(match[1]) * {"s": 1, "m": 60}[match[2]]
