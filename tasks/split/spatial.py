"""Spatial blocks, and a buffer between parts, so that no training image was taken next to a test image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.dedup.elsewhere import EARTH_RADIUS_KM

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SMALLEST_SIDE_KM, LARGEST_SIDE_KM = 0.01, 10_000.0
FINEST_RESOLUTION = 15  # of H3
N_NAMED = 3  # rows that an error names


@dataclass(frozen=True)
class CellBounds:
    """Edges of cells in degrees, each (n,) float64; east is above west."""

    south: Floats
    north: Floats
    west: Floats
    east: Floats


def equal_area_cells(latitude_deg: npt.ArrayLike, longitude_deg: npt.ArrayLike, *, side_km: float) -> Integers:
    """The cell of each image in a grid of nearly square cells that all have exactly the same area.

    The sphere, of the mean radius R = 6371.0088 km, is cut into N = 4 π R² / side² cells, rounded to a whole number, in bands of
    latitude of nearly the height `side_km`. A band of n cells has the height that gives each of them the area
    A = 4 π R² / N: sin(north) = sin(south) + n A / (2 π R²). The bands' edges are nominally π R / side equal steps of latitude;
    each is moved to where a whole number of cells lies south of it, so n is the circumference at the band's middle,
    measured in sides, but for rounding. The two polar bands have three cells each, or so.

    This is the grid of Malkin [1]_ but for its rounding: he rounds each band's number of cells, here the sums from
    the south pole are rounded, so that N is near any area that is asked for.

    Parameters
    ----------
    latitude_deg, longitude_deg
        (n,) in degrees, -90 to 90 and -180 to 180.
    side_km
        Side of a square of the cells' area, 0.01 to 10,000 km.

    Returns
    -------
    ndarray
        (n,) int64, cells numbered from 0 at the south pole, by bands, and eastward from the antimeridian. The longitudes
        180 and -180 are the same; a pole is in one cell, whatever its longitude.

    Raises
    ------
    ValueError
        When coordinates are missing or outside these ranges, lengths differ, or `side_km` is not allowed.

    References
    ----------
    .. [1] Z. Malkin, A new equal-area isolatitudinal grid on a spherical surface, The Astronomical Journal 158, 2019.

    Examples
    --------
    >>> equal_area_cells([48.85, 48.86, -33.9], [2.35, 2.29, 151.2], side_km=100).tolist()
    [44767, 44767, 11474]
    """
    latitude, longitude = _coordinates(latitude_deg, longitude_deg)
    first = _first_cells(side_km)
    n_cells = first[-1]
    south_of = _share_of_area(np.radians(latitude + 90.0)) * n_cells  # cells' worth of area south of each image
    band = np.clip(np.searchsorted(first, south_of, side="right") - 1, 0, len(first) - 2)
    n_in_band = first[band + 1] - first[band]
    turn = np.where(np.abs(latitude) == 90.0, 0.0, np.mod(longitude + 180.0, 360.0) / 360.0)
    # A longitude just below 180 can be rounded up to a whole turn.
    column = np.minimum((turn * n_in_band).astype(np.int64), n_in_band - 1)
    return np.asarray(first[band] + column, dtype=np.int64)


def cell_bounds(cells: npt.ArrayLike, *, side_km: float) -> CellBounds:
    """Edges of cells of `equal_area_cells`, for a map.

    Parameters
    ----------
    cells
        (n,) integers, numbers of cells.
    side_km
        With which they were made.

    Returns
    -------
    CellBounds
        In degrees.

    Raises
    ------
    ValueError
        When a cell is not one of the grid, or `side_km` is not allowed.

    Examples
    --------
    >>> bounds = cell_bounds([44767], side_km=100)
    >>> [round(float(edge[0]), 2) for edge in (bounds.south, bounds.north, bounds.west, bounds.east)]
    [48.6, 49.5, 2.05, 3.42]
    """
    first = _first_cells(side_km)
    cell = np.asarray(cells, dtype=np.int64)
    _refuse("cells", cell, (cell < 0) | (cell >= first[-1]), f"are not in the grid, which has {first[-1]} cells")
    band = np.searchsorted(first, cell, side="right") - 1
    width = 360.0 / (first[band + 1] - first[band])
    west = -180.0 + (cell - first[band]) * width
    edges = np.degrees(2.0 * np.arcsin(np.sqrt(first / first[-1]))) - 90.0
    return CellBounds(edges[band], edges[band + 1], west, west + width)


def h3_cells(latitude_deg: npt.ArrayLike, longitude_deg: npt.ArrayLike, *, resolution: int) -> npt.NDArray[np.str_]:
    """The H3 cell of each image: hexagons, of an area that varies by a factor of two, that have names others know too.

    Parameters
    ----------
    latitude_deg, longitude_deg
        (n,) in degrees, -90 to 90 and -180 to 180.
    resolution
        0 (cells of about 4,000,000 km²) to 15 (1 m²); each is about a seventh of the one before.

    Returns
    -------
    ndarray
        (n,) str, names of 15 hexadecimal digits.

    Raises
    ------
    ValueError
        When coordinates are missing or outside these ranges, lengths differ, or there is no such resolution.
    ImportError
        When the package `h3` is not installed.

    References
    ----------
    .. [1] Uber Technologies, H3: a hexagonal hierarchical geospatial indexing system, https://h3geo.org.

    Examples
    --------
    >>> h3_cells([48.85], [2.35], resolution=5).tolist()
    ['851fb467fffffff']
    """
    try:
        import h3
    except ImportError:
        raise ImportError("split: H3 cells need the extra `h3`: pip install 'placeprint[h3]'") from None
    if resolution not in range(FINEST_RESOLUTION + 1):
        raise ValueError(f"resolution must be a whole number from 0 to {FINEST_RESOLUTION}, got {resolution}")
    latitude, longitude = _coordinates(latitude_deg, longitude_deg)
    places = zip(latitude.tolist(), longitude.tolist(), strict=True)
    return np.array([h3.latlng_to_cell(*place, resolution) for place in places], dtype="<U15")


def buffer_zone(
    latitude_deg: npt.ArrayLike,
    longitude_deg: npt.ArrayLike,
    parts: npt.ArrayLike,
    *,
    buffer_km: float,
    keep: Sequence[str] = ("test",),
) -> Bools:
    """Which images to leave out, so that none that is left is near an image of another part that is kept.

    The part named last in `keep` loses nothing. Each part named before it loses what is near a part named after it, and all
    parts that are not named lose what is near any that is. What a part has lost itself costs no other part an image.

    Parameters
    ----------
    latitude_deg, longitude_deg
        (n,) in degrees, -90 to 90 and -180 to 180.
    parts
        (n,) str, part of each image.
    buffer_km
        Images nearer than this, along a great circle of a sphere of the mean radius 6371.0088 km, are near.
    keep
        Parts that are kept, the most precious last.

    Returns
    -------
    ndarray
        (n,) bool, true for images to leave out.

    Raises
    ------
    ValueError
        When coordinates are missing or out of range, lengths differ, `buffer_km` is negative or not finite, or a part to keep
        is named twice or has no image.

    Examples
    --------
    >>> buffer_zone([0.0, 0.0, 0.0], [0.0, 0.1, 1.0], ["test", "train", "train"], buffer_km=50).tolist()
    [False, True, False]
    """
    from sklearn.neighbors import BallTree

    latitude, longitude = _coordinates(latitude_deg, longitude_deg)
    part = np.asarray(parts, dtype=np.str_)
    if part.shape != latitude.shape:
        raise ValueError(f"{latitude.size} coordinates, but parts of the shape {part.shape}")
    if not 0 <= buffer_km < np.inf:
        raise ValueError(f"buffer_km must be a number that is not negative, got {buffer_km}")
    _check_kept(part, keep)
    # Each place once: thousands of images of one place are as many equally near neighbours, which a tree compares one by one.
    place, at = np.unique(np.stack([latitude, longitude], axis=1), axis=0, return_inverse=True)
    place, at = np.radians(place), at.ravel()
    left_out = np.zeros(len(part), dtype=np.bool_)
    # From the last: what was left out of a kept part no longer counts when the parts before it are compared with it.
    for index in reversed(range(len(keep))):
        kept = np.unique(at[(part == keep[index]) & ~left_out])
        others = ~left_out & ~np.isin(part, list(keep[index:]))
        compared = np.unique(at[others])
        if not len(kept) or not len(compared):
            continue
        tree = BallTree(place[kept], metric="haversine")
        distance_km = tree.query(place[compared], k=1)[0][:, 0] * EARTH_RADIUS_KM
        left_out |= others & np.isin(at, compared[distance_km < buffer_km])
    return left_out


def _check_kept(part: npt.NDArray[np.str_], keep: Sequence[str]) -> None:
    if isinstance(keep, str):
        raise ValueError(f"keep must be a sequence of parts, got {keep!r}")
    if len(set(keep)) != len(keep):
        raise ValueError(f"keep names a part twice: {', '.join(keep)}")
    there = np.unique(part).tolist()
    empty = [name for name in keep if name not in there]
    if empty:
        raise ValueError(
            f"no image is in the kept parts {', '.join(empty)}; there are {', '.join(there) or 'no images'}"
        )


def _first_cells(side_km: float) -> Integers:
    """Number of the first cell of each band from the south pole on, and in the end the number of all cells."""
    if not SMALLEST_SIDE_KM <= side_km <= LARGEST_SIDE_KM:
        raise ValueError(f"side_km must be between {SMALLEST_SIDE_KM} and {LARGEST_SIDE_KM:,.0f}, got {side_km}")
    n_cells = round(4 * np.pi * EARTH_RADIUS_KM**2 / side_km**2)
    n_bands = round(np.pi * EARTH_RADIUS_KM / side_km)
    edges = np.linspace(0.0, np.pi, n_bands + 1)
    return np.rint(_share_of_area(edges) * n_cells).astype(np.int64)


def _share_of_area(from_pole: Floats) -> Floats:
    """Of the sphere, within so many radians of a pole: (1 - cos) / 2, without the cancellation near the pole."""
    return np.asarray(np.sin(from_pole / 2.0) ** 2)


def _coordinates(latitude_deg: npt.ArrayLike, longitude_deg: npt.ArrayLike) -> tuple[Floats, Floats]:
    latitude, longitude = (np.asarray(each, dtype=np.float64) for each in (latitude_deg, longitude_deg))
    if latitude.ndim != 1 or latitude.shape != longitude.shape:
        raise ValueError(f"coordinates must have the shape (n,), got {latitude.shape} and {longitude.shape}")
    missing = np.isnan(latitude) | np.isnan(longitude)
    _refuse("rows", np.arange(len(latitude)), missing, f"of {len(latitude)} have no coordinates")
    _refuse("latitudes", latitude, ~(np.abs(latitude) <= 90.0), "are not between -90 and 90 degrees")
    _refuse("longitudes", longitude, ~(np.abs(longitude) <= 180.0), "are not between -180 and 180 degrees")
    return latitude, longitude


def _refuse(what: str, values: npt.NDArray[np.float64] | Integers, wrong: Bools, why: str) -> None:
    """Name the first of the wrong values and say how many there are."""
    n_wrong = int(wrong.sum())
    if n_wrong:
        first = ", ".join(map(str, values[wrong][:N_NAMED].tolist())) + (", ..." if n_wrong > N_NAMED else "")
        raise ValueError(f"{n_wrong} {what} {why}: {first}")
