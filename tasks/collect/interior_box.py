"""The largest box of longitudes and latitudes inside each polygon of a country.

A web service that takes a bounding box finds images of the neighbours too; a box that lies inside the country does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Point, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from tasks.collect.countries import area_km2
from tasks.collect.largest_rectangle import maximal_rectangles

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_WORLD = box(-180, -90, 180, 90)

_GRID_CELLS = 600
# Boxes of the grid that are made larger: a smaller one of another place or proportion may end as the largest.
_MAX_CANDIDATES = 4
_MIN_CANDIDATE_SHARE = 0.7
_MAX_CANDIDATE_OVERLAP = 0.5

_PATTERN = np.arange(-3, 4).astype(np.float64)
_FIRST_STEP = 1 / 8
_LAST_STEP = 1e-6
_MAX_TRIES = 100
_MAX_ROUNDS = 8


class Box(NamedTuple):
    """A rectangle of longitudes and latitudes in degrees; it never crosses the antimeridian."""

    west: float
    south: float
    east: float
    north: float

    @property
    def polygon(self) -> Polygon:
        """The box as a polygon, x = longitude, y = latitude."""
        return box(*self)

    @property
    def area_deg2(self) -> float:
        """Area on the flat map of longitudes and latitudes, in square degrees."""
        return (self.east - self.west) * (self.north - self.south)

    @property
    def area_km2(self) -> float:
        """Area on the sphere in km²."""
        return area_km2(self.polygon)


def interior_boxes(geometry: Polygon | MultiPolygon, *, min_area_km2: float) -> list[Box]:
    """For each polygon the largest box of longitudes and latitudes inside it, holes respected.

    Largest is meant in square degrees. Each box is covered by its polygon, exactly as shapely's ``covers`` sees it. But
    for the last digits it is no smaller than the largest rectangle of a grid of 600 by 600 cells over the polygon's
    bounding box, and it is never smaller than that of `centroid_shrink_box`.

    Invalid polygons are mended first. Polygons that reach beyond ±180 degrees, and rings with an edge longer than 180
    degrees (a jump from 180 to -180), are first cut at the antimeridian: a box never crosses it, and a polygon that
    does has a box on either side.

    Parameters
    ----------
    geometry
        x = longitude, y = latitude in degrees.
    min_area_km2
        Boxes of a smaller area on the sphere, in km², are left out.

    Returns
    -------
    list[Box]
        Largest area on the sphere first.

    Raises
    ------
    ValueError
        When the geometry is no polygon or multi-polygon, or its coordinates are not degrees.
    """
    if not min_area_km2 >= 0:
        raise ValueError(f"min_area_km2 is {min_area_km2}, which is no area")
    boxes = []
    for polygon in _flat_polygons(geometry):
        # No box is larger than its polygon: most small islands need no search.
        if area_km2(polygon) >= min_area_km2 and (found := _largest_box(polygon)) is not None:
            boxes.append((found.area_km2, found))
    return [found for area, found in sorted(boxes, key=lambda each: (-each[0], each[1])) if area >= min_area_km2]


def centroid_shrink_box(polygon: Polygon) -> Box | None:
    """The case study's box, for comparison: one that shrinks around the centroid until the polygon covers it.

    The box starts as large as the polygon's bounding box, moved so that its centre is the polygon's centroid (of the
    flat map of longitudes and latitudes), and keeps its proportions; the largest size that the polygon covers is found
    by bisection.

    Returns
    -------
    Box | None
        None when the centroid lies outside the polygon or on its border.
    """
    return None if polygon.is_empty else _shrunk_box(polygon, polygon.centroid)


def _shrunk_box(polygon: Polygon, centre: Point) -> Box | None:
    """The largest box around the centre, of the bounding box's proportions, at most its size, that is covered."""
    west, south, east, north = polygon.bounds
    half_width, half_height = (east - west) / 2, (north - south) / 2
    shapely.prepare(polygon)

    def scaled(scale: float) -> Box:
        width, height = scale * half_width, scale * half_height
        return Box(centre.x - width, centre.y - height, centre.x + width, centre.y + height)

    if not polygon.contains(centre):
        return None
    low, high = 0.0, 1.0
    if polygon.covers(scaled(high).polygon):
        return scaled(high)
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if polygon.covers(scaled(middle).polygon) else (low, middle)
    found = scaled(low)
    return found if found.area_deg2 > 0 else None


def _largest_box(polygon: Polygon) -> Box | None:
    """The largest box that a polygon of the flat map covers; None when it is too thin for floating point."""
    shapely.prepare(polygon)
    edges = _Edges.of(polygon)
    centroid_box = centroid_shrink_box(polygon)
    # Slivers thinner than a cell have no box on the grid.
    tried = [centroid_box, _shrunk_box(polygon, polygon.representative_point()), *_grid_boxes(edges, polygon.bounds)]
    seeds = [seed for each in tried if each is not None and (seed := _covered(polygon, each)) is not None]
    enlarged = [_covered(polygon, _enlarged(edges, seed)) for seed in seeds]
    # The seeds stay: an enlarged box that is made to fit may lack some last digits that its seed has.
    found = [*seeds, *(each for each in enlarged if each is not None)]
    return max(found, key=lambda each: (each.area_deg2, each), default=None)


def _covered(polygon: Polygon, found: Box) -> Box | None:
    """The box, made smaller by as many last digits as it takes for the polygon to cover it."""
    west, south, east, north = found
    for hair_deg in (0.0, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8):
        inner = Box(west + hair_deg, south + hair_deg, east - hair_deg, north - hair_deg)
        if inner.west < inner.east and inner.south < inner.north and polygon.covers(inner.polygon):
            return inner
    return None


@dataclass(frozen=True)
class _Edges:
    """Edges of a polygon, holes' too, each from its lower to its upper end; degrees, (n,) each."""

    lower_x: Floats
    lower_y: Floats
    upper_x: Floats
    upper_y: Floats

    @classmethod
    def of(cls, polygon: Polygon) -> _Edges:
        rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
        return cls.between(np.concatenate([ring[:-1] for ring in rings]), np.concatenate([ring[1:] for ring in rings]))

    @classmethod
    def between(cls, start: Floats, end: Floats) -> _Edges:
        """Edges between points, (n, 2) as x, y."""
        rises = (start[:, 1] <= end[:, 1])[:, None]
        lower, upper = np.where(rises, start, end), np.where(rises, end, start)
        return cls(lower[:, 0], lower[:, 1], upper[:, 0], upper[:, 1])

    def transposed(self) -> _Edges:
        """The same edges with x and y exchanged."""
        return _Edges.between(
            np.column_stack([self.lower_y, self.lower_x]), np.column_stack([self.upper_y, self.upper_x])
        )

    def near(self, south: float, north: float) -> _Edges:
        """Those that reach into a band of latitudes."""
        return self.chosen((self.lower_y < north) & (self.upper_y > south))

    def chosen(self, index: Indices | Bools) -> _Edges:
        return _Edges(self.lower_x[index], self.lower_y[index], self.upper_x[index], self.upper_y[index])

    def part_between(self, south: Floats, north: Floats) -> tuple[Floats, Floats]:
        """Least and greatest x of the part of each edge between two latitudes that it reaches."""
        rise = self.upper_y - self.lower_y
        # An edge that hardly rises counts in full.
        flat = rise < 1e-12
        run_per_rise = np.where(flat, 0, (self.upper_x - self.lower_x) / np.where(flat, 1, rise))
        # From the nearer end, so that an edge's own ends come out exactly.
        at_south = self.lower_x + (np.maximum(south, self.lower_y) - self.lower_y) * run_per_rise
        at_north = self.upper_x - (self.upper_y - np.minimum(north, self.upper_y)) * run_per_rise
        return np.minimum(at_south, at_north), np.maximum(at_south, at_north)


def _grid_boxes(edges: _Edges, bounds: tuple[float, float, float, float]) -> list[Box]:
    """The largest box of the grid's cells, and others nearly as large that hardly overlap it, largest first."""
    west, south, east, north = bounds
    columns_deg, rows_deg = np.linspace(west, east, _GRID_CELLS + 1), np.linspace(south, north, _GRID_CELLS + 1)
    inside = _cells_inside(edges, bounds)
    left, right, low = maximal_rectangles(inside)
    high = np.broadcast_to(np.arange(1, _GRID_CELLS + 1)[:, None], inside.shape)
    areas = np.where(inside, (right - left) * (high - low), 0)
    chosen = areas > max(0.0, _MIN_CANDIDATE_SHARE * areas.max())
    # One column a rectangle, equal ones too: they go with the overlap.
    corners = np.stack([side[chosen] for side in (areas, left, low, right, high)])
    found: list[Box] = []
    while corners.size and len(found) < _MAX_CANDIDATES:
        area, left_0, low_0, right_0, high_0 = corners[:, corners[0].argmax()]
        found.append(Box(*map(float, (columns_deg[left_0], rows_deg[low_0], columns_deg[right_0], rows_deg[high_0]))))
        width = np.minimum(corners[3], right_0) - np.maximum(corners[1], left_0)
        height = np.minimum(corners[4], high_0) - np.maximum(corners[2], low_0)
        common = width.clip(0) * height.clip(0)
        corners = corners[:, common < _MAX_CANDIDATE_OVERLAP * (corners[0] + area - common)]
    return found


def _cells_inside(edges: _Edges, bounds: tuple[float, float, float, float]) -> Bools:
    """Which cells of the grid over the bounding box lie wholly inside the polygon, (rows, columns), the south first."""
    n = _GRID_CELLS
    west, south, east, north = bounds
    per_x, per_y = n / (east - west), n / (north - south)
    scaled = _Edges(
        _on_grid_lines((edges.lower_x - west) * per_x),
        _on_grid_lines((edges.lower_y - south) * per_y),
        _on_grid_lines((edges.upper_x - west) * per_x),
        _on_grid_lines((edges.upper_y - south) * per_y),
    )
    # An edge inside a cell: each edge is cut into its parts in the single rows, a part touches columns from its least
    # to its greatest x. What only runs along a grid line is in no cell.
    edge, row = _repeated(np.floor(scaled.lower_y).astype(np.intp), np.ceil(scaled.upper_y).astype(np.intp))
    row_line = row.astype(np.float64)
    low_x, high_x = map(_on_grid_lines, scaled.chosen(edge).part_between(row_line, row_line + 1))
    first, stop = np.floor(low_x).astype(np.intp), np.ceil(high_x).astype(np.intp)
    opened = np.bincount(row * (n + 1) + first, minlength=n * (n + 1))
    closed = np.bincount(row * (n + 1) + np.maximum(first, stop), minlength=n * (n + 1))
    touched = (opened - closed).reshape(n, n + 1).cumsum(axis=1)[:, :n] > 0
    # The other cells lie wholly inside or outside: their centres tell, by the edges to the left of them.
    edge, row = _repeated(np.ceil(scaled.lower_y - 0.5).astype(np.intp), np.ceil(scaled.upper_y - 0.5).astype(np.intp))
    row_centre = row.astype(np.float64) + 0.5
    crossing, _ = scaled.chosen(edge).part_between(row_centre, row_centre)
    column = np.ceil(crossing - 0.5).astype(np.intp).clip(0, n)
    crossings = np.bincount(row * (n + 1) + column, minlength=n * (n + 1)).reshape(n, n + 1)
    return np.asarray((crossings.cumsum(axis=1)[:, :n] % 2 == 1) & ~touched)


def _on_grid_lines(values: Floats) -> Floats:
    """In cells; what lies on a grid line but for rounding is put there, so that it touches no cell beyond it."""
    nearest = np.round(values)
    return np.where(np.abs(values - nearest) < 1e-9, nearest, values).clip(0, _GRID_CELLS)


def _repeated(first: Indices, stop: Indices) -> tuple[Indices, Indices]:
    """Index i and value v for each v of ``range(first[i], stop[i])``."""
    counts = np.maximum(stop - first, 0)
    index = np.repeat(np.arange(len(first)), counts)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts - first, counts)


def _enlarged(edges: _Edges, seed: Box) -> Box:
    """The box, moved and made larger as long as it grows."""
    turned, found = edges.transposed(), seed
    for _ in range(_MAX_ROUNDS):
        before = found.area_deg2
        found = _widest(edges, found)
        found = _transposed(_widest(turned, _transposed(found)))
        if found.area_deg2 <= before * (1 + 1e-6):
            break
    return found


def _transposed(found: Box) -> Box:
    return Box(found.south, found.west, found.north, found.east)


def _widest(edges: _Edges, seed: Box) -> Box:
    """A local search over south and north; west and east are always as far apart as the edges between allow.

    All pairs around the best pair so far are tried at once; the step is made smaller when none of them is better.
    """
    found, step, n_tries = seed, _FIRST_STEP, 0
    south_steps, north_steps = (each.ravel() for each in np.meshgrid(_PATTERN, _PATTERN))
    while step > _LAST_STEP and n_tries < _MAX_TRIES:
        n_tries += 1
        size = step * (found.north - found.south)
        south, north = found.south + size * south_steps, found.north + size * north_steps
        west, east = _reach(edges, (found.west + found.east) / 2, south, north)
        areas = np.maximum(east - west, 0) * np.maximum(north - south, 0)
        best = int(areas.argmax())
        if areas[best] > found.area_deg2 * (1 + 1e-9):
            found = Box(*map(float, (west[best], south[best], east[best], north[best])))
        else:
            step /= 4
    return found


def _reach(edges: _Edges, x: float, south: Floats, north: Floats) -> tuple[Floats, Floats]:
    """How far boxes around the longitude x reach west and east before they meet an edge, for pairs of sides, (n,)."""
    near = edges.near(float(south.min()), float(north.max()))
    low_x, high_x = near.part_between(south[:, None], north[:, None])
    meets = (near.lower_y < north[:, None]) & (near.upper_y > south[:, None])
    west = np.where(meets & (low_x < x), high_x, -np.inf).max(axis=1, initial=-np.inf)
    east = np.where(meets & (high_x > x), low_x, np.inf).min(axis=1, initial=np.inf)
    bounded = np.isfinite(west) & np.isfinite(east)
    return np.where(bounded, west, x), np.where(bounded, east, x)


def _flat_polygons(geometry: Polygon | MultiPolygon) -> list[Polygon]:
    """Valid polygons of the flat map between -180 and 180 degrees."""
    if not isinstance(geometry, Polygon | MultiPolygon):
        raise ValueError(f"a box lies inside a Polygon or a MultiPolygon, not a {type(geometry).__name__}")
    coordinates = shapely.get_coordinates(geometry)
    # A full turn more than the map is wide: polygons that go on beyond the antimeridian.
    if not (np.abs(coordinates) <= (540, 90 + 1e-6)).all():
        raise ValueError("coordinates are not longitudes and latitudes in degrees")
    parts = [geometry] if isinstance(geometry, Polygon) else list(geometry.geoms)
    flat = MultiPolygon([each for part in parts for each in _polygons(_cut_at_antimeridian(part))])
    return list(_polygons(flat if flat.is_valid else _mended(flat)))


def _polygons(geometry: BaseGeometry) -> Iterator[Polygon]:
    for part in getattr(geometry, "geoms", [geometry]):
        if isinstance(part, MultiPolygon):
            yield from part.geoms
        elif isinstance(part, Polygon) and not part.is_empty:
            yield part


def _cut_at_antimeridian(polygon: Polygon) -> BaseGeometry:
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    if all(not _jumps(ring).any() and (np.abs(ring) <= (180, 90)).all() for ring in rings):
        return polygon
    # Each ring by itself: a hole need not be a turn away where its shell is.
    shell, *holes = [_ring_on_map(ring) for ring in rings]
    return shell.difference(unary_union(holes))


def _jumps(ring: Floats) -> Floats:
    """For each edge of a ring, (n, 2), the turns (-1, 0, 1) by which it jumps over the antimeridian, (n - 1,).

    The side of a flat map along a pole is no jump.
    """
    step_deg = np.diff(ring[:, 0])
    along_pole = (np.abs(ring[:-1, 1]) >= 90) & (np.abs(ring[1:, 1]) >= 90)
    return np.where((np.abs(step_deg) > 180) & ~along_pole, -np.sign(step_deg), 0.0)


def _ring_on_map(ring: Floats) -> BaseGeometry:
    """The area within a ring: unrolled where it jumps, then what lies beyond ±180 degrees brought back."""
    turns = np.concatenate([[0], np.cumsum(_jumps(ring))])
    unrolled = np.column_stack([ring[:, 0] + 360 * turns, ring[:, 1]])
    if turns[-1] != 0:
        # A ring around a pole is closed along it.
        pole_deg = math.copysign(90, ring[:, 1].mean())
        unrolled = np.concatenate([unrolled, [(unrolled[-1, 0], pole_deg), (unrolled[0, 0], pole_deg)]])
    area = _mended(Polygon(unrolled))
    if area.is_empty:
        # A band around the whole map only seems to jump.
        area = _mended(Polygon(ring))
    if area.is_empty:
        return area
    first, last = (round(side / 360) for side in area.bounds[::2])
    pieces = [translate(area, xoff=-360 * turn).intersection(_WORLD) for turn in range(first, last + 1)]
    return unary_union([part for piece in pieces for part in _polygons(piece)])


def _mended(geometry: Polygon | MultiPolygon) -> BaseGeometry:
    """Its valid area; what has none, such as a spike, falls away."""
    return shapely.make_valid(geometry, method="structure", keep_collapsed=False)
