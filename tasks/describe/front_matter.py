"""The YAML at the head of a Hugging Face dataset card, with the values that the Hub knows."""

from __future__ import annotations

import re
from typing import Any

from tasks.describe.notes import Notes
from tasks.describe.profile import Profile

_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
)
_LARGEST = "n>1T"

# The Hub's identifiers of licences that data have; others are `other` there, with a `license_name`.
_LICENCES = frozenset(
    [
        "apache-2.0",
        "mit",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsd-3-clause-clear",
        "c-uda",
        "cc",
        "cc0-1.0",
        "cc-by-2.0",
        "cc-by-2.5",
        "cc-by-3.0",
        "cc-by-4.0",
        "cc-by-sa-3.0",
        "cc-by-sa-4.0",
        "cc-by-nc-2.0",
        "cc-by-nc-3.0",
        "cc-by-nc-4.0",
        "cc-by-nd-4.0",
        "cc-by-nc-nd-3.0",
        "cc-by-nc-nd-4.0",
        "cc-by-nc-sa-2.0",
        "cc-by-nc-sa-3.0",
        "cc-by-nc-sa-4.0",
        "cdla-sharing-1.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "ecl-2.0",
        "etalab-2.0",
        "eupl-1.1",
        "gfdl",
        "gpl",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl",
        "lgpl-2.1",
        "lgpl-3.0",
        "agpl-3.0",
        "isc",
        "mpl-2.0",
        "odc-by",
        "odbl",
        "ofl-1.1",
        "openrail",
        "openrail++",
        "unlicense",
        "wtfpl",
        "zlib",
        "pddl",
        "unknown",
    ]
)
_SPDX = {
    "cc0": "cc0-1.0",
    "odbl-1.0": "odbl",
    "odc-by-1.0": "odc-by",
    "pddl-1.0": "pddl",
    "gfdl-1.2-or-later": "gfdl",
    "gfdl-1.3-or-later": "gfdl",
}


def front_matter(name: str, profile: Profile, notes: Notes) -> dict[str, Any]:
    """Metadata of a card; a key without a value is left out.

    Parameters
    ----------
    name
        The collection's name.
    """
    labelled = bool(profile.labels)
    values: dict[str, Any] = {
        "pretty_name": _line(notes.title or name),
        **_licence(profile, notes),
        "language": list(notes.language),
        "size_categories": [size_category(profile.n_kept)],
        "task_categories": ["image-classification"] if labelled else [],
        "tags": list(dict.fromkeys([*map(_line, notes.tags), "placeprint"])),
        "annotations_creators": _annotations_creators(labelled, notes),
        "source_datasets": [_line(text) for text in notes.source_datasets],
        # Without this the Hub would take the figures for the data.
        "configs": [{"config_name": "default", "data_files": "images.parquet"}],
    }
    return {key: value for key, value in values.items() if value}


def size_category(n: int) -> str:
    """The Hub's name for about this many examples.

    >>> size_category(999), size_category(1000)
    ('n<1K', '1K<n<10K')
    """
    return next((name for limit, name in _SIZES if n < limit), _LARGEST)


def hub_licence(text: str) -> str:
    """The Hub's identifier of a licence; ``other`` where it has none.

    >>> hub_licence("CC-BY-4.0"), hub_licence("CC BY 4.0"), hub_licence("my own")
    ('cc-by-4.0', 'cc-by-4.0', 'other')
    """
    key = "-".join(text.casefold().split())
    key = _SPDX.get(key, key)
    return key if key in _LICENCES else "other"


def _licence(profile: Profile, notes: Notes) -> dict[str, Any]:
    """Licence of the collection, or else those of its images."""
    texts = [notes.licence] if notes.licence else sorted(profile.licences)
    known = {hub_licence(text) for text in texts}
    if not notes.licence and profile.n_unlicensed:
        known.add("unknown")
    others = [text for text in texts if hub_licence(text) == "other"]
    # The Hub takes one name, in small letters.
    slug = re.sub(r"[^a-z0-9.]+", "-", others[0].casefold()).strip("-") if len(others) == 1 else ""
    identifiers = sorted(known)
    return {"license": identifiers[0] if len(identifiers) == 1 else identifiers or "unknown", "license_name": slug}


def _annotations_creators(labelled: bool, notes: Notes) -> list[str]:
    if not labelled:
        return ["no-annotation"]
    return [notes.annotations_creators] if notes.annotations_creators else []


def _line(text: str) -> str:
    return " ".join(text.split())
