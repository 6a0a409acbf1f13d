"""Settings of the stage `publish`."""

from __future__ import annotations

from pydantic import Field

from tasks.settings import Section


class PublishSettings(Section):
    """What the report shows."""

    title: str = Field("placeprint report", min_length=1)
    n_examples: int = Field(24, ge=0, le=200, description="example images with their predictions")
    n_pairs: int = Field(6, ge=0, le=100, description="pairs shown around each threshold of near-duplicates")
    n_groups: int = Field(5, ge=0, le=100, description="groups of near-duplicates shown, the largest")
    seed: int = Field(0, ge=0, description="of the choice of examples")
