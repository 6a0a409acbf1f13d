"""Edits that leave an image a near-duplicate of itself, as sites and people make them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

EditName = Literal["recompress", "resize", "crop", "brightness", "border", "watermark"]
EDITS: tuple[EditName, ...] = get_args(EditName)

_JPEG_QUALITY = 92  # of every edit but recompress
_TEXT = "© placeprint"


def edited(image: Image.Image, edit: EditName, generator: np.random.Generator) -> tuple[bytes, str]:
    """An edited copy, as the bytes of a JPEG file, and what was done.

    ==========  =====================================================================
    recompress  JPEG quality 30 to 80
    resize      to 50 to 90 % of width and height
    crop        2 to 8 % of width and of height cut off, shared out to both sides at random
    brightness  5 to 15 % darker or lighter
    border      a black or white frame of 2 to 6 % of the shorter side
    watermark   a half-transparent text in a corner or the middle, a tenth of the height
    ==========  =====================================================================

    Amounts are drawn uniformly.

    Parameters
    ----------
    image
        RGB, of 2 x 2 pixels or more.
    edit
        One of `EDITS`.
    generator
        Of amounts, sides and colours.

    Examples
    --------
    >>> data, what = edited(Image.new("RGB", (40, 30)), "resize", np.random.default_rng(0))
    >>> what, Image.open(io.BytesIO(data)).size
    ('resize to 0.75', (30, 23))
    """
    if edit == "recompress":
        quality = int(generator.integers(30, 81))
        return _jpeg(image, quality), f"recompress at {quality}"
    result, what = _MAKE[edit](image, generator)
    return _jpeg(result, _JPEG_QUALITY), f"{edit} {what}"


def _resize(image: Image.Image, generator: np.random.Generator) -> tuple[Image.Image, str]:
    share = generator.uniform(0.5, 0.9)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.resize(size, Image.Resampling.BICUBIC), f"to {share:.2f}"


def _crop(image: Image.Image, generator: np.random.Generator) -> tuple[Image.Image, str]:
    cut = generator.uniform(0.02, 0.08, 2)
    left_share, top_share = generator.random(2)
    width, height = (max(1, round(side * (1 - share))) for side, share in zip(image.size, cut, strict=True))
    left, top = round((image.width - width) * left_share), round((image.height - height) * top_share)
    cropped = image.crop((left, top, left + width, top + height))
    return cropped, f"by {100 * cut[0]:.0f} % and {100 * cut[1]:.0f} %"


def _brightness(image: Image.Image, generator: np.random.Generator) -> tuple[Image.Image, str]:
    factor = 1 + generator.uniform(0.05, 0.15) * generator.choice([-1, 1])
    return ImageEnhance.Brightness(image).enhance(factor), f"by {factor:.2f}"


def _border(image: Image.Image, generator: np.random.Generator) -> tuple[Image.Image, str]:
    width_px = max(1, round(min(image.size) * generator.uniform(0.02, 0.06)))
    colour = str(generator.choice(["black", "white"]))
    return ImageOps.expand(image, width_px, colour), f"of {width_px} px, {colour}"


def _watermark(image: Image.Image, generator: np.random.Generator) -> tuple[Image.Image, str]:
    # The font that comes with Pillow is the same everywhere.
    font = ImageFont.load_default(size=max(6, round(image.height / 10)))
    where = ("top left", "middle", "bottom right")[int(generator.integers(3))]
    anchors = {"top left": ("la", 0.03), "middle": ("mm", 0.5), "bottom right": ("rd", 0.97)}
    anchor, share = anchors[where]
    layer = Image.new("RGBA", image.size, (255, 255, 255, 0))
    place = (image.width * share, image.height * share)
    ImageDraw.Draw(layer).text(place, _TEXT, fill=(255, 255, 255, 128), font=font, anchor=anchor)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB"), f"in the {where}"


_MAKE: dict[EditName, Callable[[Image.Image, np.random.Generator], tuple[Image.Image, str]]] = {
    "resize": _resize,
    "crop": _crop,
    "brightness": _brightness,
    "border": _border,
    "watermark": _watermark,
}


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
