"""Bad files of every kind, made by code, each with the reason for which it is refused."""

from __future__ import annotations

import io
import struct
import zlib

from conftest import picture
from PIL import Image

from storage.schemas import RejectReason


def encoded(image: Image.Image, format_: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes whose header promises 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def cut(format_: str, share: float = 0.5, **options: object) -> bytes:
    """The first part of a file, as a download that broke off leaves it."""
    data = encoded(picture(0, (200, 150)), format_, **options)
    return data[: int(len(data) * share)]


def directory(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """EXIF, or the directory of a TIFF: entries of tag, type, count and value or offset."""
    fields = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in sorted(entries))
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return start + fields + b"\0" * 4


def with_exif(jpeg: bytes, exif: bytes) -> bytes:
    """A JPEG with these bytes as its EXIF, whatever they are."""
    segment = b"Exif\0\0" + exif
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


JPEG = encoded(picture(0, (200, 150)), "JPEG")
BAD = {
    "zero_byte": (b"", RejectReason.EMPTY),
    "text": (b"not a picture at all", RejectReason.NOT_AN_IMAGE),
    "html": (b"<!doctype html><html><body>login</body></html>", RejectReason.NOT_AN_IMAGE),
    "pdf": (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", RejectReason.NOT_AN_IMAGE),
    "truncated_jpeg": (JPEG[: len(JPEG) // 2], RejectReason.TRUNCATED),
    "truncated_png": (encoded(picture(0, (200, 150)), "PNG")[:5000], RejectReason.TRUNCATED),
    "truncated_webp": (cut("WEBP"), RejectReason.TRUNCATED),
    "truncated_tiff": (cut("TIFF", compression="tiff_lzw"), RejectReason.TRUNCATED),
    "truncated_avif": (cut("AVIF"), RejectReason.TRUNCATED),
    "jpeg_xl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), RejectReason.UNSUPPORTED_FORMAT),
    "jpeg_2000": (encoded(picture(0), "JPEG2000"), RejectReason.UNSUPPORTED_FORMAT),
    "bomb": (bomb(), RejectReason.TOO_MANY_PIXELS),
}
