"""The study's figures: scores, losses, confusion matrices and maps of embeddings.

Source: ``spec/case_study.md`` §8. Colours are those of Okabe & Ito (2008) and cividis, which the colour-blind can tell
apart; from the ninth series on a second mark (hatching, dashes, another marker) goes with the colour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from tasks.metrics.confusion import ConfusionView, row_shares
from tasks.report.figures import STYLE, png_bytes, printable, svg_text

Scores = Mapping[str, Mapping[str, npt.ArrayLike]]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442", "#000000")
_HATCHES = ("", "////", "....")
_DASHES: tuple[Any, ...] = ("-", "--", ":")
_MARKERS = ("o", "^", "s")
_MEAN: Any = {"marker": "D", "markersize": 4, "markerfacecolor": "white", "markeredgecolor": "black"}
_MOST_GROUPS = len(_COLOURS) * len(_MARKERS)
_REST, _OTHER = "#d9d9d9", "#8a8a8a"

_DPI = 130
_FINE_DPI = 160  # the names of 211 classes can be read in the PNG too
_LONGEST_TITLE = 110
_MOST_VECTOR_POINTS = 2000

_WITH_CELL_TEXT = 40  # classes
_LARGEST_CELL, _LARGEST_MATRIX, _SMALLEST_MATRIX = 0.32, 12.4, 2.6  # inches
_GROUP_FONT, _TITLE_FONT = 8.0, 11.0  # points
_MEASURED = 20  # texts
_SHOWN_SHARE = 0.05  # of a row, below which a cell says nothing
_BELOW_ONE = 0.5  # where the log colours begin, so that a count of 1 differs from none


def figure_files(figure: Figure) -> dict[str, bytes]:
    """The figure as files: ``svg`` and ``png``. The same figure gives the same bytes."""
    with mpl.rc_context({**STYLE, "text.hinting": "none"}):  # hinted, letters of 4 points are slow and ugly
        return {"svg": svg_text(figure).encode(), "png": png_bytes(figure, dpi=round(figure.dpi))}


def metric_boxes(scores: Scores, metric: str) -> Figure:
    """Box plots of a metric, with its mean as a diamond.

    Parameters
    ----------
    scores
        Place on the x axis (a collection) -> colour (a prompt template) -> values, (n,) floating. Values that are not
        finite are left out.
    metric
        Name of the y axis.

    Raises
    ------
    ValueError
        When there is no series.
    """
    with mpl.rc_context(STYLE):
        figure, axes, hues = _grouped_axes(scores, metric)
        width = 0.8 / len(hues)
        for hue_at, hue in enumerate(hues):
            for x, inner in enumerate(scores.values()):
                values = _finite(inner.get(hue, ()))
                if not len(values):
                    continue
                drawn = axes.boxplot(
                    values,
                    positions=[x + _offset(hue_at, len(hues))],
                    widths=0.8 * width,
                    manage_ticks=False,
                    patch_artist=True,
                    showmeans=True,
                    medianprops={"color": "black"},
                    meanprops=_MEAN,
                    flierprops={"marker": ".", "markersize": 3, "markeredgecolor": "#555555"},
                )
                drawn["boxes"][0].set(facecolor=_pale(_colour(hue_at)), hatch=_hatch(hue_at))
        mean = Line2D([], [], linestyle="none", **_MEAN)
        _legend_below(figure, [*_patches(len(hues)), mean], [*hues, "mean"])
        return figure


def metric_bars(scores: Scores, metric: str) -> Figure:
    """Bars of a metric's means, with standard deviations (n - 1) as whiskers; one value has none.

    Parameters
    ----------
    scores
        Place on the x axis -> colour -> values, (n,) floating. Values that are not finite are left out.
    metric
        Name of the y axis.

    Raises
    ------
    ValueError
        When there is no series.
    """
    with mpl.rc_context(STYLE):
        figure, axes, hues = _grouped_axes(scores, metric)
        for hue_at, hue in enumerate(hues):
            for x, inner in enumerate(scores.values()):
                values = _finite(inner.get(hue, ()))
                if not len(values):
                    continue
                axes.bar(
                    x + _offset(hue_at, len(hues)),
                    values.mean(),
                    width=0.72 / len(hues),
                    yerr=values.std(ddof=1) if len(values) > 1 else None,
                    capsize=2,
                    facecolor=_pale(_colour(hue_at)),
                    edgecolor="black",
                    linewidth=0.6,
                    hatch=_hatch(hue_at),
                    error_kw={"elinewidth": 0.8},
                )
        _legend_below(figure, _patches(len(hues)), hues)
        return figure


def loss_curves(curves: Mapping[str, npt.ArrayLike], n_segments: int) -> Figure:
    """Losses over epochs: the mean over seeds as a line, the lowest to the highest as a band.

    Parameters
    ----------
    curves
        Name -> losses, (n_seeds, n_epochs * n_segments) floating; NaN where there is none.
    n_segments
        Points of an epoch.

    Raises
    ------
    ValueError
        When there is no curve, one is not a matrix, or `n_segments` is not positive.
    """
    if not curves or n_segments < 1:
        raise ValueError(f"nothing to draw: {len(curves)} curves, {n_segments} points an epoch")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4), dpi=_DPI, layout="constrained")
        axes = figure.add_subplot()
        for position, (name, given) in enumerate(curves.items()):
            losses = np.asarray(given, dtype=np.float64)
            if losses.ndim != 2:
                raise ValueError(f"the losses of {name!r} must be (n_seeds, n_points), got {losses.shape}")
            known = np.ma.masked_invalid(losses)
            epochs = np.arange(1, losses.shape[1] + 1) / n_segments
            low, mean, high = (
                each.filled(np.nan) for each in (known.min(axis=0), known.mean(axis=0), known.max(axis=0))
            )
            axes.fill_between(epochs, low, high, color=_colour(position), alpha=0.2, linewidth=0)
            axes.plot(
                epochs, mean, color=_colour(position), linestyle=_dash(position), marker="." if len(mean) == 1 else ""
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        lines = [Line2D([], [], color=_colour(at), linestyle=_dash(at)) for at in range(len(curves))]
        _legend_below(figure, lines, list(curves))
        return figure


def confusion_figure(view: ConfusionView, *, normalised: bool, title: str) -> Figure:
    """Confusion matrix with truth down and prediction across; every name is printed.

    Parameters
    ----------
    view
        The matrix, its names, and the groups between which lines are drawn.
    normalised
        Whether to show shares of each row instead of counts, whose colours are on a log scale.
    title
        Printed above.

    Raises
    ------
    ValueError
        When the view has no names.
    """
    n = len(view.names)
    if not n:
        raise ValueError("nothing to draw: the view has no names")
    shares = row_shares(view.matrix)
    with mpl.rc_context(STYLE):
        names = [printable(name) for name in view.names]
        rows = names
        if n <= _WITH_CELL_TEXT:
            rows = [f"{name} ({total})" for name, total in zip(names, view.matrix.sum(axis=1), strict=True)]
        place = _matrix_place(rows, names, _group_names(view), printable(title, _LONGEST_TITLE))
        figure = Figure(figsize=(place.width, place.height), dpi=_DPI if n <= _WITH_CELL_TEXT else _FINE_DPI)
        axes = figure.add_axes(place.rectangle(place.left, place.bottom, place.side, place.side))
        cell = 72 * place.side / n
        shades = _draw_matrix(axes, shares if normalised else view.matrix, normalised)
        _write_names(axes, rows, names, place.font, cell)
        _write_labels(figure, place, printable(title, _LONGEST_TITLE), with_sums=n <= _WITH_CELL_TEXT)
        if n <= _WITH_CELL_TEXT:
            _write_cells(axes, view.matrix, shares, shades.norm, normalised, cell)
        if view.groups is not None:
            _draw_groups(axes, view.groups, cell)
        _draw_bar(figure, place, shades, normalised)
        return figure


def embedding_map(points: npt.ArrayLike, groups: Sequence[str | None], *, title: str, legend_title: str) -> Figure:
    """Points on a plane, coloured by group. The axes say nothing: those of t-SNE have no units.

    Parameters
    ----------
    points
        (n, 2) floating.
    groups
        Group of each point, or None for what is not highlighted, drawn in grey behind. Groups beyond the 24 most
        frequent are drawn in a darker grey as 'other'.
    title, legend_title
        Printed above the map and the legend.

    Raises
    ------
    ValueError
        When there are no points, they are not (n, 2), or the groups are not one a point.
    """
    places = np.asarray(points, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places) or len(places) != len(groups):
        raise ValueError(f"points must be (n, 2) with one group each, got {places.shape} and {len(groups)} groups")
    sizes = Counter(group for group in groups if group is not None)
    by_size = sorted(sizes, key=lambda group: (-sizes[group], group))
    shown = by_size[:_MOST_GROUPS]
    members: dict[str | None, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 6.5), dpi=_FINE_DPI, layout="constrained")
        axes = figure.add_subplot()
        size = _point_size(len(places), len(shown))
        handles, labels = [], []

        def draw(rows: list[int], label: str, colour: str, marker: str) -> None:
            look: Any = {"color": colour, "marker": marker, "linestyle": "none", "markeredgewidth": 0}
            axes.plot(*places[rows].T, **look, markersize=size, rasterized=len(places) > _MOST_VECTOR_POINTS)
            handles.append(Line2D([], [], **look, markersize=6))
            labels.append(f"{printable(label)} ({len(rows)})")

        # The rarest last, on top. Looks follow the names, so that a group has one colour in two maps.
        if None in members:
            draw(members[None], "the rest", _REST, "o")
        if beyond := [row for group in by_size[_MOST_GROUPS:] for row in members[group]]:
            draw(beyond, "other", _OTHER, "o")
        n_grey = len(handles)
        look_of = {group: position for position, group in enumerate(sorted(shown))}
        for group in shown:
            draw(members[group], group, _colour(look_of[group]), _marker(look_of[group]))
        order = [*(n_grey + shown.index(group) for group in look_of), *reversed(range(n_grey))]
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xticks=[], yticks=[])
        axes.set_title(printable(title, _LONGEST_TITLE), loc="left", fontsize=10)
        figure.legend(
            [handles[at] for at in order],
            [labels[at] for at in order],
            title=printable(legend_title),
            loc="outside right upper",
            frameon=False,
            fontsize=8,
            alignment="left",
        )
        return figure


# Series


def _colour(position: int) -> str:
    return _COLOURS[position % len(_COLOURS)]


def _hatch(position: int) -> str:
    return _HATCHES[position // len(_COLOURS) % len(_HATCHES)]


def _dash(position: int) -> Any:
    return _DASHES[position // len(_COLOURS) % len(_DASHES)]


def _marker(position: int) -> str:
    return _MARKERS[position // len(_COLOURS) % len(_MARKERS)]


def _pale(colour: str) -> tuple[float, float, float]:
    """The colour on white at 70 %: black lines and hatching on it can be seen."""
    red, green, blue = (1 - 0.7 * (1 - part) for part in mpl.colors.to_rgb(colour))
    return red, green, blue


def _patches(n: int) -> list[Patch]:
    return [Patch(facecolor=_pale(_colour(at)), edgecolor="black", linewidth=0.6, hatch=_hatch(at)) for at in range(n)]


def _finite(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def _offset(position: int, n: int) -> float:
    """Where the series lies beside the middle of its place on the x axis."""
    return (position - (n - 1) / 2) * 0.8 / n


def _grouped_axes(scores: Scores, metric: str) -> tuple[Figure, Axes, list[str]]:
    """Axes with the outer names along x, and the inner names in the order in which they come up."""
    hues = list(dict.fromkeys(hue for inner in scores.values() for hue in inner))
    if not hues:
        raise ValueError("nothing to draw: there are no scores")
    width = float(np.clip(1.5 + 0.35 * len(scores) * len(hues), 5, 14))
    figure = Figure(figsize=(width, 4), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    names = [printable(name) for name in scores]
    slanted = _inches(names, 9) > 0.9 * (width - 0.8) / len(names)
    axes.set_xticks(range(len(names)), names)
    if slanted:
        axes.tick_params(axis="x", labelrotation=30)
        for text in axes.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylabel(printable(metric))
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes, hues


def _legend_below(figure: Figure, handles: Sequence[Line2D | Patch], names: Sequence[str]) -> None:
    labels = [printable(name) for name in names]
    columns = int(figure.get_figwidth() / (_inches(labels, 9) + 0.6))
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(columns, len(labels))), frameon=False)


def _point_size(n: int, n_groups: int) -> float:
    """Diameter in points; markers of different shapes must be large enough to tell."""
    return float(np.clip(120 / np.sqrt(n), 2.5 if n_groups > len(_COLOURS) else 1.5, 5))


# Confusion matrices


@dataclass(frozen=True)
class _MatrixPlace:
    """Where a matrix lies in its figure, in inches, and the size of its names in points.

    Fixed, since a constrained layout measures every name several times over.
    """

    left: float
    bottom: float
    side: float
    bar: float
    width: float
    height: float
    font: float

    def rectangle(self, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
        """Inches as shares of the figure."""
        return left / self.width, bottom / self.height, width / self.width, height / self.height


def _matrix_place(rows: Sequence[str], columns: Sequence[str], groups: Sequence[str], title: str) -> _MatrixPlace:
    side = max(_SMALLEST_MATRIX, min(_LARGEST_MATRIX, _LARGEST_CELL * len(rows)))
    font = min(8.0, 0.85 * 72 * side / len(rows))
    left, bottom = _inches(rows, font) + 0.4, _inches(columns, font) + 0.4
    bar = left + side + _inches(groups, _GROUP_FONT) + 0.3
    width = max(bar + 1.05, 0.2 + _inches([title], _TITLE_FONT))  # the bar with its numbers and its name
    return _MatrixPlace(left, bottom, side, bar, width, bottom + side + 0.45, font)


def _inches(texts: Sequence[str], size: float) -> float:
    """Width of the widest text, looked for among those of the most letters."""
    longest = sorted(texts, key=len)[-_MEASURED:]
    font = FontProperties(family=STYLE["font.family"], size=size)
    widths = [text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] for text in longest]
    return max(widths, default=0.0) / 72


def _draw_matrix(axes: Axes, values: npt.NDArray[Any], normalised: bool) -> ScalarMappable:
    """A pixel a cell, uninterpolated: in an SVG the matrix is then one small picture.

    Its colours are looked up here, and not by `imshow`, which would do so for every pixel of the PNG.
    """
    norm = Normalize(0, 1) if normalised else LogNorm(_BELOW_ONE, max(1.0, float(values.max())))
    shades = ScalarMappable(norm, cmap="cividis")
    shown = values if normalised else np.maximum(values, _BELOW_ONE)
    axes.imshow(shades.to_rgba(shown, bytes=True), interpolation="none")
    return shades


def _write_names(axes: Axes, rows: Sequence[str], columns: Sequence[str], font: float, cell: float) -> None:
    """Plain texts: as labels of 422 ticks they take several times as long. `cell` is the side of one, in points."""
    axes.set(xticks=[], yticks=[])
    edge, gap = len(rows) - 0.5, 2 / cell
    for at, name in enumerate(rows):
        axes.text(-0.5 - gap, at, name, ha="right", va="center", fontsize=font)
    for at, name in enumerate(columns):
        axes.text(at, edge + gap, name, ha="center", va="top", rotation=90, fontsize=font)


def _write_labels(figure: Figure, place: _MatrixPlace, title: str, with_sums: bool) -> None:
    """What stands beside the names and above the matrix."""
    left, bottom, side = (place.left / place.width, place.bottom / place.height, place.side)
    figure.text(left + side / place.width / 2, 0.1 / place.height, "predicted", ha="center", va="bottom")
    truth = "truth (sum of the row)" if with_sums else "truth"
    figure.text(0.1 / place.width, bottom + side / place.height / 2, truth, rotation=90, ha="left", va="center")
    figure.text(0.1 / place.width, 1 - 0.1 / place.height, title, fontsize=_TITLE_FONT, ha="left", va="top")


def _write_cells(
    axes: Axes,
    counts: npt.NDArray[np.int64],
    shares: npt.NDArray[np.float64],
    norm: Any,
    normalised: bool,
    cell: float,
) -> None:
    """Percent or count in the cells that hold a good share of their row. `cell` is the side of one, in points."""
    for row, column in np.argwhere(shares >= _SHOWN_SHARE):
        value = shares[row, column] if normalised else counts[row, column]
        text = f"{100 * value:.0f}" if normalised else str(value)
        shade = "black" if float(norm(value)) > 0.5 else "white"
        size = min(7.0, 1.3 * cell / len(text))
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=shade)


def _draw_groups(axes: Axes, groups: Sequence[str], cell: float) -> None:
    """White lines between groups, and the name of each at the right edge. `cell` is the side of one, in points."""
    n = len(groups)
    starts = [at for at in range(n) if at == 0 or groups[at - 1] != groups[at]]
    edges = [at - 0.5 for at in starts[1:]]
    axes.hlines(edges, -0.5, n - 0.5, color="white", linewidth=0.5)
    axes.vlines(edges, -0.5, n - 0.5, color="white", linewidth=0.5)
    for start, end in zip(starts, [*starts[1:], n], strict=True):
        size = min(_GROUP_FONT, 0.85 * cell * (end - start))
        name = printable(groups[start])
        axes.text(n - 0.5 + 4 / cell, (start + end - 1) / 2, name, ha="left", va="center", fontsize=size)


def _draw_bar(figure: Figure, place: _MatrixPlace, shades: ScalarMappable, normalised: bool) -> None:
    height = min(place.side, 4.0)
    axes = figure.add_axes(place.rectangle(place.bar, place.bottom + place.side - height, 0.15, height))
    if normalised:
        figure.colorbar(shades, cax=axes, label="share of the row")
        return
    bar = figure.colorbar(shades, cax=axes, label="count (log scale; darkest: 0)")
    highest: Any = shades.norm.vmax
    powers = [10**power for power in range(19) if 10**power <= highest]
    bar.set_ticks(powers, labels=[f"{power:,}" for power in powers])  # plain numbers: formulas are slow
    bar.minorticks_off()


def _group_names(view: ConfusionView) -> list[str]:
    return [printable(group) for group in dict.fromkeys(view.groups or ())]
