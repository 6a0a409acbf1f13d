"""From the bytes of a picture to the pixels that an encoder sees: decoded, resized and cropped, as uint8.

The same steps as open_clip's own transform, with faster parts: libjpeg-turbo through simplejpeg, which decodes a JPEG at a
half, quarter or eighth of its size where that is still much larger than needed, and torch's resize of uint8 with antialiasing.
Both filters are Pillow's bicubic (or bilinear); values differ by a level or two of 255.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image

from storage.schemas import RejectReason
from tasks.encode.overlays import Rectangle, blank
from tasks.images import LARGEST_IMAGE_PIXELS, ImageError, decode_rgb, orientation

Pixels = npt.NDArray[np.uint8]

# A JPEG is decoded smaller only where its shorter side stays so many times larger than what is needed, so that the resize
# that follows still decides what is seen, and only where both sides can be divided: libjpeg would round them up, which moves
# the picture by a part of a pixel. docs/encode.md has the cosines that were measured with and without these two rules.
SCALED_MARGIN = 4.0
_SCALES = (8, 4, 2)

# Only so much of a picture's longer side is resized, in shorter sides; the rest lies outside the middle square, and would
# cost gigabytes where the picture is a line. Longer than any photograph: what is resized of those is what always was.
LONGEST = 32


class OpenClipTransform(Protocol):
    """What open_clip's ``PreprocessCfg`` says."""

    size: int | tuple[int, int]
    interpolation: str
    resize_mode: str


@dataclass(frozen=True)
class PixelTransform:
    """Resize so that the shorter side is `size_px`, then crop the middle.

    Parameters
    ----------
    size_px
        Height and width of what comes out.
    interpolation
        ``bicubic`` or ``bilinear``, with antialiasing.
    """

    size_px: int
    interpolation: str

    @classmethod
    def like(cls, transform: OpenClipTransform) -> PixelTransform | None:
        """That of an encoder; None where its transform is another (not square, padded or squashed)."""
        height, width = (transform.size,) * 2 if isinstance(transform.size, int) else transform.size
        known = transform.resize_mode == "shortest" and transform.interpolation in ("bicubic", "bilinear")
        return cls(height, transform.interpolation) if height == width and known else None

    def __call__(self, data: bytes, overlay: Sequence[Rectangle] = ()) -> Pixels:
        """The pixels of a picture, (size_px, size_px, 3) uint8, RGB.

        Parameters
        ----------
        data
            The file's bytes.
        overlay
            Parts that are blanked before anything else is done.

        Raises
        ------
        ImageError
            When it cannot be decoded, or not in the memory that there is.
        """
        try:
            return self._cropped(self._decoded(data, overlay))
        except (MemoryError, RuntimeError) as error:
            # Torch says the latter of memory, too. One picture must not end a run.
            said = str(error) or "there is not enough memory"
            raise ImageError(RejectReason.UNREADABLE, f"cannot be resized: {said.splitlines()[0]}") from None

    def _decoded(self, data: bytes, overlay: Sequence[Rectangle]) -> Pixels:
        found = None if overlay else _plain_jpeg(data, SCALED_MARGIN * self.size_px)
        if found is not None:
            return found
        image = decode_rgb(data)[0]
        return np.array(blank(image, overlay) if overlay else image)

    def _cropped(self, pixels: Pixels) -> Pixels:
        """Resized and cropped. A picture decoded smaller has the same proportions, so that the size does not change."""
        height, width = pixels.shape[:2]
        left, top, right, bottom = _middle_box(width, height)
        pixels = pixels[top:bottom, left:right]
        sides = pixels.shape[:2]
        short = min(sides)
        # As torchvision rounds them.
        size = tuple(self.size_px if side == short else int(self.size_px * side / short) for side in sides)
        if size != pixels.shape[:2]:
            planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).unsqueeze(0)
            resized = torch.nn.functional.interpolate(
                planes, size=size, mode=self.interpolation, align_corners=False, antialias=True
            )
            pixels = resized.squeeze(0).permute(1, 2, 0).numpy()
        top, left = (round((side - self.size_px) / 2) for side in size)
        return pixels[top : top + self.size_px, left : left + self.size_px]


def middle_window(image: Image.Image) -> Image.Image:
    """What has to be resized of a picture of which the middle square is seen: its middle, if it is a very long one.

    For transforms that resize the shorter side and crop. Pictures up to `LONGEST` times as long as wide come back as they
    are; of longer ones the middle, so that the memory that resizing takes has a limit.
    """
    box = _middle_box(*image.size)
    return image if box == (0, 0, *image.size) else image.crop(box)


def _middle_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of `middle_window`.

    The middle stays where it was, also by half a pixel.

    >>> _middle_box(640, 20), _middle_box(641, 20), _middle_box(3, 400_000)
    ((0, 0, 640, 20), (0, 0, 641, 20), (0, 199952, 3, 200048))
    """
    limit = LONGEST * min(width, height)
    left, top = (max(0, (side - limit) // 2) for side in (width, height))
    return left, top, width - left, height - top


def _plain_jpeg(data: bytes, min_side_px: float) -> Pixels | None:
    """Pixels of a JPEG, perhaps decoded smaller.

    None for what is no JPEG in RGB or grey that lies the right way up.
    """
    if data[:2] != b"\xff\xd8":
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as header:
            is_plain = header.mode in ("RGB", "L") and orientation(header) == 1
            width, height = header.size
        if not is_plain or width * height > LARGEST_IMAGE_PIXELS:
            return None
        scale = _scale(height, width, min_side_px)
        pixels: Pixels = simplejpeg.decode_jpeg(
            data,
            "RGB",
            fastdct=False,
            fastupsample=False,
            min_height=height // scale,
            min_width=width // scale,
            strict=True,
        )
    except Exception:  # noqa: BLE001  (decoders raise anything)
        return None  # the slower way says what is wrong with it
    return pixels


def _scale(height: int, width: int, min_side_px: float) -> int:
    """By how much a JPEG may be decoded smaller.

    >>> _scale(3000, 4000, 896.0), _scale(6000, 8000, 896.0), _scale(3001, 4000, 896.0)
    (2, 4, 1)
    """
    return next(
        (
            scale
            for scale in _SCALES
            if height % scale == 0 and width % scale == 0 and min(height, width) >= scale * min_side_px
        ),
        1,
    )
