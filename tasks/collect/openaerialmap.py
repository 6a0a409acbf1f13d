"""OpenAerialMap: thumbnails of aerial scenes that lie wholly inside a country."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator
from shapely import prepare
from shapely.geometry.base import BaseGeometry

from storage.errors import PlaceprintError
from storage.schemas import RejectReason
from tasks.collect.catalogues import Catalogue, MetaCatalogue, StacCatalogue
from tasks.collect.countries import country_shapes
from tasks.collect.interior_box import Box, interior_boxes
from tasks.collect.scene import Scene, scene_item
from tasks.collect.service import FetchError, ServiceSettings
from tasks.collect.source import Item
from tasks.collect.web import Web

BASE_URLS = {"meta": "https://api.openaerialmap.org", "stac": "https://api.imagery.hotosm.org/stac"}
CATALOGUES: dict[str, Catalogue] = {"meta": MetaCatalogue(), "stac": StacCatalogue()}
# The bucket was taken over by strangers in 2026; its content lives on in the other (openaerialmap issues 246 and 293).
TAKEN_OVER = re.compile(r"^oin-hotosm\.s3[.-][^/]*|^s3[.-][^/]*/oin-hotosm(?=/)")
MOVED_TO = "oin-hotosm-temp.s3.us-east-1.amazonaws.com"


class OpenAerialMapSettings(ServiceSettings):
    """Settings of the source `openaerialmap`."""

    kind: Literal["openaerialmap"] = "openaerialmap"
    backend: Literal["meta", "stac"] = Field("meta", description="the classic API, or the one that replaces it")
    base_url: str = Field(BASE_URLS["meta"], description="by default that of the backend")
    hosts: tuple[str, ...] = ("oin-hotosm-temp.s3.amazonaws.com", MOVED_TO, "api.imagery.hotosm.org")
    countries: tuple[str, ...] = Field((), description="by default all that Natural Earth draws")
    polygons: Literal["50m", "110m"] = Field("50m", description="scale of the country polygons; the study's is 110m")
    min_box_area_km2: float = Field(
        1000.0, gt=0, description="interior boxes below it are not asked for, but for a country's largest"
    )
    images_per_country: int = Field(20, ge=1, description="at most; which ones, the seed says")
    min_gsd_m: float = Field(0.0, ge=0, description="ground sample distance, metres a pixel of the full image")
    max_gsd_m: float = Field(0.5, gt=0)
    min_content_share: float = Field(0.5, ge=0, le=1, description="of the thumbnail; borders and nodata are no content")
    seed: int = Field(0, ge=0)

    DENIED: ClassVar[re.Pattern[str] | None] = TAKEN_OVER
    PRIVATE: ClassVar[tuple[str, ...]] = ("contact", "user")

    @model_validator(mode="before")
    @classmethod
    def _address_of_the_backend(cls, given: Any) -> Any:
        if isinstance(given, dict) and "base_url" not in given:
            return {**given, "base_url": BASE_URLS.get(str(given.get("backend", "meta")), BASE_URLS["meta"])}
        return given

    def sources(self) -> list[OpenAerialMapSource]:
        """The one collection that this section describes."""
        return [OpenAerialMapSource(self)]


class OpenAerialMapSource:
    """Scenes of the countries, at most so many of each."""

    def __init__(self, settings: OpenAerialMapSettings) -> None:
        self.settings = settings
        self.name = settings.name or "openaerialmap"

    def identity(self) -> str:
        """What is asked, and what is chosen of it."""
        wanted = {"kind", "backend", "base_url", "countries", "polygons", "min_box_area_km2", "images_per_country"}
        return self.settings.model_dump_json(include={*wanted, "min_gsd_m", "max_gsd_m", "seed"})

    def items(self, web: Web) -> Iterator[Item]:
        countries = {country.label: country.geometry for country in country_shapes(self.settings.polygons)}
        exact = {country.label: country.geometry for country in country_shapes("50m")}
        for name in self.settings.countries or countries:
            if name not in countries:
                raise PlaceprintError(f"collect: {self.name}: there is no polygon {name!r} at {self.settings.polygons}")
            yield from self._of_country(name, self._boxes(countries[name]), exact[name], web)

    def fetch(self, item: Item, web: Web) -> bytes:
        return web.download(str(item.url))

    def _boxes(self, country: Any) -> list[Box]:
        boxes = interior_boxes(country, min_area_km2=0)
        return [box for box in boxes if box is boxes[0] or box.area_km2 >= self.settings.min_box_area_km2]

    def _of_country(self, country: str, boxes: list[Box], polygon: BaseGeometry, web: Web) -> Iterator[Item]:
        catalogue, base_url = CATALOGUES[self.settings.backend], self.settings.base_url
        prepare(polygon)
        scenes: dict[str, Scene] = {}
        for box in boxes:
            try:
                for number, record in enumerate(catalogue.records(web, base_url, box)):
                    scene = catalogue.scene(record, base_url)
                    if scene is None:
                        path = f"{country}/record {number} in {box.west:g} {box.south:g} {box.east:g} {box.north:g}"
                        yield Item(
                            path, label=country, problem="a record without an id", reason=RejectReason.BAD_ANSWER
                        )
                    else:
                        scenes[scene.identity] = scene
            except FetchError as error:
                if error.reason is RejectReason.UNREACHABLE:
                    raise
                yield Item(f"{country}/search", label=country, problem=error.detail, reason=error.reason)
        usable = []
        for identity in sorted(scenes):
            refusal = self._refusal(scenes[identity], polygon)
            if refusal is None:
                usable.append(scenes[identity])
            else:
                yield scene_item(country, scenes[identity], _thumbnail(scenes[identity]), *refusal)
        order = np.random.default_rng([self.settings.seed, zlib.crc32(country.encode())]).permutation(len(usable))
        for place, index in enumerate(order):
            chosen = place < self.settings.images_per_country
            problem = None if chosen else f"one of {len(usable)} scenes, {self.settings.images_per_country} are wanted"
            yield scene_item(country, usable[index], _thumbnail(usable[index]), RejectReason.NOT_CHOSEN, problem)

    def _refusal(self, scene: Scene, country: BaseGeometry) -> tuple[RejectReason, str] | None:
        low, high = self.settings.min_gsd_m, self.settings.max_gsd_m
        if scene.bbox is None or scene.area is None:
            return RejectReason.BAD_METADATA, "the record has no usable bbox"
        if scene.thumbnail is None:
            return RejectReason.BAD_METADATA, "the record names no thumbnail"
        if scene.gsd_m is None:
            return RejectReason.OUT_OF_SCALE, "the record's gsd is neither metres nor degrees"
        if not low <= scene.gsd_m <= high:
            return RejectReason.OUT_OF_SCALE, f"{scene.gsd_m:.3g} m a pixel, wanted are {low:g} to {high:g}"
        if not country.covers(scene.area):
            return RejectReason.OUTSIDE_COUNTRY, "its valid area is not wholly in the country"
        return None


def _thumbnail(scene: Scene) -> str:
    """The thumbnail's address; what lay in the bucket that was taken over is asked for where it lies now."""
    address = scene.thumbnail or ""
    place = re.sub(r"^https?://", "", address)
    return f"https://{TAKEN_OVER.sub(MOVED_TO, place)}" if TAKEN_OVER.search(place) else address
