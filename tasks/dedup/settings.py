"""Settings of the stage `dedup`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tasks.dedup.edits import EditName
from tasks.settings import Section


class SyntheticSettings(Section):
    """Pairs that nobody has to label: edits of images, and the nearest images from other places."""

    n_images: int = Field(600, ge=20, description="drawn at random; each gives one duplicate and one other pair")
    edits: tuple[EditName, ...] = Field(
        ("recompress", "resize", "crop", "brightness", "watermark"),
        min_length=1,
        description="taken in turn; there is also border, which changes a picture more than these",
    )
    different_place_km: float = Field(
        10.0,
        ge=0,
        description="images further apart are of different places; without coordinates, those of another label",
    )


class DedupSettings(Section):
    """Near-duplicates: where the threshold comes from, and what is removed. `dedup: off` leaves the stage out."""

    enabled: bool = True
    labels: str = Field(
        "auto",
        min_length=1,
        description="person (the answers of `placeprint dedup label`), synthetic, the path of a CSV or Parquet file of pairs, "
        "or auto: a person's where there are enough, else synthetic",
    )
    synthetic: SyntheticSettings = SyntheticSettings()
    probabilities: tuple[float, float] = Field((0.01, 0.99), description="of being duplicates: suspected and certain")
    remove: Literal["suspected", "certain"] = Field(
        "suspected", description="pairs that make groups, of which one is kept"
    )
    max_removed_share: float = Field(
        0.2, ge=0, le=1, description="if `suspected` would remove more, only what is certain is removed, with a warning"
    )
    linkage: Literal["connected", "complete"] = Field(
        "connected", description="groups: chains of pairs, or every two images of a group a pair"
    )
    near_threshold: float = Field(0.001, ge=0, le=0.1, description="pairs so near to a threshold are marked")
    search: Literal["auto", "exact", "index"] = Field(
        "auto", description="all pairs, or the FAISS index's neighbours: over a million images without a GPU"
    )
    n_resamples: int = Field(1000, ge=100, description="of the thresholds' bootstrap intervals")
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _on_or_off(cls, given: Any) -> Any:
        """YAML reads `off` as false."""
        if given in (False, "off"):
            return {"enabled": False}
        return {} if given in (True, "on") else given

    @field_validator("probabilities")
    @classmethod
    def _increase(cls, probabilities: tuple[float, float]) -> tuple[float, float]:
        if not 0 < probabilities[0] < probabilities[1] < 1:
            raise ValueError("give two probabilities, increasing, between 0 and 1")
        return probabilities
