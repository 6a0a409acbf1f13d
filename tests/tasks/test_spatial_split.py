"""Cells of equal area, H3 cells, and the buffer between parts as comparing all pairs finds it."""

from __future__ import annotations

import sys

import h3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.dedup.elsewhere import EARTH_RADIUS_KM, great_circle_km
from tasks.split.spatial import buffer_zone, cell_bounds, equal_area_cells, h3_cells

sides_km = st.one_of(st.sampled_from([0.5, 25.0, 100.0, 10_000.0]), st.floats(20.0, 10_000.0))
latitudes = st.one_of(st.sampled_from([-90.0, 0.0, 90.0]), st.floats(-90, 90))
longitudes = st.one_of(st.sampled_from([-180.0, 0.0, 180.0]), st.floats(-180, 180))
places = st.lists(st.tuples(latitudes, longitudes), min_size=1, max_size=50)


def scattered(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places drawn evenly from the sphere."""
    generator = np.random.default_rng(seed)
    return np.degrees(np.arcsin(generator.uniform(-1, 1, n))), generator.uniform(-180, 180, n)


def n_cells(side_km: float) -> int:
    return round(4 * np.pi * EARTH_RADIUS_KM**2 / side_km**2)


@pytest.mark.parametrize("side_km", [100.0, 333.3, 1000.0, 4000.0, 6000.0, 8000.0, 10_000.0])
def test_all_cells_have_the_same_area_and_cover_the_sphere_once(side_km: float) -> None:
    n = n_cells(side_km)
    bounds = cell_bounds(np.arange(n), side_km=side_km)
    rise = np.sin(np.radians(bounds.north)) - np.sin(np.radians(bounds.south))
    area_km2 = EARTH_RADIUS_KM**2 * rise * np.radians(bounds.east - bounds.west)
    np.testing.assert_allclose(area_km2, 4 * np.pi * EARTH_RADIUS_KM**2 / n, rtol=1e-9)
    assert bounds.south[0] == -90
    assert bounds.north[-1] == pytest.approx(90, abs=1e-6)
    starts = bounds.west == -180
    np.testing.assert_allclose(bounds.west[~starts], bounds.east[np.flatnonzero(~starts) - 1], atol=1e-9)
    np.testing.assert_allclose(bounds.south[starts][1:], bounds.north[np.flatnonzero(starts)[1:] - 1], atol=1e-9)


def test_cells_are_nearly_square_but_at_the_poles() -> None:
    bounds = cell_bounds(np.arange(n_cells(100)), side_km=100)
    km_per_degree = np.pi * EARTH_RADIUS_KM / 180
    middle = np.radians((bounds.south + bounds.north) / 2)
    aspect = (bounds.east - bounds.west) * np.cos(middle) / (bounds.north - bounds.south)
    away = np.abs(middle) < np.radians(75)
    assert np.abs(aspect[away] - 1).max() < 0.1
    np.testing.assert_allclose((bounds.north - bounds.south)[away] * km_per_degree, 100, rtol=0.05)


@given(places, sides_km)
def test_images_lie_in_their_cells(points: list[tuple[float, float]], side_km: float) -> None:
    latitude, longitude = np.array(points).T
    cells = equal_area_cells(latitude, longitude, side_km=side_km)
    assert cells.dtype == np.int64
    bounds = cell_bounds(cells, side_km=side_km)
    assert (bounds.south - 1e-5 <= latitude).all()
    assert (latitude <= bounds.north + 1e-5).all()
    inside = (bounds.west - 1e-9 <= longitude) & (longitude <= bounds.east + 1e-9)
    assert (inside | (longitude >= 180 - 1e-9) | (np.abs(latitude) == 90)).all()


@given(st.lists(latitudes, min_size=1, max_size=30), sides_km)
def test_the_antimeridian_is_one_line_and_a_pole_one_point(latitude: list[float], side_km: float) -> None:
    east, west = (equal_area_cells(latitude, [side] * len(latitude), side_km=side_km) for side in (180.0, -180.0))
    assert east.tolist() == west.tolist()
    for pole in (-90.0, 90.0):
        assert len(set(equal_area_cells([pole] * 4, [-180.0, -3.0, 77.0, 180.0], side_km=side_km).tolist())) == 1


def test_as_many_images_in_each_cell_when_they_are_scattered_evenly() -> None:
    count = np.bincount(equal_area_cells(*scattered(200_000), side_km=2000), minlength=n_cells(2000))
    expected = 200_000 / n_cells(2000)
    assert len(count) == n_cells(2000)
    assert (np.abs(count - expected) < 6 * np.sqrt(expected)).all()


def test_h3_cells_are_those_of_h3() -> None:
    latitude, longitude = scattered(200)
    cells = h3_cells(latitude, longitude, resolution=4)
    assert cells.tolist() == [h3.latlng_to_cell(*place, 4) for place in zip(latitude, longitude, strict=True)]
    assert h3_cells([48.85], [2.35], resolution=5).tolist() == ["851fb467fffffff"]
    assert h3_cells([], [], resolution=5).shape == (0,)
    assert len({*h3_cells([10.0, 10.0], [180.0, -180.0], resolution=9).tolist()}) == 1
    with pytest.raises(ValueError, match="resolution must be a whole number from 0 to 15, got 16"):
        h3_cells([0.0], [0.0], resolution=16)


def test_without_h3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h3", None)
    with pytest.raises(ImportError, match=r"pip install 'placeprint\[h3\]'"):
        h3_cells([0.0], [0.0], resolution=3)


def near_any(latitude: np.ndarray, longitude: np.ndarray, row: int, others: np.ndarray, buffer_km: float) -> bool:
    return bool((great_circle_km(latitude[row], longitude[row], latitude[others], longitude[others]) < buffer_km).any())


@given(st.integers(1, 80), st.integers(0, 10_000), st.floats(0, 6000), st.sampled_from([1.0, 0.01]))
def test_buffer_around_the_test_part_as_brute_force(n: int, seed: int, buffer_km: float, scale: float) -> None:
    latitude, longitude = (each * scale for each in scattered(n, seed))
    parts = np.random.default_rng(seed).choice(["train", "validation", "test"], n)
    parts[0] = "test"
    test = np.flatnonzero(parts == "test")
    expected = [
        parts[row] != "test" and near_any(latitude, longitude, row, test, buffer_km * scale) for row in range(n)
    ]
    assert buffer_zone(latitude, longitude, parts, buffer_km=buffer_km * scale).tolist() == expected


@given(st.integers(2, 80), st.integers(0, 10_000), st.floats(0, 6000))
def test_of_two_kept_parts_the_later_loses_nothing_and_nothing_is_lost_in_vain(
    n: int, seed: int, buffer_km: float
) -> None:
    latitude, longitude = scattered(n, seed)
    parts = np.random.default_rng(seed).choice(["train", "validation", "test"], n)
    parts[:2] = "validation", "test"
    out = buffer_zone(latitude, longitude, parts, buffer_km=buffer_km, keep=("validation", "test"))
    rank = np.array([["train", "validation", "test"].index(part) for part in parts])
    assert not out[parts == "test"].any()
    for row in range(n):
        above = np.flatnonzero((rank > rank[row]) & ~out)
        assert near_any(latitude, longitude, row, above, buffer_km) == out[row]


def test_the_buffer_reaches_across_the_antimeridian_and_the_pole() -> None:
    parts = ["test", "train", "train"]
    assert buffer_zone([0, 0, 0], [179.9, -179.9, 170], parts, buffer_km=30).tolist() == [False, True, False]
    assert buffer_zone([89.9, 89.9, 80], [0, 180, 0], parts, buffer_km=30).tolist() == [False, True, False]
    assert buffer_zone([5, 5, 5], [5, 5, 5], parts, buffer_km=0).tolist() == [False] * 3
    assert buffer_zone([5, 5, 5], [5, 5, 5], parts, buffer_km=1e-6).tolist() == [False, True, True]


@pytest.mark.timeout(20)  # comparing every image takes a minute
def test_images_of_one_place_are_compared_once() -> None:
    parts = np.where(np.arange(100_000) % 7 == 0, "test", "train")
    out = buffer_zone(np.full(100_000, 5.0), np.full(100_000, 5.0), parts, buffer_km=1)
    assert (out == (parts == "train")).all()


def test_many_images() -> None:
    latitude, longitude = scattered(20_000)
    parts = np.where(np.arange(20_000) % 7 == 0, "test", "train")
    out = buffer_zone(latitude, longitude, parts, buffer_km=50)
    test = np.flatnonzero(parts == "test")
    for row in range(0, 20_000, 199):
        assert out[row] == (parts[row] != "test" and near_any(latitude, longitude, row, test, 50))
    assert 0.03 < out.mean() < 0.05  # 2857 discs of 50 km are 4.4% of the sphere


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        ([1, np.nan, 3, np.nan], [1, 2, np.nan, np.nan], "3 rows of 4 have no coordinates: 1, 2, 3$"),
        ([np.nan] * 5, [0] * 5, r"5 rows of 5 have no coordinates: 0, 1, 2, \.\.\.$"),
        ([90.5, 0], [0, 0], "1 latitudes are not between -90 and 90 degrees: 90.5$"),
        ([0, 0], [0, 181], "1 longitudes are not between -180 and 180 degrees: 181.0$"),
        ([0, 0], [0, np.inf], "1 longitudes are not"),
        ([0, 0], [0], r"shape \(n,\), got \(2,\) and \(1,\)"),
    ],
)
def test_coordinates_that_are_refused(latitude: list[float], longitude: list[float], message: str) -> None:
    for use in (
        lambda: equal_area_cells(latitude, longitude, side_km=100),
        lambda: h3_cells(latitude, longitude, resolution=3),
        lambda: buffer_zone(latitude, longitude, ["test"] * len(latitude), buffer_km=1),
    ):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize("side_km", [0.0, -1.0, 10_001.0, np.nan])
def test_sides_that_are_refused(side_km: float) -> None:
    with pytest.raises(ValueError, match=r"side_km must be between 0\.01 and 10,000"):
        equal_area_cells([0.0], [0.0], side_km=side_km)


def test_cells_outside_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 cells are not in the grid, which has 51007 cells: -1, 51007$"):
        cell_bounds([-1, 0, 51007], side_km=100)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"buffer_km": -1.0}, "buffer_km must be a number that is not negative, got -1.0"),
        ({"buffer_km": np.nan}, "buffer_km"),
        ({"keep": ("validation", "tset")}, "no image is in the kept parts validation, tset; there are test, train"),
        ({"keep": ("test", "test")}, "names a part twice: test, test"),
        ({"keep": "test"}, "sequence of parts, got 'test'"),
        ({"parts": ["test"]}, r"2 coordinates, but parts of the shape \(1,\)"),
    ],
)
def test_buffers_that_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        buffer_zone([0.0, 1.0], [0.0, 1.0], **{"parts": ["test", "train"], "buffer_km": 1.0, **given})  # type: ignore[arg-type]
