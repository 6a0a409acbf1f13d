"""Which pixels of an aerial image show the ground: without transparent, black, white or uniform borders.

A scene is rarely a rectangle in its own grid. What lies around it is transparent (the mask travels as an alpha channel) or,
in older files, filled with one colour. Such a fill has no marker, so it is told from dark water, shadow and snow by its form:
it runs along the border of the image without a change, and it is nearly all of exactly one colour.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from tasks.collect.largest_rectangle import largest_rectangle
from tasks.greys import with_8_bits

Mask = npt.NDArray[np.bool_]

# Alpha of 255; resampling leaves a blended edge below it.
OPAQUE = 250
# Levels of 255. At JPEG quality 75 all but about 1 % of the image around a fill stays within it.
TOLERANCE = 12
# A fill runs along so much of the border. Clipped roofs and shadows do not.
MIN_RUN_PX, MIN_RUN_SHARE = 8, 0.01
# So much of a fill has exactly one colour, JPEG or not. Of a dark photograph less has.
MIN_EXACT_SHARE = 1 / 3


def content_mask(image: Image.Image, *, tolerance: int = TOLERANCE) -> Mask:
    """Tell the pixels of an image that show something from those that fill it up to a rectangle.

    Not content are pixels whose alpha is below 250, and regions that touch the border of the image (4-connected) and are
    filled with black, with white, or with the one colour that makes up half of the border or more. A region is filled if

    - all its pixels are within `tolerance` of that colour in each channel,
    - at least a third of them have it exactly, and
    - it meets the border in an unbroken run of exactly that colour, of 1 % of the border or more (and of 8 pixels).

    So dark water inside the image stays content, and so do dark parts at the border that vary. What cannot be told apart:
    content within `tolerance` of a fill that it touches counts as fill, and a sliver of fill a few pixels thick that JPEG has
    smeared counts as content. A fill that touches only transparent pixels, not the border, counts as content.

    Parameters
    ----------
    image
        Any mode that Pillow converts to RGBA; 16-bit and float greys are scaled. Alpha of greys of over 8 bits is not read.
    tolerance
        Levels of 255 in each channel.

    Returns
    -------
    Boolean, (height, width), True for content.
    """
    pixels = _rgba(image)
    colours = pixels[..., :3].astype(np.int16)
    content: Mask = pixels[..., 3] >= OPAQUE
    packed = np.where(content, colours.astype(np.int32) @ [1 << 16, 1 << 8, 1], -1)
    for colour, border in _fills(packed, tolerance):
        exact = packed == colour
        near = content & (np.abs(colours - _unpacked(colour)).max(axis=-1) <= tolerance)
        regions, n_regions = ndimage.label(near)
        n_exact, n_all = (np.bincount(regions[which], minlength=n_regions + 1) for which in (exact & near, near))
        filled = np.zeros(n_regions + 1, dtype=np.bool_)
        filled[_ring(regions)[border]] = True
        filled &= n_exact >= MIN_EXACT_SHARE * n_all
        filled[0] = False  # not near, or known from a colour before
        content &= ~filled[regions]
    return content


def content_share(mask: Mask) -> float:
    """Share of True pixels in a mask, 0 to 1."""
    return float(mask.mean())


def content_rectangle(mask: Mask, *, erode_px: int = 1) -> tuple[int, int, int, int] | None:
    """The largest rectangle of nothing but content.

    Parameters
    ----------
    mask
        Boolean, (height, width), True for content.
    erode_px
        Pixels to keep away from what is not content, where the two are blended. Content may run to the image's own border.

    Returns
    -------
    x, y, width, height
        In pixels from the top left corner; None when nothing is left.
    """
    if erode_px > 0:
        square = np.ones((3, 3), dtype=np.bool_)
        mask = ndimage.binary_erosion(mask, square, iterations=erode_px, border_value=1)
    return largest_rectangle(mask) if mask.any() else None


def crop(image: Image.Image, rectangle: tuple[int, int, int, int]) -> Image.Image:
    """The part of an image inside `rectangle` (x, y, width, height in pixels), in RGB; alpha is dropped."""
    x, y, width, height = rectangle
    return Image.fromarray(np.ascontiguousarray(_rgba(image)[y : y + height, x : x + width, :3]))


def _rgba(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode == "La":  # Pillow converts it to LA alone
        image = image.convert("LA")
    return np.asarray(with_8_bits(image).convert("RGBA"))


def _fills(packed: npt.NDArray[np.int32], tolerance: int) -> Iterator[tuple[int, Mask]]:
    """Colours that may fill the surroundings, the commonest first, each with where its long runs lie in the ring."""
    ring = _ring(packed)
    starts = np.flatnonzero(np.r_[True, ring[1:] != ring[:-1]])
    lengths = np.diff(np.r_[starts, ring.size])
    long = np.repeat(lengths >= min(max(MIN_RUN_PX, MIN_RUN_SHARE * ring.size), ring.size), lengths)
    colours, counts = np.unique(ring[long & (ring >= 0)], return_counts=True)
    unpacked = _unpacked(ring)
    for colour in colours[np.argsort(-counts, kind="stable")]:
        channels = _unpacked(colour)
        is_extreme = channels.max() <= tolerance or channels.min() >= 255 - tolerance
        is_near = (ring >= 0) & (np.abs(unpacked - channels).max(axis=-1) <= tolerance)
        if is_extreme or is_near.mean() >= 0.5:
            yield int(colour), long & (ring == colour)


def _ring(values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The border pixels of (height, width), clockwise from the top left corner."""
    return np.concatenate([values[0], values[1:, -1], values[-1, -2::-1], values[-2:0:-1, 0]])


def _unpacked(colours: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """RGB of packed colours, (..., 3)."""
    return (np.asarray(colours, dtype=np.int32)[..., None] >> np.array([16, 8, 0], dtype=np.int32)) & 255
