"""Where and when a camera says that a picture was taken."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from tasks.images import FORMATS

_EXIF, _GPS = 0x8769, 0x8825
# With the tag that holds its offset from UTC; the first that is there counts.
_TIMES = ((_EXIF, 0x9003, 0x9011), (_EXIF, 0x9004, 0x9012), (None, 0x0132, 0x9010))
_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE, _ALTITUDE_REF, _ALTITUDE = 1, 2, 3, 4, 5, 6
_TIME = re.compile(r"(\d{4})[:\-](\d\d)[:\-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"[+-]\d\d:\d\d")


@dataclass(frozen=True)
class CameraFacts:
    """What the EXIF of a picture says; None where it says nothing, or nothing that can be.

    Parameters
    ----------
    latitude, longitude
        Degrees; both or neither.
    altitude_m
        Above the sea.
    captured_at
        In UTC. Where the camera notes no zone, its clock is taken for UTC, and `zone_is_known` is false.
    """

    latitude: float | None = None
    longitude: float | None = None
    altitude_m: float | None = None
    captured_at: datetime | None = None
    zone_is_known: bool = False


def read_exif(data: bytes) -> CameraFacts:
    """Read the EXIF of a picture's bytes; what is damaged is passed over.

    Latitude 0 and longitude 0 are what a receiver writes that has no place yet: they are none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                exif = image.getexif()
                if not exif:
                    return CameraFacts()
                parts = {None: dict(exif), _EXIF: dict(exif.get_ifd(_EXIF)), _GPS: dict(exif.get_ifd(_GPS))}
    except Exception:  # noqa: BLE001  (whatever a damaged EXIF makes Pillow raise: the picture is judged elsewhere)
        return CameraFacts()
    gps = parts[_GPS]
    latitude = _degrees(gps.get(_LATITUDE), gps.get(_LATITUDE_REF), "NS", 90.0)
    longitude = _degrees(gps.get(_LONGITUDE), gps.get(_LONGITUDE_REF), "EW", 180.0)
    if latitude is None or longitude is None or (latitude, longitude) == (0.0, 0.0):
        latitude = longitude = None
    moment, zone_is_known = _moment(parts)
    return CameraFacts(latitude, longitude, _altitude_m(gps), moment, zone_is_known)


def _degrees(value: Any, reference: Any, directions: str, limit: float) -> float | None:
    """Degrees of (degrees, minutes, seconds); None without a direction, or where they cannot be."""
    direction = _text(reference)[:1].upper()
    try:
        numbers = [float(each) for each in (value if isinstance(value, tuple | list) else (value,))]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not direction or direction not in directions or not 1 <= len(numbers) <= 3:
        return None
    degrees: float = sum(number / 60.0**power for power, number in enumerate(numbers))
    if not math.isfinite(degrees) or not 0 <= degrees <= limit:
        return None
    return -degrees if direction == directions[1] else degrees


def _altitude_m(gps: Mapping[int, Any]) -> float | None:
    try:
        metres = float(gps[_ALTITUDE])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    below = gps.get(_ALTITUDE_REF) in (1, b"\x01", "1")
    return (-metres if below else metres) if math.isfinite(metres) else None


def _moment(parts: Mapping[int | None, Mapping[int, Any]]) -> tuple[datetime | None, bool]:
    for part, tag, offset_tag in _TIMES:
        found = _TIME.match(_text(parts[part].get(tag)).strip())
        if found is None:
            continue
        offset = _OFFSET.fullmatch(_text(parts[_EXIF].get(offset_tag)).strip())
        try:
            moment = datetime(*map(int, found.groups()), tzinfo=UTC)  # type: ignore[arg-type,misc]
            if offset is not None:
                moment = datetime.fromisoformat(f"{moment:%Y-%m-%dT%H:%M:%S}{offset[0]}").astimezone(UTC)
        except (ValueError, OverflowError):
            continue
        return moment, offset is not None
    return None, False


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", errors="replace")
    return str(value or "").replace("\0", "")
