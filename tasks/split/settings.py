"""Settings of the stage `split`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.settings import Section


class SplitSettings(Section):
    """How images are shared out to train and test."""

    name: str = "stratified"
    test_share: float = Field(0.15, gt=0, lt=1)
    seed: int = Field(1234, ge=0)
    keep_together: Literal["place", "nothing"] = Field(
        "place", description="images of the same coordinates stay in one part, or a test image has its twin in training"
    )
    min_class_size: int = Field(2, ge=2, description="classes with fewer places go to the part zero_shot")
