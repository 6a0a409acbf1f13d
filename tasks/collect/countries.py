"""Country polygons (Natural Earth admin-0, 1:50m and 1:110m) and points sampled inside them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw
from shapely.geometry import MultiPolygon, Polygon, shape

Floats = npt.NDArray[np.float64]
Scale = Literal["50m", "110m"]

_EARTH_RADIUS_KM = 6371.0088


@dataclass(frozen=True)
class CountryShape:
    """A label and its polygons in degrees (x = longitude, y = latitude)."""

    label: str
    geometry: MultiPolygon


@dataclass(frozen=True)
class NaturalEarthShape:
    """A country under Natural Earth's name, with its label where the label set has one; polygons in degrees."""

    name: str
    label: str | None
    geometry: MultiPolygon


@cache
def country_shapes(scale: Scale = "50m") -> tuple[CountryShape, ...]:
    """Every country of the label set that Natural Earth draws, in the label set's order.

    At 1:50m these are 210 of 211 (Gibraltar is too small); at 1:110m the small islands and states are missing.
    """
    return tuple(CountryShape(label, geometry) for label, geometry in _features(scale) if label is not None)


@cache
def natural_earth_shapes() -> tuple[NaturalEarthShape, ...]:
    """The whole 1:110m map: 177 countries, and the territories cut out of two of them (French Guiana, Svalbard)."""
    return tuple(
        NaturalEarthShape(feature["properties"]["name"], feature["properties"]["label"], shape(feature["geometry"]))
        for feature in _geojson("110m")["features"]
    )


@cache
def _features(scale: Scale) -> tuple[tuple[str | None, MultiPolygon], ...]:
    """Label (None: land outside the label set) and polygons."""
    return tuple(
        (feature["properties"]["label"], shape(feature["geometry"])) for feature in _geojson(scale)["features"]
    )


def _geojson(scale: Scale) -> dict[str, Any]:
    text = files("tasks.collect").joinpath(f"data/natural_earth_{scale}.geojson").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def area_km2(geometry: MultiPolygon | Polygon) -> float:
    """Area on the sphere in km² (cylindrical equal-area projection: x = R·λ, y = R·sin φ)."""
    projected = shapely.transform(
        geometry,
        lambda degrees: np.column_stack(
            [np.radians(degrees[:, 0]) * _EARTH_RADIUS_KM, np.sin(np.radians(degrees[:, 1])) * _EARTH_RADIUS_KM]
        ),
    )
    return float(projected.area)


def sample_points(geometry: MultiPolygon, n: int, max_latitude_deg: float, generator: np.random.Generator) -> Floats:
    """Points inside the polygons, uniform on the sphere, (m, 2) as latitude, longitude; m <= n.

    Latitudes are drawn uniformly in their sine, so that a square kilometre has the same chance everywhere. Fewer than
    `n` points come back when the polygons hardly reach below `max_latitude_deg`.
    """
    shapely.prepare(geometry)
    parts = [
        part for part in geometry.geoms if part.bounds[1] < max_latitude_deg and part.bounds[3] > -max_latitude_deg
    ]
    if not parts:
        return np.empty((0, 2))
    # A box for each part, weighted by its area on the sphere: few tries are wasted on the sea between islands.
    bounds = np.array([part.bounds for part in parts])
    low = np.sin(np.radians(np.maximum(bounds[:, 1], -max_latitude_deg)))
    high = np.sin(np.radians(np.minimum(bounds[:, 3], max_latitude_deg)))
    weights = (bounds[:, 2] - bounds[:, 0]) * (high - low)
    if not weights.sum() > 0:
        return np.empty((0, 2))
    found: list[Floats] = []
    n_found = 0
    for _ in range(50):
        chosen = generator.choice(len(parts), size=4 * n, p=weights / weights.sum())
        latitude = np.degrees(np.arcsin(low[chosen] + generator.random(4 * n) * (high - low)[chosen]))
        longitude = bounds[chosen, 0] + generator.random(4 * n) * (bounds[chosen, 2] - bounds[chosen, 0])
        # A point counts only for the part whose box it was drawn from, or overlapping boxes would be sampled twice.
        inside = np.zeros(len(chosen), dtype=bool)
        for index in np.unique(chosen):
            mine = chosen == index
            inside[mine] = shapely.contains_xy(parts[index], longitude[mine], latitude[mine])
        found.append(np.column_stack([latitude, longitude])[inside])
        n_found += int(inside.sum())
        if n_found >= n:
            break
    return np.concatenate(found)[:n]


@dataclass(frozen=True)
class LandMask:
    """Summed-area table of land pixels on an equirectangular grid; `table` is (height + 1, 2 * width + 1) int32."""

    table: npt.NDArray[np.int32]
    px_per_deg: float

    def share(self, latitude: Floats, longitude: Floats, side_deg: float) -> Floats:
        """Share of land, 0 to 1, in the patch around each point, (n,)."""
        half = side_deg / 2
        half_width = half / np.cos(np.radians(latitude))
        upper = np.round((90 - latitude - half) * self.px_per_deg).astype(int).clip(0, self.table.shape[0] - 2)
        lower = np.round((90 - latitude + half) * self.px_per_deg).astype(int).clip(upper + 1, self.table.shape[0] - 1)
        # The table holds the world twice side by side, so that a patch may cross the antimeridian.
        left = np.round(((longitude - half_width + 180) % 360) * self.px_per_deg).astype(int)
        width = np.maximum(1, np.round(2 * half_width * self.px_per_deg).astype(int))
        right = np.minimum(left + width, self.table.shape[1] - 1)
        t = self.table
        land = t[lower, right] - t[upper, right] - t[lower, left] + t[upper, left]
        return np.asarray(land / ((lower - upper) * (right - left)), dtype=np.float64)


@cache
def land_mask() -> LandMask:
    """All land, lakes included, at a tenth of a degree."""
    px_per_deg = 10.0
    image = Image.new("1", (3600, 1800))
    draw = ImageDraw.Draw(image)
    for _, geometry in _features("50m"):
        for part in geometry.geoms:
            points = shapely.get_coordinates(part.exterior)
            pixels = np.column_stack([(points[:, 0] + 180) * px_per_deg, (90 - points[:, 1]) * px_per_deg])
            draw.polygon([(float(x), float(y)) for x, y in pixels], fill=1)
    land = np.asarray(image, dtype=np.int32)
    table = np.zeros((1801, 7201), dtype=np.int32)
    table[1:, 1:] = np.tile(land, (1, 2)).cumsum(0).cumsum(1)
    return LandMask(table, px_per_deg)
