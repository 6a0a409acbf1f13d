"""Write ``docs/settings.md`` from the settings' own models, so that the page cannot fall behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from flows.settings import Settings

OUTPUT = Path(__file__).parent.parent / "docs/settings.md"

HEAD = """# Settings

Settings are read from a YAML file (`placeprint run -c configs/demo.yaml`) and overridden with `--set name=value`. Names are
dotted; a number is a position in a list: `--set collect.sources.0.path=~/photos`. A value is read as YAML. An unknown name is
an error that suggests the nearest known one. Without a file the defaults below hold: they are the demo.

This page is written by `make docs` from the settings' models.
"""


def page() -> str:
    """The page as Markdown: one table a section."""
    return HEAD + "".join(_tables(Settings, "", "the whole pipeline"))


def _tables(model: type[BaseModel], prefix: str, title: str) -> list[str]:
    rows, nested = [], []
    for name, field in model.model_fields.items():
        sections = _sections(field.annotation)
        if not sections:
            rows.append(f"| `{prefix}{name}` | `{_default(field)}` | {field.description or ''} |")
        for section in sections:
            position = {tuple: "0.", dict: "NAME."}.get(get_origin(field.annotation), "")
            summary = (section.__doc__ or "").strip().splitlines()[0]
            nested += _tables(section, f"{prefix}{name}.{position}", f"{name}: {summary}")
    table = (
        f"\n## {title}\n\n| setting | default | meaning |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"
        if rows
        else ""
    )
    return [table, *nested]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections(argument)]


def _default(field: Any) -> object:
    if field.default is PydanticUndefined:
        return "store" if field.default_factory else "required"
    return list(field.default) if isinstance(field.default, tuple) else field.default


if __name__ == "__main__":
    OUTPUT.write_text(page(), encoding="utf-8")
