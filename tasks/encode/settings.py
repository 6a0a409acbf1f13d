"""Settings of the stage `encode`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tasks.encode.overlays import Overlay
from tasks.encode.weights import EncoderSettings
from tasks.settings import Section

PLACEHOLDERS = ("{label}", "{country}")


class EncodeSettings(Section):
    """The encoder, its batches, and the prompts of each class."""

    encoder: EncoderSettings = EncoderSettings()
    batch_size: int = Field(64, ge=1)
    shard_size: int = Field(2000, ge=1, description="images a task and a Parquet file")
    dtype: Literal["float32", "float16"] = Field("float32", description="of the stored vectors; scored in float32")
    templates: tuple[str, ...] = Field(
        ("{country}", "This image shows the country {country}"),
        min_length=1,
        description="prompts of each class; {label} and {country} stand for its name",
    )
    overlays: dict[str, Overlay] = Field(
        {},
        description="by collection, what is blanked in its images: the preset geoguessr, or a list of "
        "[left, top, right, bottom] in shares of width and height",
    )

    @field_validator("templates")
    @classmethod
    def _have_a_placeholder(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if not any(placeholder in template for placeholder in PLACEHOLDERS):
                raise ValueError(f"the template {template!r} has neither {{label}} nor {{country}}")
        return templates


def fill(template: str, label: str) -> str:
    """The prompt of one class."""
    for placeholder in PLACEHOLDERS:
        template = template.replace(placeholder, label)
    return template
