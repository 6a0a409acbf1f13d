"""What all figures share: their style, names that can be printed, files of the same bytes for the same figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

_LONGEST_TICK = 40  # a longer name would leave no room for the bars
_MEASURED = 20  # texts
LONGEST_TITLE = 110
FINE_DPI = 160  # the names of 211 classes can be read in the PNG too
# Same data, same bytes: no clock and no random ids in the SVG.
STYLE: Any = {"svg.hashsalt": "placeprint", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}


def printable(label: str, longest: int = _LONGEST_TICK) -> str:
    """A label as a figure can print it: short, on one line, in letters that XML allows, and its $ no formula."""
    short = label if len(label) <= longest else label[: longest - 1] + "…"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in short).replace(
        "$", "\\$"
    )


def text_inches(texts: Sequence[str], size: float) -> float:
    """Width of the widest text at this size in points, looked for among those of the most letters; 0.0 of none."""
    longest = sorted(texts, key=len)[-_MEASURED:]
    font = FontProperties(family=STYLE["font.family"], size=size)
    widths = [text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] for text in longest]
    return max(widths, default=0.0) / 72


def svg_text(figure: Figure) -> str:
    """The figure as an SVG element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def png_bytes(figure: Figure, dpi: int = 130) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
