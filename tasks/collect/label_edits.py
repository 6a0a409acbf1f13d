"""Labels to rename and to delete: a data file that any collection may have."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from storage.schemas import RejectReason
from tasks.collect.source import Item
from tasks.settings import Section, SettingsError, read_yaml


class LabelEdits(Section):
    """The content of a file of edits."""

    rename: dict[str, str] = Field(default_factory=dict)
    delete: tuple[str, ...] = ()


NONE = LabelEdits()


@lru_cache(maxsize=32)
def load_label_edits(name: str | None) -> LabelEdits:
    """Edits by the name of those that ship here, or from a YAML file with `rename` (old: new) and `delete` (a list).

    Raises
    ------
    SettingsError
        When there is no such file, or it holds something else.
    """
    if name is None:
        return NONE
    shipped = Path(str(files("tasks.collect").joinpath("data/label_edits")))
    path = shipped / f"{name}.yaml" if (shipped / f"{Path(name).name}.yaml").is_file() else Path(name).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in shipped.glob("*.yaml")))
        raise SettingsError(f"label_edits: {name!r} is neither a file nor one of those that ship here ({known})")
    # As text: YAML takes the country code NO for false.
    content = read_yaml(path, "delete: [Antarctica]", yaml.BaseLoader)
    try:
        return LabelEdits.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"label_edits: {path}: {where}: {first['msg']}") from None


def edited(item: Item, edits: LabelEdits, names: dict[str, str]) -> Item:
    """The item with its label edited, and then spelled as in `names` (from `spellings`)."""
    if item.label is None:
        return item
    if item.label in edits.delete:
        return replace(
            item, problem=f"the label {item.label!r} is one that label_edits delete", reason=RejectReason.DELETED_LABEL
        )
    label = edits.rename.get(item.label, item.label)
    label = names.get(_key(label), label)
    return replace(item, label=label) if label != item.label else item


def spellings(names: tuple[str, ...]) -> dict[str, str]:
    """Names by what is left of them without case and with blanks for ``-`` and ``_``; those that become alike are out."""
    keys = [_key(name) for name in names]
    return {key: name for key, name in zip(keys, names, strict=True) if keys.count(key) == 1}


def _key(name: str) -> str:
    return " ".join(name.casefold().replace("-", " ").replace("_", " ").split())
