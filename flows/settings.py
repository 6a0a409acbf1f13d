"""All settings: one validated model, read from YAML, with overrides from the command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, Field, PlainSerializer, PlainValidator, ValidationError, WithJsonSchema

from flows.environment import default_store
from flows.quality import QualitySettings
from flows.schedules import FlowName, ScheduleSettings
from storage.s3_path import StorePath, store_path
from tasks.case_study.settings import StudySettings
from tasks.collect.settings import CollectSettings
from tasks.dedup.settings import DedupSettings
from tasks.encode.settings import EncodeSettings
from tasks.heads.settings import FitSettings
from tasks.labels.label_set import COUNTRY211
from tasks.report.settings import PublishSettings
from tasks.settings import Section, SettingsError, read_yaml
from tasks.split.settings import SplitSettings


class Settings(Section):
    """Settings of the whole pipeline. The defaults are the demo."""

    store: Annotated[
        StorePath,
        PlainValidator(store_path),
        PlainSerializer(str, return_type=str),
        WithJsonSchema({"type": "string", "format": "path"}),
    ] = Field(default_factory=default_store, description="folder, or s3://bucket/folder, that holds everything")
    labels: str = Field(COUNTRY211, description="country211, from-data, or a CSV with name[, region, continent]")
    collect: CollectSettings = CollectSettings()
    encode: EncodeSettings = EncodeSettings()
    dedup: DedupSettings = DedupSettings()
    split: SplitSettings = SplitSettings()
    fit: FitSettings = FitSettings()
    publish: PublishSettings = PublishSettings()
    case_study: StudySettings = StudySettings()
    quality: QualitySettings = QualitySettings()
    schedules: dict[FlowName, ScheduleSettings] = Field(
        {}, description="flow -> when it runs by itself, once served or deployed"
    )


def load_settings(path: Path | str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read settings from a YAML file and apply overrides such as ``split.seed=7``.

    Parameters
    ----------
    path
        YAML file; None for the defaults.
    overrides
        ``a.b=c``; `c` is read as YAML, and a number in the path is a position in a list.

    Raises
    ------
    SettingsError
        One line that names the setting, what it was and what it may be.
    """
    content = read_yaml(Path(path), "store: store") if path is not None else {}
    for override in overrides:
        _apply(content, override)
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise SettingsError(_explain(error, str(path) if path else "settings")) from None


def known_keys(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings; positions in lists are left out."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in _sections(field.annotation):
            yield from known_keys(section, f"{prefix}{name}.")


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections(argument)]


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {override}: write it as name=value, such as split.seed=7")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    *parents, last = key.split(".")
    node: Any = content
    for position, name in enumerate((*parents, last)):
        if isinstance(node, list):
            if not name.isdecimal() or int(name) >= len(node):
                raise SettingsError(
                    f"--set {override}: {'.'.join(parents[:position])} has no entry {name!r}, it has {len(node)}"
                )
            slot: Any = int(name)
        elif isinstance(node, dict):
            slot = name
            if position < len(parents) and slot not in node:
                # A list's entries can only be overridden where there is a list: take that of the defaults.
                is_list = [*parents, last][position + 1].isdecimal()
                node[slot] = _default(parents[: position + 1]) if is_list else {}
        else:
            raise SettingsError(f"--set {override}: {'.'.join(parents[:position])} is {node!r}, not a section")
        if position == len(parents):
            node[slot] = value
        else:
            node = node[slot]


def _default(names: list[str]) -> Any:
    node: Any = Settings().model_dump(mode="json")
    for name in names:
        node = node.get(name, {}) if isinstance(node, dict) else {}
    return node


def _explain(error: ValidationError, where: str) -> str:
    first, *others = error.errors()
    # After a position in a list comes the kind of the section there, which is no name that a user can write.
    named = [
        part
        for before, part in zip((None, *first["loc"]), first["loc"], strict=False)
        if not (isinstance(before, int) and isinstance(part, str))
    ]
    name = ".".join(map(str, named))
    more = f" ({len(others)} more)" if others else ""
    if first["type"] == "extra_forbidden":
        plain = ".".join(part for part in named if isinstance(part, str))
        near = get_close_matches(plain, list(known_keys()), n=1, cutoff=0.0)
        return f"{where}: unknown setting {name!r}; is {near[0]!r} meant?{more}"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], dict | list) else f" (it was {first['input']!r})"
    return f"{where}: {name}: {message}{given}{more}"
