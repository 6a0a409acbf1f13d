"""Files of one collection with the same bytes: one is kept, with what all of them together say of the picture."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from storage.schemas import IMAGES, REJECTS, RejectReason

# What is known of a picture, column by column; a place is latitude and longitude together.
KNOWN: dict[str, tuple[str, ...]] = {
    "label": ("label",),
    "place": ("latitude", "longitude"),
    "captured_at": ("captured_at",),
    "licence": ("licence",),
    "attribution": ("attribution",),
    "url": ("url",),
    "metadata": ("metadata",),
}
# Of these, two copies may well differ: they are the same picture from two addresses.
MAY_DIFFER = frozenset({"url", "metadata"})


class Joined(NamedTuple):
    """Images with each file's bytes once a collection, the others as rejects, and how many images have copies that say otherwise."""

    images: pa.Table
    rejects: pa.Table
    conflicts: Counter[str]


def join_exact_duplicates(images: pa.Table) -> Joined:
    """Keep one row of byte-identical files of one source.

    It is the one that says most, of those that say as much the first by path; what it does not say it takes from the others, where
    they agree. What they say otherwise is counted, by field, and is in the detail of the reject.

    Parameters
    ----------
    images
        With the schema of the table ``images``.
    """
    images = images.sort_by([("source", "ascending"), ("path", "ascending")])
    counts = images.group_by(["source", "image_id"]).aggregate([("path", "count")])
    repeated = counts.filter(pc.greater(counts["path_count"], 1))
    if not repeated.num_rows:
        return Joined(images, REJECTS.empty_table(), Counter())
    keys = set(zip(repeated["source"].to_pylist(), repeated["image_id"].to_pylist(), strict=True))
    groups: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(images["source"].to_pylist(), images["image_id"].to_pylist(), strict=True)):
        if key in keys:
            groups.setdefault(key, []).append(row)
    conflicts: Counter[str] = Counter()
    kept: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for rows in groups.values():
        copies = images.take(pa.array(rows)).to_pylist()
        chosen = max(copies, key=_n_known)
        others = [copy for copy in copies if copy is not chosen]
        union, differing = _union(chosen, others)
        conflicts.update(differing)
        kept.append(union)
        rejects += [_reject(copy, union, differing) for copy in others]
    in_groups = {row for rows in groups.values() for row in rows}
    alone = images.take(pa.array([row for row in range(images.num_rows) if row not in in_groups], pa.int64()))
    joined = pa.concat_tables([alone, pa.Table.from_pylist(kept, IMAGES)])
    return Joined(
        joined.sort_by([("source", "ascending"), ("path", "ascending")]),
        pa.Table.from_pylist(rejects, REJECTS),
        conflicts,
    )


def _value(row: dict[str, Any], field: str) -> tuple[Any, ...] | None:
    values = tuple(row[column] for column in KNOWN[field])
    return None if None in values else values


def _n_known(row: dict[str, Any]) -> tuple[int, int]:
    """How much a row says, what the camera says least."""
    n = sum(_value(row, field) is not None for field in KNOWN)
    return n, -len(_of_camera(row))


def _of_camera(row: dict[str, Any]) -> set[str]:
    """Fields that are from the picture's EXIF: the same in all copies, and outdone by what anybody says."""
    told = json.loads(row["metadata"]) if row["metadata"] else {}
    return set(told.get("from_exif", ())) if isinstance(told, dict) else set()


def _union(chosen: dict[str, Any], others: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The chosen row with what the others know besides, and the fields of which they say different things."""
    union, differing = dict(chosen), []
    for field, columns in KNOWN.items():
        told = [
            (value, field in _of_camera(row)) for row in (chosen, *others) if (value := _value(row, field)) is not None
        ]
        if any(not of_camera for _, of_camera in told):
            told = [(value, False) for value, of_camera in told if not of_camera]
        said = dict.fromkeys(value for value, _ in told)
        if len(said) > 1 and field not in MAY_DIFFER:
            differing.append(field)
        # Of different things that others say none is taken.
        own = _value(chosen, field) if field not in _of_camera(chosen) else None
        if own is None and said and (len(said) == 1 or field in MAY_DIFFER):
            union |= dict(zip(columns, next(iter(said)), strict=True))
    return union, differing


def _reject(copy: dict[str, Any], kept: dict[str, Any], differing: Sequence[str]) -> dict[str, Any]:
    told = [
        f", where its {field} is {_shown(kept, field)} and not {_shown(copy, field)}"
        for field in differing
        if _value(copy, field) is not None and _value(copy, field) != _value(kept, field)
    ]
    return {
        "source": copy["source"],
        "path": copy["path"],
        "reason": RejectReason.EXACT_DUPLICATE.value,
        "detail": f"same bytes as {kept['path']}{''.join(told)}",
    }


def _shown(row: dict[str, Any], field: str) -> str:
    value = _value(row, field)
    if value is None:
        return "not known"
    return repr(value[0]) if len(value) == 1 else f"{value[0]:g} {value[1]:g}"
