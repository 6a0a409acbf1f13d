"""Files as cameras, phones and broken downloads leave them: each is decoded whole, or is one refusal, and never ends a run."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import picture
from image_corpus import JPEG, cut, directory, encoded, with_exif
from PIL import Image, JpegImagePlugin

import tasks.images
from storage.schemas import RejectReason
from tasks.collect.keep import _png
from tasks.encode.pixels import PixelTransform
from tasks.images import FORMATS, LARGEST_IMAGE_PIXELS, SUFFIXES, ImageError, decode, decode_rgb, open_rgb

# Of odd EXIF, which is meant.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

SMALL = encoded(picture(1, (24, 16)), "JPEG", quality=95)
TURNED = np.rot90(np.asarray(decode(SMALL)[0]), -1)
ORIENTATION = 0x0112
ROTATED = (ORIENTATION, 3, 1, b"\6\0")
PIXELS = PixelTransform(16, "bicubic")

X_RESOLUTION, MAKE, UNIT, EXIF, GPS, ARTIST, XMP = 0x011A, 0x010F, 0x0128, 0x8769, 0x8825, 0x013B, 0x02BC
ODD_TAGS = (0x0100, 0x010E, MAKE, X_RESOLUTION, 0x011B, UNIT, 0x0131, 0x0132, ARTIST, EXIF, GPS, 0xA005, 0x927C, XMP)
ODD_TYPES = (*range(14), 16, 18, 129)
# Counts and values, which are offsets where they are long: out of the file, on the directory itself, huge, none.
ODD_VALUES = (
    (1, b"\6\0\0\0"),
    (3, b"72\0\0"),
    (0, b"\0\0\0\0"),
    (5, b"\xff\xff\xff\x7f"),
    (2, b"\x0a\0\0\0"),
    (0x7FFFFFFF, b"\x08\0\0\0"),
)
ODD = [(tag, type_, *value) for tag in ODD_TAGS for type_ in ODD_TYPES for value in ODD_VALUES]


@pytest.fixture
def heif() -> ModuleType:
    """The library of the extra, which also writes."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    return pillow_heif


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode_rgb(data)
    return caught.value


def test_an_odd_tag_beside_a_rotation_costs_neither_the_picture_nor_the_rotation() -> None:
    data = with_exif(SMALL, directory(ROTATED, (X_RESOLUTION, 2, 3, b"72")))
    np.testing.assert_array_equal(np.asarray(decode(data)[0]), TURNED)
    assert PIXELS(data).shape == (16, 16, 3)


def test_every_kind_of_odd_tag_is_as_if_it_were_not_there() -> None:
    for entry in ODD:
        data = with_exif(SMALL, directory(ROTATED, entry))
        image, _ = decode(data)
        assert image.size == (16, 24), entry
        np.testing.assert_array_equal(np.asarray(image), TURNED)
    for entry in ODD[::5]:
        PIXELS(with_exif(SMALL, directory(ROTATED, entry)))


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_odd_tags_of_other_formats_are_as_if_they_were_not_there(format_: str) -> None:
    for entry in ODD[::3]:
        data = encoded(picture(1, (24, 16)), format_, exif=b"Exif\0\0" + directory(ROTATED, entry))
        assert decode(data)[0].size == (16, 24), entry


def test_odd_values_of_the_rotation_itself_are_no_rotation() -> None:
    for type_ in ODD_TYPES:
        for count, value in (*ODD_VALUES, (1, b"\0\0\0\0"), (1, b"\x09\0\0\0"), (2, b"\6\0\6\0")):
            data = with_exif(SMALL, directory((ORIENTATION, type_, count, value)))
            assert decode(data)[0].size in ((24, 16), (16, 24))
            PIXELS(data)


@pytest.mark.parametrize(
    "exif", [b"", b"I", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"II*\0\x08\0\0\0", bytes(40)]
)
def test_exif_that_is_none_is_no_rotation(exif: bytes) -> None:
    np.testing.assert_array_equal(np.asarray(decode(with_exif(SMALL, exif))[0]), np.asarray(decode(SMALL)[0]))
    PIXELS(with_exif(SMALL, exif))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_is_that_of_pillow(turn: int, order: str) -> None:
    from PIL import ImageOps

    data = with_exif(SMALL, directory((ORIENTATION, 3, 1, struct.pack(f"{order}H", turn)), order=order))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image, _ = decode(data)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    # It does not say any more that it is to be turned: what is written of it lies the right way up.
    assert image.getexif().get(ORIENTATION) in (None, 1)
    np.testing.assert_array_equal(np.asarray(decode(_png(image))[0]), np.asarray(expected))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_odd_tags_of_a_tiff_leave_its_pixels_readable(compression: str | None) -> None:
    plain = picture(1, (24, 16))
    data = encoded(plain, "TIFF", **({"compression": compression} if compression else {}))
    (start,) = struct.unpack_from("<I", data, 4)
    (n,) = struct.unpack_from("<H", data, start)
    known = [struct.unpack_from("<HHI4s", data, start + 2 + 12 * number) for number in range(n)]
    for entry in ODD[::3]:
        if entry[0] == 0x0100:
            continue  # of a TIFF that is its width
        entries = [each for each in known if each[0] not in (entry[0], ORIENTATION)]
        made = directory(*entries, entry, ROTATED)[8:]
        at = len(data) + len(data) % 2
        odd = data[:4] + struct.pack("<I", at) + data[8:].ljust(at - 8, b"\0") + made
        np.testing.assert_array_equal(np.asarray(decode(odd)[0]), np.rot90(np.asarray(plain), -1))


@pytest.mark.parametrize("format_", ["AVIF", "HEIF"])
def test_containers_are_turned_by_their_own_word_and_not_by_odd_exif(format_: str, heif: ModuleType) -> None:
    assert heif
    place = directory((0x0131, 2, 30, struct.pack("<I", 26))) + b"of the length of two tags...\0\0"
    data = encoded(picture(1, (24, 16)), format_, exif=b"Exif\0\0" + place)
    assert place in data
    for entry in ODD[::7]:
        odd = data.replace(place, directory(ROTATED, entry).ljust(len(place), b"\0"))
        assert decode(odd)[0].size == (24, 16), entry


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("format_", ["AVIF", "HEIF"])
def test_containers_are_turned_once(format_: str, turn: int, heif: ModuleType) -> None:
    assert heif
    # Left dark, right bright, a brighter top: no two turns of it look alike.
    plain = Image.fromarray((np.add.outer(np.linspace(60, 0, 32), np.linspace(0, 190, 48))).astype(np.uint8))
    exif = b"Exif\0\0" + directory((ORIENTATION, 3, 1, bytes((turn, 0))))
    expected, _ = decode_rgb(encoded(plain.convert("RGB"), "PNG", exif=exif))
    image, suffix = decode_rgb(encoded(plain.convert("RGB"), format_, exif=exif, quality=95))
    assert (image.size, suffix) == (expected.size, SUFFIXES[format_])
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).mean() < 3
    assert image.getexif().get(ORIENTATION) in (None, 1)


def test_heic_is_seen_as_other_pictures_are(heif: ModuleType, tmp_path: Path) -> None:
    plain = picture(2, (400, 300))
    data = heif.from_pillow(plain)
    data.save(tmp_path / "of_a_phone.heic", quality=95)
    image = open_rgb(tmp_path / "of_a_phone.heic")
    assert (image.size, image.mode) == ((400, 300), "RGB")
    assert np.abs(np.asarray(image, int) - np.asarray(plain, int)).mean() < 5
    pixels = PIXELS((tmp_path / "of_a_phone.heic").read_bytes())
    assert np.abs(pixels.astype(int) - PIXELS(encoded(plain, "PNG")).astype(int)).mean() < 5


def test_transparency_of_containers_is_laid_on_white(heif: ModuleType) -> None:
    assert heif
    for format_ in ("AVIF", "HEIF"):
        image, _ = decode_rgb(encoded(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), format_))
        assert np.asarray(image).min() > 250


def test_heic_without_its_library_names_the_extra(heif: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert heif
    data = encoded(picture(1), "HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    error = refusal(data)
    assert error.reason is RejectReason.UNSUPPORTED_FORMAT
    assert "pip install 'placeprint[heic]'" in error.detail


def test_formats_that_are_not_read_are_named_with_what_to_do() -> None:
    codestream = encoded(picture(1), "JPEG2000", no_jp2=True)
    for data, name in (
        (codestream, "JPEG 2000"),
        (encoded(picture(1), "JPEG2000"), "JPEG 2000"),
        (b"\xff\x0a" + bytes(9), "JPEG XL"),
    ):
        error = refusal(data)
        assert error.reason is RejectReason.UNSUPPORTED_FORMAT
        assert error.detail == f"{name} is not read: convert it to JPEG or PNG"


def test_films_in_the_same_container_are_no_images() -> None:
    assert refusal(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(100)).reason is RejectReason.NOT_AN_IMAGE


def whole_files() -> Iterator[tuple[str, bytes]]:
    plain = picture(0, (64, 48))
    for format_ in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF", "HEIF"):
        yield format_, encoded(plain, format_)
    yield "JPEG progressive", encoded(plain, "JPEG", progressive=True)
    yield "WEBP lossless", encoded(plain, "WEBP", lossless=True)
    yield "TIFF", encoded(plain, "TIFF")
    yield "TIFF big", encoded(plain, "TIFF", big_tiff=True)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "jpeg"):
        yield f"TIFF {compression}", encoded(plain, "TIFF", compression=compression)


def test_files_that_end_early_are_truncated_wherever_they_end(heif: ModuleType) -> None:
    assert heif
    for name, data in whole_files():
        decode(data)
        # Without its end mark, and checksums before it, a PNG or GIF still has all of its pixels.
        last = len(data) - {"PNG": 24, "GIF": 2}.get(name, 0)
        for end in sorted({*range(12, 48, 4), *range(48, last, max(1, last // 25)), last - 1}):
            error = refusal(data[:end])
            assert error.reason is RejectReason.TRUNCATED, (name, end, error.detail)


def test_a_tiff_of_a_sort_that_is_not_known_is_neither_truncated_nor_something_else() -> None:
    data = bytearray(encoded(picture(0, (64, 48)), "TIFF"))
    (start,) = struct.unpack_from("<I", data, 4)
    (n,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * n, 12):
        if struct.unpack_from("<H", data, at) == (262,):  # how numbers become colours
            struct.pack_into("<H", data, at + 8, 999)
    error = refusal(bytes(data))
    assert error.reason is RejectReason.UNREADABLE
    assert "TIFF" in error.detail


RAISED = [
    MemoryError(),
    RuntimeError("odd"),
    struct.error("odd"),
    TypeError("odd"),
    AttributeError("odd"),
    AssertionError(),
    ZeroDivisionError("odd"),
    KeyError("odd"),
    RecursionError("odd"),
    Image.DecompressionBombError("odd"),
]


@pytest.mark.parametrize("raised", RAISED, ids=lambda error: type(error).__name__)
def test_whatever_a_decoder_raises_is_a_refusal(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Image.Image) -> None:
        raise raised

    rotated = with_exif(SMALL, directory(ROTATED))  # which simplejpeg leaves to Pillow
    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", load)
    for read in (decode, decode_rgb, PIXELS):
        with pytest.raises(ImageError) as caught:
            read(rotated)
        assert caught.value.reason is RejectReason.UNREADABLE
        assert caught.value.detail


def test_whatever_a_conversion_raises_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(_: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(tasks.images, "with_8_bits", convert)
    error = refusal(JPEG)
    assert (error.reason, error.detail) == (RejectReason.UNREADABLE, "there is not enough memory to decode it")


def test_the_limit_that_is_given_is_the_limit() -> None:
    """Above what Pillow allows by itself, and what collect does by default: a PNG of few bytes and 200 million pixels."""
    wide = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    assert decode(wide, 400_000_000)[0].size == (20_000, 10_000)
    with pytest.raises(ImageError, match="20000 x 10000 pixels, allowed are 199999999"):
        decode(wide, 199_999_999)


def test_stages_after_collect_read_what_it_has_kept() -> None:
    data = encoded(Image.new("L", (12_000, 10_000), 99), "JPEG")
    assert PIXELS(data).max() <= 101
    assert decode(data)[0].size == (12_000, 10_000)


def test_nothing_lifts_the_largest_limit() -> None:
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    data = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    data[16:29] = header
    import zlib

    data[29:33] = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(ImageError, match=f"allowed are {LARGEST_IMAGE_PIXELS}") as caught:
        decode(bytes(data), 10**12)
    assert caught.value.reason is RejectReason.TOO_MANY_PIXELS


def test_every_format_has_a_suffix() -> None:
    assert set(FORMATS) <= set(SUFFIXES)


def test_a_picture_without_pixels_is_refused() -> None:
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "BMP"))
    struct.pack_into("<i", data, 18, 0)
    assert refusal(bytes(data)).reason is RejectReason.UNREADABLE


def test_cut_off_files_are_refused_by_both_decoders_for_the_same_reason() -> None:
    for format_ in ("JPEG", "WEBP", "TIFF"):
        data = cut(format_, 0.7)
        with pytest.raises(ImageError) as caught:
            PIXELS(data)
        assert (caught.value.reason, caught.value.detail) == (RejectReason.TRUNCATED, refusal(data).detail)
