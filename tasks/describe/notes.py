"""What only people know of a collection, in a YAML file: the free text of its card.

The keys follow the Dataset Nutrition Label and Hugging Face's dataset cards. None is required; what is left out is
said to be "Not stated." in the card.
"""

from __future__ import annotations

from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from tasks.settings import Section, SettingsError, read_yaml


def _as_list(value: Any) -> Any:
    """One text for a list of one; nothing for an empty list."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


Points = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
Languages = Annotated[
    tuple[Annotated[str, Field(pattern=r"^([a-z]{2,3}|multilingual)$")], ...], BeforeValidator(_as_list)
]


class Notes(Section):
    """Free text on a collection. Where a list is taken, one text will do."""

    title: str | None = Field(None, description="name for people")
    summary: str | None = Field(None, description="what it is, in a few sentences")
    url: str | None = Field(None, pattern=r"^https?://\S+$", description="page of the collection")
    authors: Points = Field((), description="who made it")
    maintainers: Points = Field((), description="who to ask")
    licence: str | None = Field(None, description="of the collection, as an SPDX identifier such as CC-BY-4.0")
    version: str | None = Field(
        None, pattern=r"^(0|[1-9]\d*)(\.(0|[1-9]\d*)){0,2}$", coerce_numbers_to_str=True, description="such as 1.2.0"
    )
    published: date | None = Field(None, description="day of publication")
    citation: str | None = Field(None, description="text or BibTeX")
    language: Languages = Field((), description="ISO 639 codes of text in the images")
    tags: Points = Field((), description="keywords")
    source_datasets: Points = Field((), description="collections it was made from, or `original`")
    annotations_creators: Literal["found", "crowdsourced", "expert-generated", "machine-generated", "other"] | None = (
        Field(None, description="who gave the labels")
    )
    intended_use: Points = Field((), description="what it is good for")
    out_of_scope_use: Points = Field((), description="what it must not, or cannot, be used for")
    collection_method: Points = Field((), description="how, where and when the images were collected")
    labelling: Points = Field((), description="how the images got their labels")
    processing: Points = Field((), description="what was removed, renamed or changed")
    known_issues: Points = Field((), description="errors, overlays, gaps")
    sensitive_content: Points = Field((), description="people, personal data, disturbing scenes")
    bias_notes: Points = Field((), description="who and what is over-represented; stereotypes")
    ethical_review: Points = Field((), description="who reviewed it, and consent")
    maintenance: Points = Field((), description="how often it changes, and how errors are reported")


def load_notes(path: Path) -> Notes:
    """Read notes from a YAML file.

    Raises
    ------
    SettingsError
        One line that names the file, the key and what it may be.
    """
    content = read_yaml(path, "title: My photographs")
    try:
        return Notes.model_validate(content)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    first, *others = error.errors()
    more = f" ({len(others)} more)" if others else ""
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = get_close_matches(name, list(Notes.model_fields), n=1, cutoff=0.0)
        return f"unknown key {name!r}; is {near[0]!r} meant?{more}"
    return f"{name}: {first['msg']} (it was {first['input']!r}){more}"
