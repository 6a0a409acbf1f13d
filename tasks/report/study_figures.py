"""The study's figures: scores, losses and maps of embeddings.

Source: ``spec/case_study.md`` §8. Colours are those of Okabe & Ito (2008) and cividis, which the colour-blind can tell
apart; from the ninth series on a second mark (hatching, dashes, another marker) goes with the colour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from tasks.report.figure_style import FINE_DPI, LONGEST_TITLE, STYLE, png_bytes, printable, svg_text, text_inches

Scores = Mapping[str, Mapping[str, npt.ArrayLike]]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#F0E442", "#000000")
_HATCHES = ("", "////", "....")
_DASHES: tuple[Any, ...] = ("-", "--", ":")
_MARKERS = ("o", "^", "s")
_MEAN: Any = {"marker": "D", "markersize": 4, "markerfacecolor": "white", "markeredgecolor": "black"}
_MOST_GROUPS = len(_COLOURS) * len(_MARKERS)
_REST, _OTHER = "#d9d9d9", "#8a8a8a"

_DPI = 130
_MOST_VECTOR_POINTS = 2000


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
        figure = Figure(figsize=(9, 6.5), dpi=FINE_DPI, layout="constrained")
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
        axes.set_title(printable(title, LONGEST_TITLE), loc="left", fontsize=10)
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
    slanted = text_inches(names, 9) > 0.9 * (width - 0.8) / len(names)
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
    columns = int(figure.get_figwidth() / (text_inches(labels, 9) + 0.6))
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(columns, len(labels))), frameon=False)


def _point_size(n: int, n_groups: int) -> float:
    """Diameter in points; markers of different shapes must be large enough to tell."""
    return float(np.clip(120 / np.sqrt(n), 2.5 if n_groups > len(_COLOURS) else 1.5, 5))
