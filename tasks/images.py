"""One way to open a stranger's picture: the right way up, in RGB, and never larger than allowed."""

from __future__ import annotations

import importlib.util
import io
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

from PIL import Image, ImageFile, UnidentifiedImageError

from storage.s3_path import StorePath
from storage.schemas import RejectReason
from tasks.greys import with_8_bits

# What Pillow may try. Formats that call other programs (EPS) or hold documents (PDF) are left out. HEIF needs an extra.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF")
SUFFIXES = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "TIFF": ".tif",
    "BMP": ".bmp",
    "AVIF": ".avif",
    "HEIF": ".heic",
}
# What collect allows unless it is told otherwise.
MAX_IMAGE_PIXELS = 100_000_000
# What any stage decodes, whatever it is told: 3 GB of RGB. Stages after collect have no other limit, so that they read all
# that collect has kept.
LARGEST_IMAGE_PIXELS = 1_000_000_000

# Pillow's own limit is a global one, which no setting reaches. `decode` looks at the size itself before it decodes.
Image.MAX_IMAGE_PIXELS = None

_CONVERT = "convert it to JPEG or PNG"
_NOT_READ = {
    "JPEG XL": f"JPEG XL is not read: {_CONVERT}",
    "JPEG 2000": f"JPEG 2000 is not read: {_CONVERT}",
    "HEIF": f"HEIC needs an extra: pip install 'placeprint[heic]' and collect again, or {_CONVERT}",
    "AVIF": f"this Pillow was built without AVIF: install another, or {_CONVERT}",
}
_HEIC_BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
)  # the last two are any picture in this container; AVIF names itself beside them

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(Exception):
    """A picture that cannot be used, with its `reason`."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def decode(data: bytes, max_pixels: int = LARGEST_IMAGE_PIXELS) -> tuple[Image.Image, str]:
    """Decode a picture wholly, in the mode that it has.

    EXIF rotation is applied, and of an animation the first frame is taken. Metadata that cannot be read costs the rotation at
    most, never the picture.

    Parameters
    ----------
    data
        The file's bytes.
    max_pixels
        Larger pictures are refused before they are decoded; `LARGEST_IMAGE_PIXELS` at most. What collect has kept is read
        without a limit of its own.

    Returns
    -------
    image, suffix
        Image and the usual file suffix of its format, such as ``.jpg``.

    Raises
    ------
    ImageError
        With a `RejectReason` when the bytes are empty, no picture, cut off, or too large, and for whatever a decoder raises.
    """
    if not data:
        raise ImageError(RejectReason.EMPTY, "the file has no bytes")
    kind = _kind(data)
    if kind is None:
        known = ", ".join(FORMATS).replace("HEIF", "HEIC")
        raise ImageError(RejectReason.NOT_AN_IMAGE, f"not one of {known}")
    if not _is_read(kind):
        raise ImageError(RejectReason.UNSUPPORTED_FORMAT, _NOT_READ[kind])
    max_pixels = min(max_pixels, LARGEST_IMAGE_PIXELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd EXIF, which is dealt with here
        try:
            image = _loaded(data, kind, max_pixels)
            return _upright(image), SUFFIXES[image.format or kind]
        except ImageError:
            raise
        except Exception as error:  # noqa: BLE001  (decoders raise anything, and one picture must not end a run)
            raise _refusal(error, data, kind) from None


def decode_rgb(data: bytes, max_pixels: int = LARGEST_IMAGE_PIXELS) -> tuple[Image.Image, str]:
    """Decode a picture as `decode` does, into RGB.

    Transparency is laid on white, 16-bit greys are scaled to 8, CMYK and palettes become RGB.
    """
    image, suffix = decode(data, max_pixels)
    try:
        return _to_rgb(image), suffix
    except Exception as error:  # noqa: BLE001  (as in `decode`)
        raise ImageError(RejectReason.UNREADABLE, _words(error)) from None


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


def orientation(image: Image.Image) -> int:
    """How a picture lies by its EXIF, 1 to 8 as EXIF counts; 1, which is upright, where that cannot be read."""
    if image.format == "HEIF":
        return 1  # libheif turns it, and what EXIF says beside that does not count
    is_avif = image.format == "AVIF"
    if is_avif:
        image.info.pop("xmp", None)  # Pillow puts what counts into EXIF, but would believe XMP where EXIF is silent
    value: Any = None
    with suppress(Exception):  # whatever odd tags make Pillow raise
        # This tag alone: other tags may be of any type and length.
        value = image.getexif().get(_ORIENTATION)
    with suppress(Exception):
        if value is None and not is_avif:  # a tag before it may have stopped Pillow
            entries = _tiff_entries(_bare_exif(image.info["exif"]))
            value = next(entry.values[0] for entry in entries if entry.tag == _ORIENTATION)
        if value in _TURNS:
            return int(value)
    return 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(orientation(image))
    if turn is None:
        return image
    # Not by ImageOps.exif_transpose, which writes all of EXIF anew and fails for one odd tag.
    turned = image.transpose(turn)
    # What is left of its metadata must not have it turned again.
    for name in ("xmp", "XML:com.adobe.xmp", "Raw profile type exif"):
        turned.info.pop(name, None)
    if "exif" in turned.info:
        turned.info["exif"] = _without_tags(_bare_exif(turned.info["exif"]), lambda tag: tag == _ORIENTATION)
    return turned


def _bare_exif(exif: bytes) -> bytes:
    return re.sub(b"^(Exif\0\0)+", b"", exif)


def _kind(data: bytes) -> str | None:
    """The format that the first bytes announce: one of `FORMATS`, or one that is known but not read."""
    if data.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return "JPEG XL"
    if data.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")):
        return "JPEG 2000"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:2] in (b"II", b"MM") and data[2:4] in (b"*\0", b"\0*", b"+\0", b"\0+"):
        return "TIFF"
    if data[4:8] == b"ftyp":
        brands = {data[8:12], *re.findall(rb"(?s).{4}", data[16 : min(int.from_bytes(data[:4], "big"), 512)])}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIF" if brands & _HEIC_BRANDS else None
    starts = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP"}
    return next((kind for start, kind in starts.items() if data.startswith(start)), None)


def _is_read(kind: str) -> bool:
    if kind == "HEIF":
        # Only where one comes: most folders hold none.
        return importlib.util.find_spec("pillow_heif") is not None
    if kind == "AVIF":
        from PIL import features

        return bool(features.check("avif"))
    return kind in FORMATS


def _loaded(data: bytes, kind: str, max_pixels: int) -> ImageFile.ImageFile:
    """Decoded, a second time without its metadata if need be; raises what the decoder raises, or an `ImageError`."""
    try:
        return _loaded_once(data, kind, max_pixels)
    except (ImageError, MemoryError):
        raise
    except Exception:
        # Pillow reads some tags while it opens a file, and refuses whole pixels for an odd one.
        bare = data if _is_cut(data, kind) else _without_metadata(data, kind)
        if bare == data:
            raise
        with suppress(Exception):
            return _loaded_once(bare, kind, max_pixels)
        raise


def _loaded_once(data: bytes, kind: str, max_pixels: int) -> ImageFile.ImageFile:
    if kind == "HEIF":
        _register_heif()
    image = Image.open(io.BytesIO(data), formats=(kind,))
    _check_size(image, max_pixels)
    image.load()
    _check_size(image, max_pixels)  # some containers promise another size than their picture has
    return image


@cache
def _register_heif() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(RejectReason.TOO_MANY_PIXELS, f"{width} x {height} pixels, allowed are {max_pixels}")
    if width * height == 0:
        raise ImageError(RejectReason.UNREADABLE, f"{width} x {height} pixels")


def _refusal(error: Exception, data: bytes, kind: str) -> ImageError:
    """Why a file cannot be decoded that raised this."""
    said = _words(error)
    if isinstance(error, UnidentifiedImageError):
        # Pillow's own words hold an address in memory, which is another in every run.
        said = f"its header cannot be read as {kind}: damaged, or of a sort that Pillow does not know"
    if isinstance(error, MemoryError):
        return ImageError(RejectReason.UNREADABLE, said)
    if isinstance(error, EOFError) or "truncated" in said or "EOF" in said or _is_cut(data, kind):
        return ImageError(RejectReason.TRUNCATED, said)
    return ImageError(RejectReason.UNREADABLE, said)


def _words(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    plain = isinstance(error, (OSError, ValueError, SyntaxError)) and str(error)
    return str(error) if plain else f"{type(error).__name__}: {error}"


def _to_rgb(image: Image.Image) -> Image.Image:
    image = with_8_bits(image)
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


# What follows reads the outlines of files that could not be decoded: whether they end early, and where metadata lie.


def _is_cut(data: bytes, kind: str) -> bool:
    """Whether a file that could not be decoded ends before it says that it does."""
    with suppress(Exception):
        return _OUTLINES[kind](data)
    return False


def _jpeg_is_cut(data: bytes) -> bool:
    scan = _scan_start(data)
    return scan >= len(data) or data.find(b"\xff\xd9", scan) < 0


def _png_is_cut(data: bytes) -> bool:
    name, end = b"", 8
    for name, _, end in _png_chunks(data):  # noqa: B007  (of the last one)
        pass
    return name != b"IEND" or end > len(data)


def _tiff_is_cut(data: bytes) -> bool:
    return any(end > len(data) for end in _tiff_ends(data))


def _container_is_cut(data: bytes) -> bool:
    names, end = set(), 0
    for name, end in _boxes(data):  # noqa: B007  (the end of the last one)
        names.add(name)
    return end > len(data) or not {b"meta", b"mdat"} <= names


_OUTLINES: dict[str, Callable[[bytes], bool]] = {
    "JPEG": _jpeg_is_cut,
    "PNG": _png_is_cut,
    "WEBP": lambda data: len(data) < 8 + int.from_bytes(data[4:8], "little"),
    "GIF": lambda data: not data.rstrip(b"\0").endswith(b";"),
    "TIFF": _tiff_is_cut,
    "BMP": lambda data: len(data) < max(26, int.from_bytes(data[2:6], "little")),
    "AVIF": _container_is_cut,
    "HEIF": _container_is_cut,
}


def _without_metadata(data: bytes, kind: str) -> bytes:
    """A file with the parts blanked, or left out, that its pixels do not need; itself where nothing is known of it."""
    if kind == "JPEG":
        # APP0 and APP14 say how colours are coded.
        kept = [data[at:end] for marker, at, end in _jpeg_segments(data) if not 0xE1 <= marker <= 0xED]
        return data[:2] + b"".join(kept) + data[_scan_start(data) :]
    if kind == "PNG":
        needed = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
        return data[:8] + b"".join(data[at:end] for name, at, end in _png_chunks(data) if name in needed)
    if kind == "TIFF":
        return _without_tags(data, lambda tag: tag not in _TIFF_PIXEL_TAGS)
    if kind in ("AVIF", "HEIF"):
        return re.sub(rb"(?s)(infe[\2\3].{3}.{4})Exif", rb"\1free", data)
    return data


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment before the first scan; the last may end after the file."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0xDA, 0xD9):
            return
        if marker == 0xFF:  # filling
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at, end
        at = end


def _scan_start(data: bytes) -> int:
    end = 2
    for _, _, end in _jpeg_segments(data):  # noqa: B007  (of the last one)
        pass
    return end


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each chunk up to the end; the last may end after the file."""
    at = 8
    while at < len(data):
        name, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield name, at, end
        if name == b"IEND":
            return
        at = end


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Name and end of each outermost box of an ISO container; the last may end after the file."""
    at = 0
    while at < len(data):
        name, size = data[at + 4 : at + 8], int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        to_the_end = size == 0 and len(name) == 4
        at = len(data) if to_the_end else at + max(size, 8)
        yield name, at


class _TiffEntry(NamedTuple):
    at: int
    tag: int
    end: int  # of its values, which may lie elsewhere
    values: tuple[int, ...]  # of `_TIFF_VALUES`; others may be as long as the file


_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES = 273, 279, 324, 325
_TIFF_VALUES = frozenset((_ORIENTATION, _STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES))
_TIFF_PIXEL_TAGS = frozenset(
    (*range(254, 260), 262, 266, _STRIP_OFFSETS, 274, *range(277, 280), 284, 292, 293, 317, 320, *range(322, 326))
) | {332, 338, 339, 347, 512, 513, 514, 529, 530, 531, 532}


def _tiff_directory(data: bytes) -> tuple[str, bool, int, int]:
    """Byte order, whether it is a BigTIFF, and where the entries of the first directory begin and end."""
    order, big = ("<" if data[:2] == b"II" else ">"), b"+" in data[2:4]
    try:
        (start,) = struct.unpack_from(f"{order}Q", data, 8) if big else struct.unpack_from(f"{order}I", data, 4)
        (n,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    except (struct.error, OverflowError):
        return order, big, len(data) + 1, len(data) + 1
    start += 8 if big else 2
    return order, big, start, start + n * (20 if big else 12)


def _tiff_entries(data: bytes) -> Iterator[_TiffEntry]:
    """Entries of the first directory, as far as they are in the file."""
    order, big, start, end = _tiff_directory(data)
    layout, inline = (f"{order}HHQ", 8) if big else (f"{order}HHI", 4)
    step = struct.calcsize(layout) + inline
    for at in range(start, min(end, len(data)) - step + 1, step):
        tag, type_, n = struct.unpack_from(layout, data, at)
        size = n * _TIFF_SIZES.get(type_, 0)
        place = at + step - inline
        if size > inline:
            (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)
        number = _TIFF_NUMBERS.get(type_) if tag in _TIFF_VALUES else None
        inside = number is not None and place + size <= len(data)
        values = struct.unpack_from(f"{order}{n}{number}", data, place) if inside else ()
        yield _TiffEntry(at, tag, place + size, values)


def _without_tags(data: bytes, is_unwanted: Callable[[int], bool]) -> bytes:
    blanked = bytearray(data)
    for entry in _tiff_entries(data):
        if is_unwanted(entry.tag):
            blanked[entry.at + 2 : entry.at + 4] = b"\0\0"  # of no type that there is: it is passed over
    return bytes(blanked)


def _tiff_ends(data: bytes) -> Iterator[int]:
    """Where the directory, the values that pixels need, and the pixels themselves end."""
    yield _tiff_directory(data)[3]
    entries = {entry.tag: entry for entry in _tiff_entries(data) if entry.tag in _TIFF_PIXEL_TAGS}
    yield from (entry.end for entry in entries.values())
    for starts, lengths in ((_STRIP_OFFSETS, _STRIP_BYTES), (_TILE_OFFSETS, _TILE_BYTES)):
        if starts in entries and lengths in entries:
            pairs = zip(entries[starts].values, entries[lengths].values, strict=False)
            yield from (start + length for start, length in pairs)
