"""Aerial scenes as the OpenAerialMap catalogues describe them, with what they say wrongly put right."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import shapely
from shapely.errors import ShapelyError
from shapely.geometry import MultiPolygon, Polygon, box, shape
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from storage.schemas import RejectReason
from tasks.collect.source import Item

Bounds = tuple[float, float, float, float]

METRES_PER_DEGREE = 111_320.0
# Ground sample distances outside of this are neither metres nor centimetres of any aerial image.
PLAUSIBLE_GSD_M = (0.005, 1000.0)
PLAUSIBLE_WIDTH_PX = (1e2, 1e6)
DEFAULT_LICENCE = "CC-BY-4.0"


@dataclass(frozen=True)
class Scene:
    """One record of a catalogue. `area` is where it has pixels, on the flat map in degrees; `gsd_m` is in metres."""

    identity: str
    title: str | None = None
    provider: str | None = None
    platform: str | None = None
    sensor: str | None = None
    licence: str | None = None
    bbox: Bounds | None = None
    footprint: str | None = None
    area: BaseGeometry | None = None
    gsd_m: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    thumbnail: str | None = None
    record: str | None = None


def scene_item(country: str, scene: Scene, thumbnail: str, reason: RejectReason, problem: str | None) -> Item:
    """The item of a scene's thumbnail; what the record says beyond the columns of ``images`` is its metadata."""
    known = {
        "scene": scene.identity,
        "record": scene.record,
        "title": scene.title,
        "provider": scene.provider,
        "platform": scene.platform,
        "sensor": scene.sensor,
        "bbox": scene.bbox,
        "footprint": scene.footprint or (scene.area.wkt if scene.area is not None else None),
        "gsd_m": scene.gsd_m,
        "acquired_from": scene.started_at.isoformat() if scene.started_at is not None else None,
        "acquired_to": scene.ended_at.isoformat() if scene.ended_at is not None else None,
        "licence_is_of_record": scene.licence is not None,
    }
    licence = scene.licence or DEFAULT_LICENCE
    centre = scene.area.representative_point() if scene.area is not None else None
    return Item(
        f"{country}/{scene.identity}.png",
        label=country,
        latitude=centre.y if centre is not None else None,
        longitude=centre.x if centre is not None else None,
        captured_at=scene.started_at,
        licence=licence if scene.licence is not None else f"{licence} (the catalogue's; the record names none)",
        attribution=f"© OpenAerialMap contributors ({scene.provider or 'provider not named'}), {licence}",
        url=thumbnail,
        metadata=json.dumps({name: value for name, value in known.items() if value is not None}, ensure_ascii=False),
        problem=problem,
        reason=reason,
    )


def normalised_gsd_m(
    gsd: float | None, resolution_m: float | None = None, *, bbox: Bounds | None = None, is_geographic: bool = False
) -> float | None:
    """Ground sample distance in metres, from a field that mixes metres and degrees.

    Parameters
    ----------
    gsd
        As the record says.
    resolution_m
        The record's own `resolution_in_meters`, which is believed where it is there.
    bbox
        West, south, east, north in degrees.
    is_geographic
        Whether the image is in longitude and latitude.

    Returns
    -------
    float or None
        None where no reading is plausible.

    Notes
    -----
    A tiny number, or one of an image in degrees, is taken as degrees if the image is then 100 to 1,000,000 pixels wide.

    >>> round(normalised_gsd_m(1.857e-07, bbox=(-80.4248105, -0.980146, -80.418725308, -0.974822)), 4)
    0.0207
    >>> normalised_gsd_m(0.06079)
    0.06079
    """
    if resolution_m is not None and resolution_m > 0:
        return resolution_m
    if gsd is None or gsd <= 0:
        return None
    if bbox is not None and (gsd < 1e-4 or is_geographic):
        low, high = PLAUSIBLE_WIDTH_PX
        if low <= _width_deg(bbox) / gsd <= high:
            return gsd * METRES_PER_DEGREE
    low, high = PLAUSIBLE_GSD_M
    return gsd if low <= gsd <= high else None


def bounds(value: Any) -> Bounds | None:
    """West, south, east, north in degrees, from four numbers (or six, with heights); None where they are none.

    West may be larger than east: then the box crosses the antimeridian.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) not in (4, 6):
        return None
    numbers = [float(each) if isinstance(each, int | float) else math.nan for each in value]
    west, south, east, north = numbers if len(numbers) == 4 else (*numbers[:2], *numbers[3:5])
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south < north <= 90) or west == east:
        return None
    return west, south, east, north


def valid_area(geojson: Any, footprint: str | None, bbox: Bounds) -> BaseGeometry:
    """Where a scene has pixels: its traced mask, else its footprint, else its bounding box.

    A mask that lies outside of the bounding box, or is none, is passed over; one that crosses itself is mended.
    """
    rectangle = _rectangle(bbox)
    room = rectangle.buffer(0.01 * _width_deg(bbox) + 1e-6)
    for read, source in ((_from_geojson, geojson), (_from_wkt, footprint)):
        area = read(source) if source else None
        if area is not None and not area.is_empty and room.covers(area):
            return area
    return rectangle


def moment(value: Any) -> datetime | None:
    """A time in ISO 8601, in UTC where it says nothing else; None where it is none."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found


def spdx(licence: str | None) -> str | None:
    """``CC-BY-4.0`` for ``CC-BY 4.0``: the catalogue's three licences as SPDX writes them."""
    return re.sub(r"\s+", "-", licence.strip()) if licence else None


def _width_deg(bbox: Bounds) -> float:
    west, _, east, _ = bbox
    return east - west if east > west else east - west + 360.0


def _rectangle(bbox: Bounds) -> BaseGeometry:
    west, south, east, north = bbox
    if west < east:
        return box(west, south, east, north)
    return MultiPolygon([box(west, south, 180.0, north), box(-180.0, south, east, north)])


def _from_geojson(value: Any) -> BaseGeometry | None:
    try:
        return _polygons(shapely.make_valid(shape({"type": value["type"], "coordinates": value["coordinates"]})))
    except (ShapelyError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


def _from_wkt(value: str) -> BaseGeometry | None:
    try:
        return _polygons(shapely.make_valid(shapely.from_wkt(value)))
    except (ShapelyError, TypeError):
        return None


def _polygons(geometry: BaseGeometry) -> BaseGeometry | None:
    """The parts that have an area."""
    parts = [part for part in getattr(geometry, "geoms", [geometry]) if isinstance(part, Polygon | MultiPolygon)]
    return unary_union(parts) if parts else None
