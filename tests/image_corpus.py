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


JPEG = encoded(picture(0, (200, 150)), "JPEG")
BAD = {
    "zero_byte": (b"", RejectReason.EMPTY),
    "text": (b"not a picture at all", RejectReason.NOT_AN_IMAGE),
    "html": (b"<!doctype html><html><body>login</body></html>", RejectReason.NOT_AN_IMAGE),
    "pdf": (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", RejectReason.NOT_AN_IMAGE),
    "truncated_jpeg": (JPEG[: len(JPEG) // 2], RejectReason.TRUNCATED),
    "truncated_png": (encoded(picture(0, (200, 150)), "PNG")[:5000], RejectReason.TRUNCATED),
    "bomb": (bomb(), RejectReason.TOO_MANY_PIXELS),
}
