"""Parts of a picture that are blanked before it is encoded, such as the controls in a screenshot.

An overlay is the same in all pictures of a collection, so its parts are rectangles in shares of width and height.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor
from typing import Annotated, Any, NamedTuple

from PIL import Image
from pydantic import AfterValidator, BeforeValidator, Field

Share = Annotated[float, Field(ge=0, le=1)]

# Mid-grey: near the mean that encoders subtract, so that a blanked part says next to nothing.
BLANK = (128, 128, 128)


class Rectangle(NamedTuple):
    """A part of a picture: shares of its width and height, 0 to 1, from the top left corner."""

    left: Share
    top: Share
    right: Share
    bottom: Share


# Named parts of known overlays. Those of `geoguessr` are estimates with room to spare, made from the description in the
# study that used these pictures (1536 x 662 pixels), not measured on the pictures: controls and navigation panel at the
# bottom left, world map at the bottom right, two arrows in the centre, panel with round and score at the top right.
PRESETS: dict[str, tuple[Rectangle, ...]] = {
    "geoguessr": (
        Rectangle(0.0, 0.55, 0.15, 1.0),
        Rectangle(0.72, 0.55, 1.0, 1.0),
        Rectangle(0.4, 0.45, 0.6, 0.85),
        Rectangle(0.75, 0.0, 1.0, 0.15),
    )
}


def blank(image: Image.Image, rectangles: Sequence[Rectangle], colour: tuple[int, int, int] = BLANK) -> Image.Image:
    """A copy of an RGB image with every pixel that a rectangle touches painted over."""
    blanked = image.copy()
    width, height = image.size
    for left, top, right, bottom in rectangles:
        box = (floor(left * width), floor(top * height), ceil(right * width), ceil(bottom * height))
        blanked.paste(colour, box)
    return blanked


def _of_preset(overlay: Any) -> Any:
    if not isinstance(overlay, str):
        return overlay
    if overlay not in PRESETS:
        raise ValueError(
            f"no overlay is called {overlay!r}; known are {', '.join(PRESETS)}, or give rectangles [left, top, right, bottom]"
        )
    return PRESETS[overlay]


def _ordered(rectangle: Rectangle) -> Rectangle:
    left, top, right, bottom = rectangle
    if left >= right or top >= bottom:
        raise ValueError(f"[left, top, right, bottom] must have left < right and top < bottom, not {list(rectangle)}")
    return rectangle


# In settings: the name of a preset, or a list of [left, top, right, bottom]. Validated, it is rectangles in either case.
Overlay = Annotated[
    tuple[Annotated[Rectangle, AfterValidator(_ordered)], ...], Field(min_length=1), BeforeValidator(_of_preset)
]
