"""Settings of what a run must reach."""

from __future__ import annotations

from pydantic import Field

from tasks.settings import Section


class QualitySettings(Section):
    """What a run must reach: one that falls short ends as `Warning`. null switches a check off. Docs: docs/operations.md."""

    max_reject_share: float | None = Field(0.05, ge=0, le=1, description="of the inputs of collect, and of encode")
    max_starved_share: float | None = Field(
        0.5, ge=0, le=1, description="of the time of an encoding of a minute or more, in which its device had no images"
    )
    min_index_recall: float | None = Field(0.99, ge=0, le=1, description="recall@10 of the index")
    metrics: tuple[str, ...] = Field(
        ("accuracy",), description="that must not fall below the 95 % interval of the run before; the more, the better"
    )
