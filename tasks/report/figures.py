"""The report's figures, as SVG or PNG text that can stand in a page. Colours can be told apart by the colour-blind."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.collections import PatchCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Polygon as PolygonPatch
from shapely.geometry import MultiPolygon, Polygon

from tasks.collect.countries import country_shapes
from tasks.report.figure_style import STYLE, png_bytes, printable, svg_text

_SIMPLIFY_DEG = 0.1


def images_per_label(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Images of each label on a log axis, most first, stacked by nothing: one step line a collection. SVG.

    Parameters
    ----------
    counts
        Source -> label -> images.
    """
    totals: dict[str, int] = {}
    for labels in counts.values():
        for label, n in labels.items():
            totals[label] = totals.get(label, 0) + n
    order = sorted(totals, key=lambda label: (-totals[label], label))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.bar(
            range(len(order)),
            [totals[label] for label in order],
            width=1.0,
            color="#3b6ea5",
            edgecolor="white",
            linewidth=0.3,
        )
        axes.set_yscale("log")
        axes.set_ylim(0.8)
        axes.set_xlim(-0.6, len(order) - 0.4)
        axes.set_ylabel("images (log)")
        # All names where they fit, else one in a few.
        step = max(1, int(np.ceil(len(order) / 60)))
        shown = range(0, len(order), step)
        axes.set_xticks(list(shown), [printable(order[position]) for position in shown], rotation=90, fontsize=7)
        axes.set_xlabel(
            f"{len(order)} labels, most images first" + (f"; one name in {step} is printed" if step > 1 else "")
        )
        axes.spines[["top", "right"]].set_visible(False)
        return svg_text(figure)


def world_map(counts: Mapping[str, int], latitude: Sequence[float], longitude: Sequence[float]) -> bytes:
    """Images a country on a world map, log colours, with the places as dots. A PNG file.

    Parameters
    ----------
    counts
        Label -> images. Labels that no polygon has are not drawn.
    latitude, longitude
        Places in degrees, drawn as dots.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        axes = figure.add_subplot()
        filled, empty, values = [], [], []
        for country in country_shapes():
            for part in _simplified(country.geometry):
                patch = PolygonPatch(np.asarray(part.exterior.coords), closed=True)
                if counts.get(country.label):
                    filled.append(patch)
                    values.append(counts[country.label])
                else:
                    empty.append(patch)
        axes.add_collection(PatchCollection(empty, facecolor="#ececec", edgecolor="#bbbbbb", linewidth=0.3))
        if filled:
            shades = PatchCollection(filled, cmap="cividis_r", edgecolor="#777777", linewidth=0.3)
            shades.set_array(np.array(values, dtype=np.float64))
            shades.set_norm(LogNorm(1, max(2, max(values))))
            axes.add_collection(shades)
            figure.colorbar(shades, ax=axes, label="images", shrink=0.7, pad=0.01)
        axes.plot(longitude, latitude, ".", color="#d1495b", markersize=1.4, alpha=0.6, linestyle="none")
        axes.set(xlim=(-180, 180), ylim=(-80, 85), aspect="equal")
        axes.set_axis_off()
        return png_bytes(figure)


def _simplified(geometry: MultiPolygon) -> list[Polygon]:
    """Parts with fewer corners, none lost."""
    return [part.simplify(_SIMPLIFY_DEG) for part in geometry.geoms]


def confusion_matrix(matrix: npt.NDArray[np.float64], names: Sequence[str]) -> str:
    """Confusion matrix, each row (truth) shown as shares of its sum. SVG.

    Parameters
    ----------
    matrix
        Counts, (n, n): truth down, prediction across.
    names
        Name of each row and column.
    """
    sums = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, sums, out=np.zeros_like(matrix), where=sums > 0)
    side = 2.8 + 0.32 * len(names)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(side + 0.8, side), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), [f"{name} ({int(n)})" for name, n in zip(names, sums[:, 0], strict=True)])
        axes.set_xlabel("predicted")
        axes.set_ylabel("truth (images)")
        for row, column in np.argwhere(shares >= 0.05):
            shade = "black" if shares[row, column] > 0.6 else "white"
            axes.text(
                column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=6, color=shade
            )
        figure.colorbar(image, ax=axes, label="share of the row", shrink=0.5)
        return svg_text(figure)


def threshold_curve(
    cosine: npt.NDArray[np.float32],
    is_duplicate: npt.NDArray[np.bool_],
    probability: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    thresholds: Mapping[str, tuple[float, float, float]],
) -> str:
    """Labelled pairs by their cosine, the fitted P(duplicate), and the thresholds with their intervals. SVG.

    Parameters
    ----------
    cosine, is_duplicate
        (n,) of the labelled pairs. Cosines below the lowest hundredth of each class are not drawn.
    probability
        P(duplicate) of cosines.
    thresholds
        Name -> value, and the low and high end of its interval; one above 1 is named, but not drawn.
    """
    classes = {"not duplicates": ~is_duplicate, "duplicates": is_duplicate}
    low = min(float(np.quantile(cosine[chosen], 0.01)) for chosen in classes.values() if chosen.any())
    low = min([low, *(value for value, _, _ in thresholds.values() if -1 <= value <= 1)])
    low, high = max(-1.0, low - 0.02 * (1 - low)), 1.0 + 0.02 * (1 - low)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for (name, chosen), colour in zip(classes.items(), ("#8a8a8a", "#3b6ea5"), strict=True):
            axes.hist(
                cosine[chosen], bins=50, range=(low, 1.0), color=colour, alpha=0.6, label=f"{name} ({chosen.sum()})"
            )
        axes.set_xlabel("cosine")
        axes.set_ylabel("labelled pairs")
        axes.set_xlim(low, high)
        right = axes.twinx()
        grid = np.linspace(low, 1.0, 400)
        right.plot(grid, probability(grid), color="#1c2733", linewidth=1.6, label="fitted P(duplicate)")
        right.set_ylim(0, 1.02)
        right.set_ylabel("P(duplicate)")
        for (name, (value, lower, upper)), colour in zip(thresholds.items(), ("#d1495b", "#a06a00"), strict=True):
            if value <= 1.0:
                right.axvline(value, color=colour, linewidth=1.4, label=f"{name} from {value:.4f}")
                right.axvspan(max(lower, low), min(upper, high), color=colour, alpha=0.15, linewidth=0)
            else:
                right.plot([], [], color=colour, linewidth=1.4, label=f"{name} from {value:.4f}: no pair reaches it")
        handles = [each for axis in (axes, right) for each in axis.get_legend_handles_labels()[0]]
        names = [each for axis in (axes, right) for each in axis.get_legend_handles_labels()[1]]
        axes.legend(handles, names, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
        axes.spines["top"].set_visible(False)
        right.spines["top"].set_visible(False)
        return svg_text(figure)


def calibration(bins: Sequence[tuple[float, float, int]]) -> str:
    """The share of duplicates among pairs of about the same fitted probability, against that probability. SVG.

    Parameters
    ----------
    bins
        Mean probability, share of duplicates, and number of pairs, of each.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="#8a8a8a", linewidth=1, linestyle="--")
        probability, share, n = np.array(bins, dtype=np.float64).T
        error = 1.96 * np.sqrt(share * (1 - share) / n)
        bars = [np.minimum(error, share), np.minimum(error, 1 - share)]
        axes.errorbar(probability, share, yerr=bars, fmt="o", color="#3b6ea5", markersize=5, linewidth=1)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes.set_xlabel("fitted P(duplicate), held out")
        axes.set_ylabel("share of duplicates")
        axes.spines[["top", "right"]].set_visible(False)
        return svg_text(figure)


def share_per_class(sizes: Sequence[int], shares: Sequence[float], wanted: float) -> str:
    """The share of each class that lies in the test part, against the size of the class. SVG.

    Parameters
    ----------
    sizes
        Images of each class.
    shares
        Of them in the test part.
    wanted
        That share for all of them.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(wanted, color="#d1495b", linewidth=1, label=f"wanted: {100 * wanted:.4g} %")
        grid = np.geomspace(max(1, min(sizes)), max(sizes), 200)
        axes.fill_between(
            grid,
            np.clip(wanted - 1 / grid, 0, 1),
            np.clip(wanted + 1 / grid, 0, 1),
            color="#8a8a8a",
            alpha=0.2,
            linewidth=0,
            label="within one image",
        )
        axes.plot(sizes, shares, "o", color="#3b6ea5", markersize=3, alpha=0.6, linestyle="none", label="a class")
        axes.set_xscale("log")
        axes.set_ylim(-0.03, min(1.03, max([*shares, wanted]) + 0.1))
        axes.set_xlabel("images of the class (log)")
        axes.set_ylabel("share in the test part")
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        return svg_text(figure)


def split_map(parts: Sequence[str], latitude: Sequence[float], longitude: Sequence[float]) -> str:
    """Places on a world map, coloured by their part. A PNG as a data address.

    Parameters
    ----------
    parts
        Part of each place.
    latitude, longitude
        In degrees.
    """
    colours = {
        "train": "#3b6ea5",
        "validation": "#a06a00",
        "test": "#d1495b",
        "buffer": "#8a8a8a",
        "zero_shot": "#5f4b8b",
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        axes = figure.add_subplot()
        land = [
            PolygonPatch(np.asarray(part.exterior.coords), closed=True)
            for country in country_shapes()
            for part in _simplified(country.geometry)
        ]
        axes.add_collection(PatchCollection(land, facecolor="#ececec", edgecolor="#bbbbbb", linewidth=0.3))
        part, north, east = np.array(parts), np.array(latitude), np.array(longitude)
        for name in sorted(set(parts)):
            chosen = part == name
            axes.plot(
                east[chosen],
                north[chosen],
                ".",
                color=colours.get(name, "#1c2733"),
                markersize=2.5,
                linestyle="none",
                label=f"{name} ({int(chosen.sum())} places)",
            )
        axes.set(xlim=(-180, 180), ylim=(-80, 85), aspect="equal")
        axes.set_axis_off()
        axes.legend(loc="lower left", frameon=False, markerscale=3)
        return "data:image/png;base64," + base64.b64encode(png_bytes(figure)).decode()
