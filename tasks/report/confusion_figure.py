"""The study's confusion matrices, of up to hundreds of classes (``spec/case_study.md`` §8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from tasks.metrics.confusion import ConfusionView, row_shares
from tasks.report.figure_style import FINE_DPI, LONGEST_TITLE, STYLE, printable, text_inches

_DPI = 130
_WITH_CELL_TEXT = 40  # classes
_LARGEST_CELL, _LARGEST_MATRIX, _SMALLEST_MATRIX = 0.32, 12.4, 2.6  # inches
_GROUP_FONT, _TITLE_FONT = 8.0, 11.0  # points
_SHOWN_SHARE = 0.05  # of a row, below which a cell says nothing
_BELOW_ONE = 0.5  # where the log colours begin, so that a count of 1 differs from none


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
        place = _matrix_place(rows, names, _group_names(view), printable(title, LONGEST_TITLE))
        figure = Figure(figsize=(place.width, place.height), dpi=_DPI if n <= _WITH_CELL_TEXT else FINE_DPI)
        axes = figure.add_axes(place.rectangle(place.left, place.bottom, place.side, place.side))
        cell = 72 * place.side / n
        shades = _draw_matrix(axes, shares if normalised else view.matrix, normalised)
        _write_names(axes, rows, names, place.font, cell)
        _write_labels(figure, place, printable(title, LONGEST_TITLE), with_sums=n <= _WITH_CELL_TEXT)
        if n <= _WITH_CELL_TEXT:
            _write_cells(axes, view.matrix, shares, shades.norm, normalised, cell)
        if view.groups is not None:
            _draw_groups(axes, view.groups, cell)
        _draw_bar(figure, place, shades, normalised)
        return figure


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
    left, bottom = text_inches(rows, font) + 0.4, text_inches(columns, font) + 0.4
    bar = left + side + text_inches(groups, _GROUP_FONT) + 0.3
    width = max(bar + 1.05, 0.2 + text_inches([title], _TITLE_FONT))  # the bar with its numbers and its name
    return _MatrixPlace(left, bottom, side, bar, width, bottom + side + 0.45, font)


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
