"""Base of every settings section: frozen, and strict about unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the settings. A key that it does not know is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)
