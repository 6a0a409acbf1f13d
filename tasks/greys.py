"""Greys of more than 8 bits, as radar and scanners give them."""

from __future__ import annotations

import numpy as np
from PIL import Image


def with_8_bits(image: Image.Image) -> Image.Image:
    """The image itself; of greys with more bits, or floats, one with 8.

    16-bit greys fill 0 to 65535; Pillow's own conversion would clip all above 255 to white.
    """
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image, dtype=np.float64)
    values = values / 257.0 if values.max(initial=0) > 255 else values
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
