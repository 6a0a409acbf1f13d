"""Settings of the stage `collect`."""

from __future__ import annotations

from pydantic import Field, field_validator

from tasks.collect.earthmaps import EarthmapsSettings
from tasks.collect.sources import SourceSettings, open_sources
from tasks.images import LARGEST_IMAGE_PIXELS, MAX_IMAGE_PIXELS
from tasks.settings import Section


class CollectSettings(Section):
    """Which collections, and what is refused."""

    sources: tuple[SourceSettings, ...] = Field((EarthmapsSettings(),), min_length=1)
    shard_size: int = Field(500, ge=1, description="images a task, at most")
    max_pixels: int = Field(MAX_IMAGE_PIXELS, ge=1, le=LARGEST_IMAGE_PIXELS, description="larger images are rejected")
    max_bytes: int = Field(200_000_000, ge=1, description="larger files are rejected")
    refresh: bool = Field(False, description="ask services again what they have, in place of the listing that is kept")
    retries: int = Field(2, ge=0, description="of a task in which something was unreachable")
    retry_delay_s: float = Field(10.0, ge=0, description="before the first of these retries; doubles, with jitter")

    @property
    def title(self) -> str:
        """The names of the collections, for the names of runs."""
        return ", ".join(source.name for source in open_sources(self.sources))

    @field_validator("sources")
    @classmethod
    def _names_differ(cls, sections: tuple[SourceSettings, ...]) -> tuple[SourceSettings, ...]:
        open_sources(sections)
        return sections
