"""Write ``docs/interior-boxes.md`` and its picture: the boxes inside every country, beside the case study's.

``python scripts/write_interior_boxes_page.py`` computes every number on the page.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import matplotlib as mpl
import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patches import Polygon as PolygonPatch
from shapely.geometry import MultiPolygon, Polygon

from tasks.collect.countries import NaturalEarthShape, area_km2, natural_earth_shapes
from tasks.collect.interior_box import Box, centroid_shrink_box, interior_boxes

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "interior-boxes.md"
PICTURE = DOCS / "images/interior-boxes.png"

MIN_AREA_KM2 = 100.0
# Natural Earth draws them as parts of France and of Norway.
DETACHED = ("French Guiana", "Svalbard and Jan Mayen Islands")
# In rows.
DRAWN = (("Croatia", "Norway", "Vietnam", "Israel"), ("Haiti", "Chile", "Indonesia", "Germany"))
SNIPPET_COUNTRY = "Croatia"

# Okabe and Ito's colours, which the colour-blind tell apart; the edges differ too.
OURS, CASE_STUDY, LAND, BORDER = "#0072B2", "#D55E00", "#E8E6DF", "#6B6B6B"
STYLE = {"font.family": "DejaVu Sans", "font.size": 10, "hatch.linewidth": 0.8}


@dataclass(frozen=True)
class Comparison:
    """What is found in one country: all boxes, and both ways for its largest polygon."""

    shape: NaturalEarthShape
    boxes: list[Box]
    largest: Polygon
    ours: Box | None
    case_study: Box | None

    @property
    def ratio(self) -> float | None:
        """Ours ÷ the case study's, by square degrees; None where the case study's way finds nothing."""
        return self.ours.area_deg2 / self.case_study.area_deg2 if self.ours and self.case_study else None

    @property
    def share(self) -> float:
        """Share of the country's km² that lies in its boxes."""
        return sum(each.area_km2 for each in self.boxes) / area_km2(self.shape.geometry)


def comparison(shape: NaturalEarthShape) -> Comparison:
    boxes = interior_boxes(shape.geometry, min_area_km2=MIN_AREA_KM2)
    largest = max(shape.geometry.geoms, key=area_km2)
    ours = max((each for each in boxes if largest.covers(each.polygon)), key=lambda each: each.area_deg2, default=None)
    return Comparison(shape, boxes, largest, ours, centroid_shrink_box(largest))


def page(found: list[Comparison]) -> str:
    """The page as Markdown."""
    n_detached = sum(each.shape.name in DETACHED for each in found)
    ratios = [each.ratio for each in found if each.ratio is not None]
    none = [each.shape.name for each in found if each.case_study is None]
    shares = [1 / ratio for ratio in ratios]
    snippet = next(each for each in found if each.shape.name == SNIPPET_COUNTRY)
    summary = [
        ("countries of Natural Earth 1:110m", f"{len(found) - n_detached}"),
        (f"territories that are labels of their own ({', '.join(DETACHED)})", f"{n_detached}"),
        ("boxes", f"{sum(len(each.boxes) for each in found)}"),
        ("the case study's box ÷ ours, median", f"{median(shares):.2f}"),
        ("the same, where a box that is not found counts 0", f"{median(shares + [0.0] * len(none)):.2f}"),
        ("the case study's box ÷ ours, smallest and largest", f"{min(shares):.2f} and {max(shares):.2f}"),
        (f"the case study's way finds nothing ({', '.join(none)})", f"{len(none)}"),
        ("share of a country that lies in its boxes, median", f"{median(each.share for each in found):.0%}"),
    ]
    rows = [
        (each.shape.name, "none" if each.ratio is None else f"{each.ratio:.2f}", f"{each.share:.0%}", len(each.boxes))
        for each in found
    ]
    return TEXT.format(
        min_area_km2=f"{MIN_AREA_KM2:.0f}",
        country=SNIPPET_COUNTRY,
        first_km2=round(snippet.boxes[0].area_km2, -1),
        summary=table(("what", "value"), summary),
        countries=table(("country", "ours ÷ the case study's", "share in boxes", "boxes"), rows),
    )


def table(names: tuple[str, ...], rows: list[tuple[str | int, ...]]) -> str:
    lines = [names, ("---",) * len(names), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def draw(found: list[Comparison]) -> None:
    """The picture: a panel a country, one kilometre as long to the east as to the north."""
    by_name = {each.shape.name: each for each in found}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 7.2), layout="constrained")
        FigureCanvasAgg(figure)
        for part, names in zip(figure.subfigures(len(DRAWN), 1, hspace=0.04), DRAWN, strict=True):
            # Wide countries get wide panels; the title of a narrow one needs its room.
            widths = [min(max(width_per_height(by_name[name].shape.geometry), 0.9), 2.0) for name in names]
            for axes, name in zip(part.subplots(1, len(names), width_ratios=widths), names, strict=True):
                draw_country(axes, by_name[name])
        figure.legend(
            handles=[
                Patch(facecolor=OURS, alpha=0.45, edgecolor=OURS, label="largest box inside a polygon"),
                Patch(facecolor="none", edgecolor=CASE_STUDY, hatch="///", label="the case study's box"),
                Line2D(
                    [], [], color=CASE_STUDY, marker="x", markersize=8, mew=2, ls="", label="centroid outside: no box"
                ),
            ],
            loc="outside lower center",
            ncols=3,
            frameon=False,
        )
        figure.savefig(PICTURE, dpi=110, metadata={"Software": None})


def east_km_per_north_km(geometry: MultiPolygon) -> float:
    """Length of a degree of longitude in the middle of the country, a degree of latitude being 1."""
    return float(np.cos(np.radians((geometry.bounds[1] + geometry.bounds[3]) / 2)))


def width_per_height(geometry: MultiPolygon) -> float:
    west, south, east, north = geometry.bounds
    return (east - west) * east_km_per_north_km(geometry) / (north - south)


def draw_country(axes: Axes, each: Comparison) -> None:
    for polygon in each.shape.geometry.geoms:
        for ring, colour in [(polygon.exterior, LAND), *((hole, "white") for hole in polygon.interiors)]:
            axes.add_patch(PolygonPatch(shapely.get_coordinates(ring), facecolor=colour, edgecolor=BORDER, lw=0.7))
    for found in each.boxes:
        add_box(axes, found, facecolor=OURS, alpha=0.45)
        add_box(axes, found, facecolor="none", edgecolor=OURS, lw=1.4)
    if each.case_study is None:
        axes.plot(each.largest.centroid.x, each.largest.centroid.y, "x", color=CASE_STUDY, markersize=9, mew=2.4)
    else:
        add_box(axes, each.case_study, facecolor="none", edgecolor=CASE_STUDY, hatch="///", lw=1.4)
    axes.margins(0.02)
    axes.autoscale_view()
    axes.set_aspect(1 / east_km_per_north_km(each.shape.geometry), anchor="N")
    axes.axis("off")
    ratio = "case study: none" if each.ratio is None else f"{each.ratio:.1f} × the case study's"
    axes.set_title(f"{each.shape.name}\n{ratio}", fontsize=10)


def add_box(axes: Axes, found: Box, **style: object) -> None:
    size = (found.east - found.west, found.north - found.south)
    axes.add_patch(Rectangle((found.west, found.south), *size, **style))


def main() -> None:
    started = time.perf_counter()
    shapes = sorted(natural_earth_shapes(), key=lambda shape: shape.name)
    found = [comparison(shape) for shape in shapes]
    print(f"{len(found)} countries in {time.perf_counter() - started:.1f} s")
    draw(found)
    PAGE.write_text(page(found), encoding="utf-8")


TEXT = """# Boxes inside countries

A service of aerial images takes a bounding box, and a country's bounding box holds much of its neighbours. An *interior box* is a
rectangle of longitudes and latitudes that lies wholly inside a polygon of the country: whatever lies in it lies in the country.
The larger the box, the more of the country is searched. There is one box for each polygon: an island has its own, and a country
that the antimeridian cuts has boxes on either side of it.

```python
from tasks.collect.countries import country_shapes
from tasks.collect.interior_box import interior_boxes

shape = next(each for each in country_shapes("110m") if each.label == "{country}")
boxes = interior_boxes(shape.geometry, min_area_km2={min_area_km2})
print("the largest:", round(boxes[0].area_km2, -1), "km²")  # the largest: {first_km2} km²
```

![Polygons of eight countries with both boxes](images/interior-boxes.png)

## How a box is found

The case study takes the polygon's centroid and shrinks the bounding box around it until the polygon covers it. Where the centroid
lies outside the polygon, there is no box; elsewhere it keeps the bounding box's proportions and its place, which are seldom the
best. Here the place and the proportions are searched for:

1. A grid of 600 by 600 cells is laid over the polygon's bounding box. Cells that no edge touches and whose centre is inside lie
   wholly inside; the largest rectangle of them is found exactly (histogram method).
2. This rectangle, others nearly as large elsewhere, and the case study's box are enlarged: their south and north sides are moved,
   west and east follow to where they meet an edge, then the other way round, as long as the area grows.
3. The largest is kept, made smaller by its last digits where floating point makes it stick out.

Two things are guaranteed:

- the polygon covers the box, exactly as shapely's `covers` sees it;
- the box has at least 98 % of the area, in square degrees, of the largest rectangle of the 600 by 600 cells, and is never smaller
  than the case study's.

Tests hold both against shapely and a search over all cells, on random polygons and on some countries; that each polygon covers its
box, and that none is smaller than the case study's, on every country. A box is not proven to be the largest of all.

## What it gives

Natural Earth 1:110m, boxes of {min_area_km2} km² and more. The two ways are compared on each country's largest polygon, by square
degrees. Shares are km² of all boxes ÷ km² of the country.

{summary}

{countries}

This page and its picture are written by `python scripts/write_interior_boxes_page.py`; do not edit them by hand.
"""


if __name__ == "__main__":
    main()
