"""One way to open a stranger's picture: the right way up, in RGB, and never larger than allowed."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from storage.s3_path import StorePath
from storage.schemas import RejectReason
from tasks.greys import with_8_bits

# What Pillow may try. Formats that call other programs (EPS) or hold documents (PDF) are left out.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "TIFF": ".tif", "BMP": ".bmp"}
MAX_IMAGE_PIXELS = 100_000_000


class ImageError(Exception):
    """A picture that cannot be used, with its `reason`."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def decode(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[Image.Image, str]:
    """Decode a picture wholly, in the mode that it has.

    EXIF rotation is applied, and of an animation the first frame is taken.

    Parameters
    ----------
    data
        The file's bytes.
    max_pixels
        Larger pictures are refused before they are decoded.

    Returns
    -------
    image, suffix
        Image and the usual file suffix of its format, such as ``.jpg``.

    Raises
    ------
    ImageError
        With a `RejectReason` when the bytes are empty, no picture, cut off, or too large.
    """
    if not data:
        raise ImageError(RejectReason.EMPTY, "the file has no bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of size and of odd EXIF; both are dealt with here
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise ImageError(RejectReason.NOT_AN_IMAGE, f"not one of {', '.join(FORMATS)}") from None
        except Image.DecompressionBombError as error:
            raise ImageError(RejectReason.TOO_MANY_PIXELS, str(error)) from None
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise ImageError(RejectReason.UNREADABLE, f"header: {error}") from None
        width, height = image.size
        if width * height > max_pixels:
            raise ImageError(RejectReason.TOO_MANY_PIXELS, f"{width} x {height} pixels, allowed are {max_pixels}")
        suffix = SUFFIXES[image.format or "JPEG"]
        try:
            image.load()
            return ImageOps.exif_transpose(image), suffix
        except (OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError) as error:
            truncated = "truncated" in str(error) or "EOF" in str(error) or isinstance(error, EOFError)
            reason = RejectReason.TRUNCATED if truncated else RejectReason.UNREADABLE
            raise ImageError(reason, str(error)) from None


def decode_rgb(data: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> tuple[Image.Image, str]:
    """Decode a picture as `decode` does, into RGB.

    Transparency is laid on white, 16-bit greys are scaled to 8, CMYK and palettes become RGB.
    """
    image, suffix = decode(data, max_pixels)
    try:
        return _to_rgb(image), suffix
    except (OSError, ValueError) as error:
        raise ImageError(RejectReason.UNREADABLE, str(error)) from None


def read_picture(path: StorePath) -> bytes:
    """The bytes of a picture of the store.

    Raises
    ------
    ImageError
        When it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(RejectReason.UNREADABLE, f"{path.name}: {error.strerror or error}") from None


def open_rgb(path: StorePath) -> Image.Image:
    """An image of the store, as `decode_rgb` gives it."""
    return decode_rgb(path.read_bytes())[0]


def _to_rgb(image: Image.Image) -> Image.Image:
    image = with_8_bits(image)
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
