"""Reading what services answer: any member may be missing, null, or of another type."""

from __future__ import annotations

import math
from typing import Any


def at(value: Any, *names: str) -> Any:
    """A member of nested JSON objects, or None where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def text_at(value: Any, *names: str) -> str | None:
    """A member that is a text with something in it, or None."""
    found = at(value, *names)
    return found.strip() or None if isinstance(found, str) else None


def number_at(value: Any, *names: str) -> float | None:
    """A member that is a finite number, or None."""
    found = at(value, *names)
    is_number = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    return float(found) if is_number else None
