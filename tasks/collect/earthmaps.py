"""Real imagery without a download: square patches of three world maps, labelled with the country at their centre.

The maps are three collections (satellite, relief, elevation) of the same places. Places are uniform on the sphere within
a country, and lie so far apart that patches overlap by less than half. Counts a country are heavy-tailed on purpose, as
in collections that people make. A small share of near-duplicates is planted, to be found again.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance
from pydantic import Field

from storage.image_files import image_id
from tasks.collect.countries import area_km2, country_shapes, land_mask, sample_points
from tasks.collect.grid import demo_cells
from tasks.collect.source import CollectionSettings, Item
from tasks.collect.web import Web
from tasks.collect.world_map import MAX_LATITUDE_DEG, WORLD_MAPS, WorldMap, cut_patch, load_pixels

Floats = npt.NDArray[np.float64]
MapName = Literal["satellite", "relief", "elevation"]

# Share of a pair of patches that may be the same ground.
MAX_OVERLAP = 0.5
# Tail index of the Pareto law of images a country: below 2 the variance is infinite, as in real collections.
_TAIL = 1.1
# Keeps the smallest countries from all having one image.
_FLOOR = 0.6
_JPEG_QUALITY = 92


class EarthmapsSettings(CollectionSettings):
    """Settings of the source `earthmaps`. With a `name`, the collections are called ``<name>-<map>``."""

    kind: Literal["earthmaps"] = "earthmaps"
    maps: tuple[MapName, ...] = Field(("satellite", "relief", "elevation"), min_length=1)
    images_per_country: float = Field(19.0, gt=0, le=500, description="mean over countries, for each map")
    patch_side_deg: float = Field(2.0, ge=0.5, le=5.0, description="degrees of latitude")
    size_px: int = Field(96, ge=16, le=1024, description="side of the saved image")
    min_land_share: float = Field(0.5, ge=0, le=1)
    min_land_share_small: float = Field(0.02, ge=0, le=1, description="for countries below small_country_km2")
    small_country_km2: float = Field(150_000.0, ge=0)
    planted_share: float = Field(0.03, ge=0, le=0.5, description="near-duplicates added to each map")
    demo_cells_only: bool = Field(True, description="only where the demo encoder was not trained")
    seed: int = Field(0, ge=0)

    def sources(self) -> list[EarthmapsSource]:
        """One collection a map."""
        return [EarthmapsSource(self, world_map) for world_map in WORLD_MAPS if world_map.source in self.maps]


@dataclass(frozen=True)
class Place:
    """Centre of a patch, and the label of the country it lies in."""

    label: str
    latitude: float
    longitude: float

    @property
    def path(self) -> str:
        return f"{self.label}/{self.latitude:+08.4f}{self.longitude:+09.4f}.jpg"


class EarthmapsSource:
    """The patches of one world map."""

    def __init__(self, settings: EarthmapsSettings, world_map: WorldMap) -> None:
        self.settings = settings
        self.world_map = world_map
        self.name = f"{settings.name}-{world_map.source}" if settings.name else world_map.source

    def identity(self) -> str:
        """The settings say everything: the maps are files of a pinned package."""
        return self.settings.model_dump_json(exclude={"maps", *CollectionSettings.model_fields})

    def items(self, web: Web) -> Iterator[Item]:  # noqa: ARG002
        known: dict[str, Any] = {"licence": self.world_map.licence, "attribution": self.world_map.attribution}
        chosen = places(self.settings)
        for place in chosen:
            yield Item(place.path, place.label, place.latitude, place.longitude, **known)
        for copy in planted_copies(self.settings, chosen):
            original = image_id(self._jpeg(copy.original))
            place = copy.original
            yield Item(copy.path, place.label, place.latitude, place.longitude, planted_copy_of=original, **known)

    def fetch(self, item: Item, web: Web) -> bytes:  # noqa: ARG002
        if item.planted_copy_of is not None:
            return self._edited(self._copies[item.path])
        return self._jpeg(Place(item.label or "", item.latitude or 0.0, item.longitude or 0.0))

    @cached_property
    def _copies(self) -> dict[str, PlantedCopy]:
        return {copy.path: copy for copy in planted_copies(self.settings, places(self.settings))}

    def _patch(self, latitude: float, longitude: float) -> Image.Image:
        settings = self.settings
        return cut_patch(load_pixels(self.world_map), latitude, longitude, settings.patch_side_deg, settings.size_px)

    def _jpeg(self, place: Place) -> bytes:
        return _encode(self._patch(place.latitude, place.longitude))

    def _edited(self, copy: PlantedCopy) -> bytes:
        place = copy.original
        if copy.edit == "shift":
            return _encode(self._patch(place.latitude + copy.north_deg, place.longitude + copy.east_deg))
        image = Image.open(io.BytesIO(self._jpeg(place)))
        if copy.edit == "recompress":
            return _encode(image, quality=round(copy.amount))
        if copy.edit == "resize":
            side = round(self.settings.size_px * copy.amount)
            return _encode(image.resize((side, side), Image.Resampling.BICUBIC))
        return _encode(ImageEnhance.Brightness(image).enhance(copy.amount))


def has_enough_land(points: Floats, country_km2: float, settings: EarthmapsSettings) -> npt.NDArray[np.bool_]:
    """Whether enough of the patch around each point (n, 2) is land; small countries need less, or islands fall out."""
    share = land_mask().share(points[:, 0], points[:, 1], settings.patch_side_deg)
    small = country_km2 < settings.small_country_km2
    return np.asarray(share >= (settings.min_land_share_small if small else settings.min_land_share))


@lru_cache(maxsize=4)
def places(settings: EarthmapsSettings) -> tuple[Place, ...]:
    """All places of the collection, by country. The same settings give the same places.

    Every country that has one usable point has an image.
    """
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, 0]))
    side = settings.patch_side_deg
    candidates: list[tuple[str, Floats]] = []
    areas: list[float] = []
    for country in country_shapes():
        area = area_km2(country.geometry)
        n_tries = int(np.clip(area / 1500.0, 300, 6000))
        points = sample_points(country.geometry, n_tries, MAX_LATITUDE_DEG - side / 2, generator).round(4)
        if len(points):
            points = points[has_enough_land(points, area, settings)]
        if len(points) and settings.demo_cells_only:
            parts = demo_cells()
            points = points[parts.lies_in(parts.demo, points[:, 0], points[:, 1], side)]
        if len(points):
            candidates.append((country.label, points))
            areas.append(area)
    spaced = _spaced([points for _, points in candidates], areas, side)
    room = np.array([len(points) for points in spaced])
    counts = _heavy_tailed_counts(np.array(areas), room, settings.images_per_country, generator)
    return tuple(
        Place(label, float(latitude), float(longitude))
        for (label, _), points, count in zip(candidates, spaced, counts, strict=True)
        for latitude, longitude in points[:count]
    )


def overlap(
    latitude_a: Floats, longitude_a: Floats, latitude_b: Floats, longitude_b: Floats, side_deg: float
) -> Floats:
    """Share of the ground that two patches have in common, 0 to 1 (in the local flat approximation)."""
    cosine = np.cos(np.radians((latitude_a + latitude_b) / 2))
    north = np.abs(latitude_a - latitude_b) / side_deg
    east = np.abs((longitude_a - longitude_b + 180.0) % 360.0 - 180.0) * cosine / side_deg
    return np.asarray(np.clip(1 - north, 0, None) * np.clip(1 - east, 0, None))


def _spaced(candidates: list[Floats], areas_km2: list[float], side_deg: float) -> list[Floats]:
    """Of each country's points those that overlap no earlier one by half or more; small countries choose first."""
    kept: list[Floats] = [np.empty((0, 2))] * len(candidates)
    taken = np.empty((0, 2))
    for index in np.argsort(areas_km2, kind="stable"):
        points = candidates[index]
        low, high = points[:, 0].min() - side_deg, points[:, 0].max() + side_deg
        near = taken[(taken[:, 0] >= low) & (taken[:, 0] <= high)]
        free = np.ones(len(points), dtype=bool)
        for latitude, longitude in near:
            free &= overlap(latitude, longitude, points[:, 0], points[:, 1], side_deg) < MAX_OVERLAP
        points = points[free]
        chosen = []
        while len(points):
            chosen.append(points[0])
            latitude, longitude = points[0]
            points = points[overlap(latitude, longitude, points[:, 0], points[:, 1], side_deg) < MAX_OVERLAP]
        kept[index] = np.array(chosen).reshape(-1, 2)
        taken = np.concatenate([taken, kept[index]])
    return kept


def _heavy_tailed_counts(
    areas_km2: Floats, room: npt.NDArray[np.int64], mean: float, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Images of each country: Pareto draws, larger ones to larger countries on the whole, scaled to the wanted mean."""
    draws = np.sort(generator.pareto(_TAIL, size=len(room)) + _FLOOR)
    # Large countries tend to have more pictures, but not always.
    rank = np.argsort(np.argsort(np.log(areas_km2) + generator.normal(0.0, 1.0, size=len(room))))
    weights = draws[rank]
    low, high = 0.0, float(room.max()) / weights.min()
    for _ in range(60):  # bisection: the room of each country caps its count
        middle = (low + high) / 2
        total = np.clip(np.round(middle * weights), 1, room)[room > 0].sum()
        low, high = (middle, high) if total < mean * (room > 0).sum() else (low, middle)
    return np.asarray(np.minimum(np.clip(np.round(high * weights), 1, None), room), dtype=np.int64)


@dataclass(frozen=True)
class PlantedCopy:
    """A near-duplicate of a place's image: its edit and how strong it is."""

    original: Place
    path: str
    edit: Literal["shift", "recompress", "resize", "brightness"]
    amount: float = 0.0
    north_deg: float = 0.0
    east_deg: float = 0.0


@lru_cache(maxsize=4)
def planted_copies(settings: EarthmapsSettings, chosen: tuple[Place, ...]) -> tuple[PlantedCopy, ...]:
    """The near-duplicates that are added: shifted by 3 to 8 %, recompressed, resized, brightened or darkened."""
    generator = np.random.default_rng(np.random.SeedSequence([settings.seed, 1]))
    n_copies = round(settings.planted_share * len(chosen))
    copies = []
    for number, index in enumerate(sorted(generator.choice(len(chosen), size=n_copies, replace=False))):
        place = chosen[index]
        path = place.path.replace(".jpg", "-b.jpg")
        amount, angle, sign = generator.random(3)
        edit = ("shift", "recompress", "resize", "brightness")[number % 4]
        if edit == "shift":
            distance = (0.03 + 0.05 * amount) * settings.patch_side_deg
            north, east = _allowed_shift(settings, place, distance, 2 * np.pi * angle)
            if north or east:
                copies.append(PlantedCopy(place, path, "shift", north_deg=north, east_deg=east))
                continue
            edit = "recompress"
        if edit == "recompress":
            copies.append(PlantedCopy(place, path, "recompress", amount=30 + 30 * amount))
        elif edit == "resize":
            copies.append(PlantedCopy(place, path, "resize", amount=0.5 + 0.3 * amount))
        else:
            copies.append(
                PlantedCopy(place, path, "brightness", amount=1 + (0.05 + 0.1 * amount) * (1 if sign < 0.5 else -1))
            )
    return tuple(copies)


def _allowed_shift(settings: EarthmapsSettings, place: Place, distance_deg: float, angle: float) -> tuple[float, float]:
    """North and east part of a shift that stays in the demo's cells: eight directions are tried; (0, 0) if none does."""
    for step in range(8):
        direction = angle + step * np.pi / 4
        north = round(distance_deg * np.sin(direction), 4)
        east = round(distance_deg * np.cos(direction) / np.cos(np.radians(place.latitude)), 4)
        latitude, longitude = np.array([place.latitude + north]), np.array([place.longitude + east])
        if abs(latitude[0]) + settings.patch_side_deg / 2 > MAX_LATITUDE_DEG:
            continue
        parts = demo_cells()
        if (
            not settings.demo_cells_only
            or parts.lies_in(parts.demo, latitude, longitude, settings.patch_side_deg).all()
        ):
            return float(north), float(east)
    return 0.0, 0.0


def _encode(image: Image.Image, quality: int = _JPEG_QUALITY) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
