"""The sources that settings may name, by their `kind`. A new source is added here and nowhere else."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tasks.collect.earthmaps import EarthmapsSettings
from tasks.collect.folder import FolderSettings
from tasks.collect.kaggle import KaggleSettings
from tasks.collect.openaerialmap import OpenAerialMapSettings
from tasks.collect.osf import OsfSettings
from tasks.collect.source import Source

SourceSettings = Annotated[
    EarthmapsSettings | FolderSettings | KaggleSettings | OpenAerialMapSettings | OsfSettings,
    Field(discriminator="kind"),
]


def open_sources(sections: tuple[SourceSettings, ...]) -> list[Source]:
    """Every collection that the settings describe.

    Raises
    ------
    ValueError
        When two collections have the same name.
    """
    sources: list[Source] = [source for section in sections for source in section.sources()]
    names = [source.name for source in sources]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"two collections are called {repeated[0]!r}: give one another `name`")
    return sources
