"""What systems and programs leave beside pictures: it is nobody's photograph, and its folder nobody's label."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

# Compared without case. A name with a leading dot is one of these in any case.
_NAMES = frozenset(
    {
        "__macosx",
        "__pycache__",
        "@eadir",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "found.000",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
    }
)
_PATTERN = re.compile(r"\.trash-\d+|~\$.*", re.IGNORECASE)


def is_side_file(name: str) -> bool:
    """Whether a file or a folder of this name was left by a system or a program.

    Examples
    --------
    >>> [is_side_file(name) for name in ("@eaDir", ".Trash-1000", "._IMG_1.jpg", "Thumbs.db", "Egypt", "IMG_1.jpg")]
    [True, True, True, True, False, False]
    """
    return name.startswith(".") or name.lower() in _NAMES or _PATTERN.fullmatch(name) is not None


def lies_among_side_files(path: str) -> bool:
    """Whether a path, such as one in an archive, is or lies in something of this kind."""
    return any(is_side_file(part) for part in PurePosixPath(path).parts if part not in (".", "..", "/"))
