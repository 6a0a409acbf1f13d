"""Convert Natural Earth admin-0 polygons (TopoJSON of npm's ``world-atlas``) to the GeoJSON that ships here.

Run once: ``npm pack world-atlas@2.0.2 && tar xzf world-atlas-2.0.2.tgz`` and then
``python scripts/convert_natural_earth.py package/countries-50m.json`` and
``python scripts/convert_natural_earth.py package/countries-110m.json --scale 110m``.

Territories that CLIP's label set names and Natural Earth draws as parts of their sovereign state (French Guiana as a part
of France, ...) become features of their own. At 1:50m there is one feature a label, and land outside the label set becomes
one last feature without a label; at 1:110m every country of Natural Earth is a feature, with its name there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shapely import make_valid, transform
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, box, mapping
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from tasks.labels.country211 import country_table

Ring = list[tuple[float, float]]

OUTPUT = Path(__file__).parent.parent / "tasks/collect/data"

# Missing from the source's ids, by its name.
M49_BY_NAME = {"Kosovo": "412"}

# label: (M49 of the state that Natural Earth draws it with, box that holds it: west, south, east, north)
DETACHED = {
    "French Guiana": ("250", box(-56, 1, -50, 7)),
    "Guadeloupe": ("250", box(-62.5, 15.7, -60.8, 16.7)),
    "Martinique": ("250", box(-61.5, 14.2, -60.6, 15.1)),
    "Reunion": ("250", box(55, -21.6, 56, -20.6)),
    "Svalbard and Jan Mayen Islands": ("578", unary_union([box(8, 73, 36, 82), box(-10, 70, -7, 72)])),
    "Bonaire, Saint Eustatius and Saba": ("528", box(-69, 11.8, -62.5, 18)),
}
# Parts of a state that are neither the state's label nor one of the label set (Mayotte).
DROPPED = {"250": box(44.5, -13.5, 45.6, -12.3)}


def decoded_arcs(topology: dict[str, Any]) -> list[Ring]:
    """Arcs as (longitude, latitude) points: the source stores quantised differences."""
    (scale_x, scale_y), (shift_x, shift_y) = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs = []
    for arc in topology["arcs"]:
        x = y = 0
        points = []
        for dx, dy in arc:
            x, y = x + dx, y + dy
            points.append((x * scale_x + shift_x, y * scale_y + shift_y))
        arcs.append(points)
    return arcs


def ring(indices: list[int], arcs: list[Ring]) -> Ring:
    """One closed ring; a negative index ``~i`` is arc ``i`` backwards."""
    points: Ring = []
    for index in indices:
        arc = arcs[index] if index >= 0 else arcs[~index][::-1]
        points.extend(arc if not points else arc[1:])
    return points


def flat_polygon(shell: Ring, holes: list[Ring]) -> BaseGeometry:
    """A polygon on the flat map from one on the sphere.

    The source has no cut at the antimeridian: a ring jumps from 180 to -180 degrees. It is unrolled beyond 180 and what
    lies outside is brought back as parts of its own. A ring around the south pole (Antarctica) is closed along the pole.
    """
    rings = []
    for points in (shell, *holes):
        unrolled = [points[0]]
        for x, y in points[1:]:
            turns = round((unrolled[-1][0] - x) / 360)
            unrolled.append((x + 360 * turns, y))
        if abs(unrolled[-1][0] - unrolled[0][0]) > 180:
            unrolled += [(unrolled[-1][0], -90.0), (unrolled[0][0], -90.0)]
        rings.append(unrolled)
    polygon = make_valid(Polygon(rings[0], rings[1:]))
    world = box(-180, -90, 180, 90)
    return unary_union([translate(polygon, xoff=offset).intersection(world) for offset in (-360, 0, 360)])


def polygons(geometry: BaseGeometry) -> Iterator[Polygon]:
    if isinstance(geometry, Polygon):
        yield geometry
    elif hasattr(geometry, "geoms"):
        for part in geometry.geoms:
            yield from polygons(part)


def rounded_polygons(geometry: BaseGeometry) -> MultiPolygon:
    """The polygons alone, at three decimals (110 m), mended where rounding made them cross themselves."""
    rounded = transform(MultiPolygon(list(polygons(geometry))), lambda points: points.round(3))
    return MultiPolygon(list(polygons(make_valid(rounded))))


def country_parts(topology: dict[str, Any]) -> Iterator[tuple[str, str | None, list[BaseGeometry]]]:
    """Name, M49 code and polygons of each country of the source, in its order."""
    arcs = decoded_arcs(topology)
    for item in topology["objects"]["countries"]["geometries"]:
        name = item["properties"]["name"]
        parts = []
        for rings in [item["arcs"]] if item["type"] == "Polygon" else item["arcs"]:
            shell, *holes = [ring(indices, arcs) for indices in rings]
            parts.append(flat_polygon(shell, holes))
        yield name, M49_BY_NAME.get(name, item.get("id")), parts


def without_detached(geometry: BaseGeometry, m49: str | None) -> BaseGeometry:
    """A state without the territories that are features of their own."""
    for state, other in DETACHED.values():
        if state == m49:
            geometry = geometry.difference(other)
    return geometry.difference(DROPPED[m49]) if m49 in DROPPED else geometry


def feature(properties: dict[str, str | None], geometry: BaseGeometry) -> dict[str, Any]:
    return {"type": "Feature", "properties": properties, "geometry": mapping(rounded_polygons(geometry))}


def label_features(topology: dict[str, Any]) -> list[dict[str, Any]]:
    """One feature a label, in the label set's order, and one of all other land."""
    shapes: dict[str | None, list[BaseGeometry]] = {}
    for _, m49, parts in country_parts(topology):
        shapes.setdefault(m49, []).extend(parts)
    found = []
    labelled = {country.m49 for country in country_table()}
    for country in country_table():
        owner, region = DETACHED.get(country.name, (country.m49, None))
        geometry = unary_union(shapes.get(owner, []))
        geometry = without_detached(geometry, country.m49) if region is None else geometry.intersection(region)
        if geometry.is_empty:
            print("no polygon:", country.name)
            continue
        found.append(feature({"label": country.name}, geometry))
    rest = unary_union([part for m49, parts in shapes.items() if m49 not in labelled for part in parts])
    found.append(feature({"label": None}, rest))
    return found


def named_features(topology: dict[str, Any]) -> list[dict[str, Any]]:
    """One feature a country of the source and one a detached territory, in the label set's order, the others last."""
    labels = {country.m49: country.name for country in country_table()}
    order = {country.name: index for index, country in enumerate(country_table())}
    found = []
    for name, m49, parts in country_parts(topology):
        geometry = unary_union(parts)
        found.append(feature({"name": name, "label": labels.get(m49)}, without_detached(geometry, m49)))
        for label, (state, region) in DETACHED.items():
            if state == m49 and geometry.intersects(region):
                found.append(feature({"name": label, "label": label}, geometry.intersection(region)))

    def place(item: dict[str, Any]) -> tuple[int, str]:
        return order.get(item["properties"]["label"], len(order)), item["properties"]["name"]

    return sorted(found, key=place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topojson", type=Path)
    parser.add_argument(
        "--scale", choices=["50m", "110m"], default="50m", help="scale of the TopoJSON, 1:50m or 1:110m"
    )
    arguments = parser.parse_args()
    topology = json.loads(arguments.topojson.read_text())
    collection = {
        "type": "FeatureCollection",
        "attribution": f"Made with Natural Earth (public domain), admin-0 countries 1:{arguments.scale}, version 4.1, via world-atlas 2.0.2 (ISC)",
        "features": label_features(topology) if arguments.scale == "50m" else named_features(topology),
    }
    output = OUTPUT / f"natural_earth_{arguments.scale}.geojson"
    output.write_text(json.dumps(collection, separators=(",", ":")) + "\n")
    print(len(collection["features"]), "features,", output.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
