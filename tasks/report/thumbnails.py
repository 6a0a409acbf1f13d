"""Small pictures that stand in a page."""

from __future__ import annotations

import base64
import io

from PIL import Image

from storage.s3_path import StorePath
from tasks.images import open_rgb

_THUMBNAIL_PX = 160


def thumbnail(path: StorePath, longest_px: int = _THUMBNAIL_PX) -> str:
    """A small JPEG of an image as a data address."""
    image = open_rgb(path)
    image.thumbnail((longest_px, longest_px), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return data_address(buffer.getvalue(), "jpeg")


def data_address(content: bytes, kind: str) -> str:
    """A picture file (jpeg, png, svg+xml) as an address that holds all of it."""
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()
