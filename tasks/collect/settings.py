"""Settings of the stage `collect`."""

from __future__ import annotations

from pydantic import Field, field_validator

from tasks.collect.earthmaps import EarthmapsSettings
from tasks.collect.sources import SourceSettings, open_sources
from tasks.images import MAX_IMAGE_PIXELS
from tasks.settings import Section


class CollectSettings(Section):
    """Which collections, and what is refused."""

    sources: tuple[SourceSettings, ...] = Field((EarthmapsSettings(),), min_length=1)
    shard_size: int = Field(500, ge=1, description="images a task")
    max_pixels: int = Field(MAX_IMAGE_PIXELS, ge=1, description="larger images are rejected")
    max_bytes: int = Field(200_000_000, ge=1, description="larger files are rejected")

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, sections: tuple[SourceSettings, ...]) -> tuple[SourceSettings, ...]:
        open_sources(sections)
        return sections
