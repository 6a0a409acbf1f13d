from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import rotate, scale, translate
from shapely.geometry import GeometryCollection, LineString, MultiPolygon, Point, Polygon, box
from shapely.ops import unary_union

from tasks.collect.countries import area_km2, country_shapes, natural_earth_shapes
from tasks.collect.interior_box import Box, centroid_shrink_box, interior_boxes

GRID_CELLS = 600
# Large and small, long, bent, with a hole, with fiords, over the antimeridian, around the pole.
GRID_COUNTRIES = [
    "Antarctica",
    "Canada",
    "Chile",
    "Croatia",
    "Gambia",
    "Haiti",
    "Israel",
    "Norway",
    "Russia",
    "Somalia",
    "South Africa",
    "Vietnam",
]


def fresh(polygon: Polygon) -> Polygon:
    """The same polygon, not prepared."""
    return shapely.from_wkb(polygon.wkb)


def cells_inside(polygon: Polygon) -> np.ndarray:
    """Shapely's ``covers`` for each cell of the grid; blocks of 20 by 20 cells that lie inside or outside at once."""
    west, south, east, north = polygon.bounds
    x, y = np.linspace(west, east, GRID_CELLS + 1), np.linspace(south, north, GRID_CELLS + 1)
    shapely.prepare(polygon)
    inside = np.zeros((GRID_CELLS, GRID_CELLS), dtype=bool)
    for row in range(0, GRID_CELLS, 20):
        for column in range(0, GRID_CELLS, 20):
            block = box(x[column], y[row], x[column + 20], y[row + 20])
            part = inside[row : row + 20, column : column + 20]
            if polygon.covers(block):
                part[:] = True
            elif polygon.intersects(block):
                rows, columns = np.mgrid[row : row + 20, column : column + 20]
                cells = shapely.box(x[columns], y[rows], x[columns + 1], y[rows + 1])
                part[:] = shapely.covers(polygon, cells)
    return inside


def most_cells(inside: np.ndarray) -> int:
    """Cells of the largest rectangle, with a stack of rising columns."""
    best = 0
    heights = [0] * (inside.shape[1] + 1)
    for row in inside.tolist():
        stack: list[tuple[int, int]] = []
        for column, true in enumerate([*row, False]):
            heights[column] = heights[column] + 1 if true else 0
            start = column
            while stack and stack[-1][1] >= heights[column]:
                start, height = stack.pop()
                best = max(best, height * (column - start))
            stack.append((start, heights[column]))
    return best


def grid_area_deg2(polygon: Polygon) -> float:
    west, south, east, north = polygon.bounds
    return most_cells(cells_inside(polygon)) * (east - west) * (north - south) / GRID_CELLS**2


def check_guarantees(polygon: Polygon) -> None:
    boxes = interior_boxes(polygon, min_area_km2=0)
    area_deg2 = boxes[0].area_deg2 if boxes else 0.0
    assert len(boxes) <= 1
    assert all(fresh(polygon).covers(each.polygon) for each in boxes)
    assert area_deg2 >= 0.98 * grid_area_deg2(fresh(polygon))
    theirs = centroid_shrink_box(polygon)
    assert theirs is None or area_deg2 >= theirs.area_deg2


@pytest.fixture(scope="module")
def boxes() -> dict[str, list[Box]]:
    return {shape.name: interior_boxes(shape.geometry, min_area_km2=0) for shape in natural_earth_shapes()}


def shape_named(name: str) -> MultiPolygon:
    return next(shape.geometry for shape in natural_earth_shapes() if shape.name == name)


def largest_polygon(name: str) -> Polygon:
    return max(shape_named(name).geoms, key=area_km2)


# ---- the two guarantees ----


@st.composite
def star(draw: st.DrawFn) -> Polygon:
    n = draw(st.integers(5, 25))
    radii = np.array(draw(st.lists(st.floats(0.05, 1), min_size=n, max_size=n)))
    shares = np.array(draw(st.lists(st.floats(0, 0.9), min_size=n, max_size=n)))
    angles = 2 * np.pi * (np.arange(n) + shares) / n
    return Polygon(np.column_stack([radii * np.cos(angles), radii * np.sin(angles)]))


@st.composite
def letter(draw: st.DrawFn) -> Polygon:
    """A bar, an L or a C, thick or thin."""
    thick = draw(st.floats(0.01, 0.6))
    found = draw(st.sampled_from([box(0, 0, 1, thick), box(0, 0, 1, thick).union(box(0, 0, thick, 1))]))
    if draw(st.booleans()):
        found = found.union(box(0, 1 - thick / 2, draw(st.floats(0.7, 1)), 1).union(box(0, 0, thick, 1)))
    return found


@st.composite
def placed(draw: st.DrawFn) -> Polygon:
    """Any of them, turned, stretched, moved, with or without holes."""
    found = draw(st.one_of(star(), letter()))
    for _ in range(draw(st.integers(0, 2))):
        hole = scale(draw(star()), *draw(st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4))))
        found = found.difference(translate(hole, draw(st.floats(-0.5, 0.5)), draw(st.floats(-0.5, 0.5))))
    found = rotate(found, draw(st.sampled_from([0, 0, 30, 45, 90]) | st.floats(0, 360)), origin=(0, 0))
    found = scale(found, draw(st.floats(0.01, 20)), draw(st.floats(0.01, 20)), origin=(0, 0))
    found = translate(found, draw(st.floats(-150, 150)), draw(st.floats(-50, 50)))
    return max(getattr(found, "geoms", [found]), key=lambda part: part.area)


@settings(max_examples=50)
@given(placed().filter(lambda polygon: polygon.is_valid and polygon.area > 0))
def test_guarantees_hold_for_any_polygon(polygon: Polygon) -> None:
    check_guarantees(polygon)


@pytest.mark.parametrize("ratio", [3, 10, 30, 100, 300, 1000])
@pytest.mark.parametrize("angle_deg", [0, 1, 20, 45, 90])
def test_long_thin_rectangles_have_a_box(ratio: int, angle_deg: int) -> None:
    polygon = rotate(box(0, 0, 20, 20 / ratio), angle_deg)
    found = interior_boxes(polygon, min_area_km2=0)
    assert len(found) == 1
    check_guarantees(polygon)
    if angle_deg == 45:
        # A box of width w and height h fits where (w + h) / √2 is the thickness: the best is a square.
        assert found[0].area_deg2 == pytest.approx((20 / ratio) ** 2 / 2, rel=1e-3)


def test_every_country_covers_its_boxes_and_none_is_smaller_than_the_case_studys(boxes: dict[str, list[Box]]) -> None:
    for shape in natural_earth_shapes():
        polygons = [fresh(polygon) for polygon in shape.geometry.geoms]
        found = boxes[shape.name]
        assert len(found) == len(polygons), shape.name
        for polygon in polygons:
            mine = [each for each in found if polygon.covers(each.polygon)]
            assert len(mine) == 1, shape.name
            theirs = centroid_shrink_box(polygon)
            assert theirs is None or mine[0].area_deg2 >= theirs.area_deg2


@pytest.mark.parametrize("name", GRID_COUNTRIES)
def test_boxes_of_countries_are_no_smaller_than_the_grids(name: str, boxes: dict[str, list[Box]]) -> None:
    polygon = fresh(largest_polygon(name))
    mine = next(each for each in boxes[name] if polygon.covers(each.polygon))
    assert mine.area_deg2 >= 0.98 * grid_area_deg2(polygon)


# ---- shapes whose best box is known ----


@pytest.mark.parametrize(
    ("polygon", "expected"),
    [
        (box(1, 2, 3, 4), Box(1, 2, 3, 4)),
        (box(-5.1, 0.7, 6.3, 0.9), Box(-5.1, 0.7, 6.3, 0.9)),
        (Polygon([(0, 0), (6, 0), (6, 1), (2, 1), (2, 4), (0, 4)]), Box(0, 0, 2, 4)),  # L
        (Polygon([(0, 0), (7, 0), (7, 1), (1, 1), (1, 5), (7, 5), (7, 6.5), (0, 6.5)]), Box(0, 5, 7, 6.5)),  # C
        (Polygon([(0, 1), (1, 0), (2, 1), (1, 2)]), Box(0.5, 0.5, 1.5, 1.5)),
        (Polygon([(0, 0), (4, 0), (4, 4)]), Box(2, 0, 4, 2)),
        (box(0, 0, 10, 10).difference(box(3, 4, 5, 6)), Box(5, 0, 10, 10)),
    ],
)
def test_known_boxes(polygon: Polygon, expected: Box) -> None:
    (found,) = interior_boxes(polygon, min_area_km2=0)
    assert found == pytest.approx(expected, abs=1e-4)
    assert found.area_deg2 == pytest.approx(expected.area_deg2, rel=1e-6)


def test_box_passes_a_small_hole() -> None:
    # The larger part lies west of the hole, whose westernmost point is 4.7.
    polygon = box(0, 0, 10, 10).difference(Point(5.2, 5.1).buffer(0.5))
    (found,) = interior_boxes(polygon, min_area_km2=0)
    assert found == pytest.approx(Box(0, 0, 4.7, 10), abs=1e-4)


def test_invalid_polygons_are_mended() -> None:
    bow_tie = Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    assert [each.area_deg2 for each in interior_boxes(bow_tie, min_area_km2=0)] == pytest.approx([2, 2], rel=1e-5)
    overlapping = MultiPolygon([box(0, 0, 4, 2), box(3, 0, 9, 2)])
    assert interior_boxes(overlapping, min_area_km2=0) == [Box(0, 0, 9, 2)]
    assert interior_boxes(Polygon([(0, 0), (4, 4), (2, 2)]), min_area_km2=0) == []


def test_what_has_no_area_or_no_degrees_is_an_error() -> None:
    for geometry in (Point(0, 0), LineString([(0, 0), (1, 1)]), GeometryCollection([box(0, 0, 1, 1)])):
        with pytest.raises(ValueError, match=geometry.geom_type):
            interior_boxes(geometry, min_area_km2=0)
    for geometry in (box(4e5, 5e6, 5e5, 6e6), box(0, 80, 10, 100), Polygon([(0, 0), (1, math.inf), (1, 0)])):
        with pytest.raises(ValueError, match="degrees"):
            interior_boxes(geometry, min_area_km2=0)
    with pytest.raises(ValueError, match="min_area_km2"):
        interior_boxes(box(0, 0, 1, 1), min_area_km2=math.nan)
    assert interior_boxes(Polygon(), min_area_km2=0) == interior_boxes(MultiPolygon(), min_area_km2=0) == []


def test_small_boxes_are_left_out_and_the_largest_comes_first() -> None:
    # Of the same size in degrees, the further north the smaller.
    polygons = MultiPolygon([box(0, 60, 1, 61), box(0, 0, 1, 1), box(0, 30, 1, 31)])
    every = interior_boxes(polygons, min_area_km2=0)
    assert [each.south for each in every] == [0, 30, 60]
    assert interior_boxes(polygons, min_area_km2=8000) == every[:2]
    assert interior_boxes(polygons, min_area_km2=every[1].area_km2) == every[:2]
    assert interior_boxes(polygons, min_area_km2=20_000) == []
    assert interior_boxes(MultiPolygon(list(polygons.geoms)[::-1]), min_area_km2=0) == every


def test_areas_of_boxes() -> None:
    assert Box(-180, -90, 180, 90).area_km2 == pytest.approx(510.066e6, rel=1e-5)
    assert Box(10, 0, 11, 1).area_km2 == pytest.approx(12_364, rel=1e-4)
    assert Box(10, 60, 11, 61).area_km2 == pytest.approx(12_364 * math.cos(math.radians(60.5)), rel=1e-3)
    assert Box(1, 2, 4, 4).area_deg2 == 6
    assert Box(1, 2, 4, 4).polygon.equals(box(1, 2, 4, 4))


# ---- the antimeridian ----

HALVES = [Box(-180, -10, -170, 10), Box(170, -10, 180, 10)]


@pytest.mark.parametrize(
    "polygon",
    [
        box(170, -10, 190, 10),
        box(-190, -10, -170, 10),
        Polygon([(170, -10), (-170, -10), (-170, 10), (170, 10)]),
        Polygon([(170, -10), (180, -10), (-180, -10), (-170, -10), (-170, 10), (-180, 10), (180, 10), (170, 10)]),
        MultiPolygon([box(170, -10, 180, 10), box(-180, -10, -170, 10)]),
    ],
)
def test_boxes_end_at_the_antimeridian(polygon: Polygon | MultiPolygon) -> None:
    assert interior_boxes(polygon, min_area_km2=0) == HALVES


def test_a_hole_over_the_antimeridian() -> None:
    hole = [(179, -10), (-179, -10), (-179, 10), (179, 10)]
    polygon = Polygon([(170, -10), (-170, -10), (-170, 10), (170, 10)], [hole])
    assert interior_boxes(polygon, min_area_km2=0) == [Box(-179, -10, -170, 10), Box(170, -10, 179, 10)]


def test_rings_around_a_pole_and_bands_around_the_map() -> None:
    ring = Polygon([(longitude, -70) for longitude in range(-180, 180, 20)])
    assert interior_boxes(ring, min_area_km2=0) == [Box(-180, -90, 180, -70)]
    for polygon in (box(-180, -60, 180, 60), box(-180, 60, 180, 90), box(-180, -90, 180, 90)):
        assert interior_boxes(polygon, min_area_km2=0) == [Box(*polygon.bounds)]


@pytest.mark.parametrize("name", ["Fiji", "Russia"])
def test_countries_over_the_antimeridian(name: str, boxes: dict[str, list[Box]]) -> None:
    geometry = shape_named(name)
    assert any(each.east <= 0 for each in boxes[name])
    assert any(each.west >= 0 for each in boxes[name])
    unrolled = unary_union([part if part.bounds[2] > 0 else translate(part, xoff=360) for part in geometry.geoms])
    assert unrolled.bounds[2] > 180
    jumping = shapely.transform(
        unrolled, lambda points: np.column_stack([(points[:, 0] + 180) % 360 - 180, points[:, 1]])
    )
    for other in (unrolled, jumping):
        found = interior_boxes(other, min_area_km2=0)
        assert all(fresh(geometry).buffer(1e-9).covers(each.polygon) for each in found)
        assert [each.area_km2 for each in found] == pytest.approx([each.area_km2 for each in boxes[name]], rel=1e-3)


# ---- the case study's way ----


def test_the_case_studys_box_keeps_the_bounding_boxs_proportions() -> None:
    found = centroid_shrink_box(Polygon([(0, 1), (2, 0), (4, 1), (2, 2)]))
    assert found == pytest.approx(Box(1, 0.5, 3, 1.5), abs=1e-9)
    assert centroid_shrink_box(box(1, 2, 5, 4)) == Box(1, 2, 5, 4)
    triangle = Polygon([(0, 0), (3, 0), (0, 3)])
    found = centroid_shrink_box(triangle)
    assert found == pytest.approx(Box(0.5, 0.5, 1.5, 1.5), abs=1e-9)
    assert triangle.covers(found.polygon)


def test_the_case_studys_way_finds_nothing_where_the_centroid_lies_outside() -> None:
    assert centroid_shrink_box(Polygon([(0, 0), (6, 0), (6, 1), (1, 1), (1, 6), (0, 6)])) is None
    assert centroid_shrink_box(box(0, 0, 4, 4).difference(box(1, 1, 3, 3))) is None
    assert centroid_shrink_box(Polygon()) is None
    none = {shape.name for shape in natural_earth_shapes() if centroid_shrink_box(largest_polygon(shape.name)) is None}
    assert none == {"Croatia", "Haiti", "Israel", "Norway", "Vietnam"}


# ---- the 1:110m map ----


def test_the_map_has_177_countries_and_two_detached_territories() -> None:
    shapes = natural_earth_shapes()
    detached = {"French Guiana", "Svalbard and Jan Mayen Islands"}
    names = {shape.name for shape in shapes}
    assert len(names) == len(shapes) == 179
    assert detached < names
    assert all(shape.geometry.is_valid for shape in shapes)
    labels = [country.label for country in country_shapes("110m")]
    assert [country.label for country in country_shapes() if country.label in labels] == labels
    assert len(labels) == len(set(labels)) == sum(shape.label is not None for shape in shapes)
    assert {"N. Cyprus", "Somaliland", "Chad"} <= {shape.name for shape in shapes if shape.label is None}
    assert country_shapes("50m") == country_shapes()


@pytest.mark.parametrize(
    ("label", "km2"),
    [("Russia", 17.1e6), ("Brazil", 8.51e6), ("France", 550e3), ("French Guiana", 84e3), ("Croatia", 56.6e3)],
)
def test_country_areas_at_110m(label: str, km2: float) -> None:
    geometry = next(country.geometry for country in country_shapes("110m") if country.label == label)
    assert area_km2(geometry) == pytest.approx(km2, rel=0.05)
