"""Splits by time: what was photographed later is never trained on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Instant: TypeAlias = np.datetime64 | datetime | date | str
Interval: TypeAlias = tuple[Instant | None, Instant | None]

UNUSED = "unused"


def time_split(
    captured_at: npt.ArrayLike, *, boundaries: Mapping[str, Interval], undated_part: str | None = None
) -> npt.NDArray[np.str_]:
    """Assign every image to the part in whose interval it was taken.

    Parameters
    ----------
    captured_at
        (n,) datetime64 in UTC, NaT where it is not known; what is finer than a microsecond is cut off.
    boundaries
        Part name -> (from, to): images with from <= captured_at < to; None is without limit. Intervals may leave gaps. Each end
        is a datetime64, datetime, date or ISO 8601 text; one without a time zone is in UTC.
    undated_part
        Part of the images without a time. Without it they are an error.

    Returns
    -------
    ndarray
        Part name of each image, (n,); ``unused`` for images in none of the intervals.

    Raises
    ------
    ValueError
        When intervals overlap, are empty or cannot be read, when `captured_at` is not datetime64 of the shape (n,), or, without
        `undated_part`, when images have no time.

    Examples
    --------
    >>> times = np.array(["2019-12-31T23:59", "2020-01-01", "2021-06-01"], dtype="datetime64[us]")
    >>> time_split(times, boundaries={"train": (None, "2020-01-01"), "test": ("2020-07-01", None)}).tolist()
    ['train', 'unused', 'test']
    """
    given = np.asarray(captured_at)
    if given.dtype.kind != "M" or given.ndim != 1:
        raise ValueError(f"captured_at must be datetime64 of the shape (n,), got {given.dtype} of {given.shape}")
    captured = given.astype("datetime64[us]")
    intervals = _intervals(boundaries)
    undated = np.isnat(captured)
    if undated_part is None and undated.any():
        raise ValueError(
            f"{undated.sum()} of {len(captured)} images have no time, the first in row {undated.argmax()}: "
            "undated_part can name a part for them"
        )
    parts = np.full(len(captured), UNUSED, dtype=object)
    for name, (start, end) in intervals.items():
        parts[(captured >= start) & (captured <= end)] = name
    parts[undated] = undated_part
    return np.asarray(parts, dtype=np.str_)


def _intervals(boundaries: Mapping[str, Interval]) -> dict[str, tuple[np.datetime64, np.datetime64]]:
    """First and last microsecond of each part."""
    if not boundaries:
        raise ValueError("boundaries name no part")
    # The lowest number of all is NaT.
    earliest, latest = np.datetime64(-(2**63) + 1, "us"), np.datetime64(2**63 - 1, "us")
    intervals = {}
    for name, (start, end) in boundaries.items():
        first = earliest if start is None else _instant(name, start)
        last = latest if end is None else _instant(name, end) - np.timedelta64(1, "us")
        if last < first:
            raise ValueError(f"the interval of the part {name} is empty: from {start} to {end}")
        intervals[name] = (first, last)
    in_time = sorted(intervals, key=lambda name: intervals[name])
    overlaps = [pair for pair in pairwise(in_time) if intervals[pair[1]][0] <= intervals[pair[0]][1]]
    if overlaps:
        named = "; ".join(" and ".join(pair) for pair in overlaps[:3])
        raise ValueError(f"intervals of parts overlap, {len(overlaps)} time(s): {named}")
    return intervals


def _instant(name: str, value: Instant) -> np.datetime64:
    """In UTC. Text is read by `datetime`, since numpy drops time zones."""
    try:
        read = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(read, datetime) and read.tzinfo is not None:
            read = read.astimezone(UTC).replace(tzinfo=None)
    except ValueError:
        read = np.datetime64("NaT")
    # numpy would read a number as microseconds since 1970.
    known = read if isinstance(read, date | np.datetime64) else np.datetime64("NaT")
    instant: np.datetime64 = np.array([known], dtype="datetime64[us]")[0]
    if np.isnat(instant):
        raise ValueError(
            f"boundaries of the part {name}: {value!r} is no time, such as 2020-01-31 or 2020-01-31T12:00Z"
        )
    return instant
