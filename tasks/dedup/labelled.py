"""Pairs that someone has labelled, joined with their cosines: from a file, or from a person's answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from storage.answers import Answer, current_answers, read_answers
from storage.errors import PlaceprintError
from storage.store import Store
from storage.vectors import Vectors
from tasks.dedup.pairs import pair_cosines
from tasks.dedup.threshold import MIN_OF_A_CLASS, MIN_PAIRS

SYNTHETIC = "synthetic"
YES, NO = ("true", "1", "yes", "duplicate"), ("false", "0", "no", "different")


class NoThresholdError(PlaceprintError):
    """The labels that there are do not give a threshold."""


@dataclass(frozen=True)
class Label:
    """What was said of a pair; `image_id_a` is the smaller of the two."""

    image_id_a: str
    image_id_b: str
    is_duplicate: bool
    labelled_by: str
    edit: str | None = None
    cosine: float | None = None

    @classmethod
    def of(cls, one: str, other: str, is_duplicate: bool, labelled_by: str) -> Label:
        """A label of two images in any order."""
        first, second = sorted((one, other))
        return cls(first, second, is_duplicate, labelled_by)


@dataclass(frozen=True)
class Labels:
    """Labels, and what came of every pair that was given: given = used + each of the others."""

    labels: tuple[Label, ...]
    counts: Mapping[str, int]


def answers_of(store: Store) -> list[Answer]:
    """What people said of pairs in the store, the last word of each on each pair, by pair."""
    current = current_answers(read_answers(store))
    return [current[key] for key in sorted(current)]


def answers_hash(answers: Iterable[Answer]) -> str:
    """What the answers say, without the time at which they were given."""
    said = [(each.image_id_a, each.image_id_b, each.answer, each.labelled_by) for each in answers]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()


def enough_answers(answers: Iterable[Answer]) -> bool:
    """Whether a threshold can be fitted to them."""
    said = [each.answer for each in answers]
    n_duplicates, n_different = said.count("duplicate"), said.count("different")
    return min(n_duplicates, n_different) >= MIN_OF_A_CLASS and n_duplicates + n_different >= MIN_PAIRS


def labels_of_answers(answers: Iterable[Answer]) -> Labels:
    """A label for each answer that is no skip."""
    given = list(answers)
    labels = tuple(
        Label(each.image_id_a, each.image_id_b, each.answer == "duplicate", each.labelled_by)
        for each in given
        if each.answer != "skip"
    )
    return Labels(labels, {"given": len(given), "skipped": len(given) - len(labels)})


def labels_of_file(path: Path, id_of_path: Mapping[str, set[str]]) -> Labels:
    """The labels of a CSV or Parquet file, without rows that are there twice, or of a path that is not among the images.

    Columns are ``is_duplicate`` (true or false, 1 or 0, yes or no), the pair as ``image_id_a, image_id_b`` or as ``path_a,
    path_b`` (as the table images has them), and ``labelled_by`` where it is known.

    Parameters
    ----------
    id_of_path
        The image ids that each path has, one for each collection it is in.

    Raises
    ------
    PlaceprintError
        When the file cannot be read, lacks columns, or a row says something else or contradicts another.
    """
    rows = _read(path)
    by_id = {"image_id_a", "image_id_b"} <= set(rows.columns)
    names = ("image_id_a", "image_id_b") if by_id else ("path_a", "path_b")
    missing = [name for name in (*names, "is_duplicate") if name not in rows.columns]
    if missing:
        raise PlaceprintError(
            f"dedup.labels: {path} has no column {missing[0]}: it needs is_duplicate, and image_id_a, image_id_b or path_a, path_b"
        )
    found: list[Label] = []
    counts = {"given": rows.height, "unknown_path": 0, "repeated": 0}
    said: dict[tuple[str, str, str], tuple[bool, int]] = {}
    for number, row in enumerate(rows.iter_rows(named=True), start=1):
        where = f"dedup.labels: {path}, row {number}"
        answer = (row["is_duplicate"] or "").strip().lower()
        if answer not in (*YES, *NO):
            raise PlaceprintError(f"{where}: is_duplicate is {row['is_duplicate']!r}, not true or false")
        if not (row[names[0]] and row[names[1]]):
            raise PlaceprintError(f"{where}: {names[0]} or {names[1]} is empty")
        pair = [row[name] if by_id else _one_id(row[name], id_of_path, where) for name in names]
        if None in pair:
            counts["unknown_path"] += 1
            continue
        label = Label.of(str(pair[0]), str(pair[1]), answer in YES, row.get("labelled_by") or path.name)
        key = (label.image_id_a, label.image_id_b, label.labelled_by)
        before, at = said.setdefault(key, (label.is_duplicate, number))
        if before != label.is_duplicate:
            raise PlaceprintError(f"{where} contradicts row {at}: the same pair, labelled by {label.labelled_by}")
        if at == number:
            found.append(label)
        else:
            counts["repeated"] += 1
    return Labels(tuple(found), counts)


def _read(path: Path) -> pl.DataFrame:
    """All columns as text."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            return pl.read_parquet(path).with_columns(pl.all().cast(pl.String))
        return pl.read_csv(path, infer_schema=False)
    except FileNotFoundError:
        raise PlaceprintError(
            f"dedup.labels: {path} does not exist: give auto, person, synthetic, or a CSV or Parquet file"
        ) from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise PlaceprintError(f"dedup.labels: {path} cannot be read: {str(error).splitlines()[0]}") from None


def _one_id(path: str, id_of_path: Mapping[str, set[str]], where: str) -> str | None:
    ids = id_of_path.get(path, set())
    if len(ids) > 1:
        raise PlaceprintError(f"{where}: {path} is in several collections: name images by image_id_a, image_id_b")
    return next(iter(ids), None)


def with_cosines(given: Labels, row_of: Mapping[str, int], vectors: Vectors) -> Labels:
    """The labels whose two images have embeddings, each with its cosine.

    Parameters
    ----------
    row_of
        Row of each image in `vectors`, (n, d) float32.
    """
    known = [each for each in given.labels if each.image_id_a in row_of and each.image_id_b in row_of]
    pairs = [each for each in known if each.image_id_a != each.image_id_b]
    i = np.array([row_of[each.image_id_a] for each in pairs], dtype=np.int64)
    j = np.array([row_of[each.image_id_b] for each in pairs], dtype=np.int64)
    cosines = pair_cosines(vectors, i, j).tolist()
    return Labels(
        tuple(replace(each, cosine=cosine) for each, cosine in zip(pairs, cosines, strict=True)),
        {
            **given.counts,
            "no_embedding": len(given.labels) - len(known),
            "of_one_image": len(known) - len(pairs),
            "used": len(pairs),
        },
    )
