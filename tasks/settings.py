"""Base of every settings section, frozen and strict about unknown keys, and how the files that hold them are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from storage.errors import PlaceprintError


class SettingsError(PlaceprintError):
    """A setting is unknown or wrong; nothing was done."""


class Section(BaseModel):
    """A part of the settings. A key that it does not know is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_yaml(
    path: Path, example: str, loader: type[yaml.BaseLoader] | type[yaml.SafeLoader] = yaml.SafeLoader
) -> dict[str, Any]:
    """The keys and values of a YAML file; an empty one has none.

    Parameters
    ----------
    example
        A line that such a file may hold, for those who gave another.

    Raises
    ------
    SettingsError
        One line that names the file.
    """
    try:
        content = yaml.load(path.expanduser().read_text(encoding="utf-8"), loader)  # noqa: S506  (both loaders are safe)  # nosec
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}: give a YAML file with lines such as `{example}`") from None
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if content is None or content == "":
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold lines such as `{example}`, not a {type(content).__name__}")
    return content
