"""The data sets of the case study: one recipe, for whatever collections come in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tasks.split.balance import cap, mixed, of_large_classes, rank_in_class
from tasks.split.stratified import stratified_split

Mask = npt.NDArray[np.bool_]

MIN_LIMIT, WEAKLY, STRONGLY = "min-limit", "weakly", "strongly"
MIXED_WEAKLY, MIXED_STRONGLY = "mixed-weakly", "mixed-strongly"
TRAINING_SETS = (MIN_LIMIT, WEAKLY, MIXED_WEAKLY, STRONGLY, MIXED_STRONGLY)


@dataclass(frozen=True)
class CaseStudyRule:
    """The study's numbers.

    Attributes
    ----------
    base
        The collection that the training sets are made of.
    min_per_class
        Of each collection, the fewest images of a class that is trained on; those with fewer are the zero-shot test set.
    default_min_per_class
        Of collections that are not named there.
    weak_cap, strong_cap
        Most images of a class.
    test_share
        Of the test set, rounded up for each collection.
    complete_tests
        Collections of which every class of the training part is in the test part too, as the authors had it for Aerial.
    seed
        Of all draws.
    """

    base: str = "geoguessr"
    min_per_class: Mapping[str, int] = field(default_factory=lambda: {"aerial": 2})
    default_min_per_class: int = 11
    weak_cap: int = 2000
    strong_cap: int = 200
    test_share: float = 0.15
    complete_tests: tuple[str, ...] = ("aerial",)
    seed: int = 1234


@dataclass(frozen=True)
class CaseStudySets:
    """Which images, (n,) boolean each, are in the test sets and in each training set (by its name)."""

    trained_test: Mask
    zero_shot: Mask
    min_limit: Mask
    training: Mapping[str, Mask]


def case_study_sets(
    labels: npt.ArrayLike, sources: npt.ArrayLike, ids: Sequence[str], rule: CaseStudyRule
) -> CaseStudySets:
    """The test sets and the five training sets of the study (its sections 5.3 and 5.3.1).

    Of each collection the small classes become the zero-shot test set; the rest is *Min-Limit*. The base collection, capped
    weakly, and the others give a stratified share to the trained test set. Training sets: the base's Min-Limit with the
    rest of its large classes put back, its weakly capped part, a strongly capped part of that, and the last two with images
    of other collections mixed in.

    Parameters
    ----------
    labels, sources
        Label and collection of each image, (n,).
    ids
        Id of each image.

    Raises
    ------
    ValueError
        When no image is of the base, or a collection has no class that is large enough.
    """
    label, source = np.asarray(labels, dtype=np.str_), np.asarray(sources, dtype=np.str_)
    if rule.base not in source:
        found = ", ".join(sorted(set(source.tolist())))
        raise ValueError(f"no image is of the base collection {rule.base!r}; there are {found}")
    large = np.zeros(len(label), dtype=np.bool_)
    for each in np.unique(source):
        rows = np.flatnonzero(source == each)
        least = rule.min_per_class.get(str(each), rule.default_min_per_class)
        large[rows] = of_large_classes(label[rows], min_per_class=least)
        if not large[rows].any():
            raise ValueError(f"the collection {str(each)!r} has no class with {least} images")
    base = large & (source == rule.base)
    weakly = _within(base, lambda rows: cap(label[rows], _of(ids, rows), max_per_class=rule.weak_cap, seed=rule.seed))
    trained_test = np.zeros(len(label), dtype=np.bool_)
    for each in np.unique(source):
        pool = weakly if each == rule.base else large & (source == each)
        rows = np.flatnonzero(pool)
        trained_test[rows] = _test_rows(label[rows], _of(ids, rows), rule, complete=str(each) in rule.complete_tests)
    left, left_of_others = weakly & ~trained_test, large & ~trained_test & (source != rule.base)
    strongly = _within(
        left, lambda rows: cap(label[rows], _of(ids, rows), max_per_class=rule.strong_cap, seed=rule.seed)
    )
    training = {MIN_LIMIT: base & ~trained_test, WEAKLY: left, STRONGLY: strongly}
    for name, own in ((MIXED_WEAKLY, left), (MIXED_STRONGLY, strongly)):
        training[name] = _within(
            own | left_of_others,
            lambda rows, own=own: mixed(label[rows], own[rows], _of(ids, rows), seed=rule.seed),  # type: ignore[misc]
        )
    return CaseStudySets(trained_test, ~large, large, {name: training[name] for name in TRAINING_SETS})


def set_table(sets: CaseStudySets, labels: npt.ArrayLike, sources: npt.ArrayLike) -> list[dict[str, str | int | float]]:
    """The compositions of the study's tables 1 and 2: images of each collection in each set, their sum, and the share mixed in.

    Returns
    -------
    list
        One row a set: `set`, a count for each collection, `sum`, `classes`, `smallest_class`, `largest_class`, and
        `mixed_share`, the share of images that are not of the collection with the most.
    """
    label, source = np.asarray(labels, dtype=np.str_), np.asarray(sources, dtype=np.str_)
    names = [str(each) for each in np.unique(source)]
    every = np.ones(len(label), dtype=np.bool_)
    wanted = {"total": every, "trained-test": sets.trained_test, "zero-shot": sets.zero_shot, **sets.training}
    rows: list[dict[str, str | int | float]] = []
    for name, chosen in wanted.items():
        of_source = [int((chosen & (source == each)).sum()) for each in names]
        of_class = np.unique(label[chosen], return_counts=True)[1]
        rows.append(
            {
                "set": name,
                **dict(zip(names, of_source, strict=True)),
                "sum": sum(of_source),
                "classes": len(of_class),
                "smallest_class": int(of_class.min()) if len(of_class) else 0,
                "largest_class": int(of_class.max(initial=0)),
                "mixed_share": 1 - max(of_source) / max(sum(of_source), 1),
            }
        )
    return rows


def _of(ids: Sequence[str], rows: npt.NDArray[np.int64]) -> list[str]:
    return [ids[row] for row in rows.tolist()]


def _within(pool: Mask, choose: Callable[[npt.NDArray[np.int64]], Mask]) -> Mask:
    """Of a pool those that a choice among its rows takes."""
    rows = np.flatnonzero(pool)
    chosen = np.zeros(len(pool), dtype=np.bool_)
    chosen[rows[choose(rows)]] = True
    return chosen


def _test_rows(label: npt.NDArray[np.str_], ids: Sequence[str], rule: CaseStudyRule, *, complete: bool) -> Mask:
    """A stratified share, rounded up; if it must be complete, one image more of each class that has none in it."""
    share = math.ceil(rule.test_share * len(label)) / len(label)
    parts = stratified_split(label, sizes={"train": 1 - share, "test": share}, seed=rule.seed, ids=ids)
    test = np.asarray(parts == "test")
    if complete:
        rank = rank_in_class(label, ids, seed=rule.seed)
        missing = ~np.isin(label, label[test])
        test |= missing & (rank == 0)
    return test
