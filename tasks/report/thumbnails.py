"""Small pictures that stand in a page."""

from __future__ import annotations

import base64
import io

from PIL import Image

from storage.s3_path import StorePath
from tasks.images import open_rgb

_THUMBNAIL_PX = 160


def thumbnail(path: StorePath) -> str:
    """A small JPEG of an image as a data address."""
    image = open_rgb(path)
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
