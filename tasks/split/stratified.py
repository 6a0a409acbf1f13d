"""Stratified splits of single-label data: every class in proportion, every total exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.split.assignment import assigned_parts
from tasks.split.draw import checked_ids, draw_order, hashes
from tasks.split.label_matrix import check_groups_fill, group_codes, group_counts, name_codes, numbered, one_hot
from tasks.split.rounding import controlled_rounding
from tasks.split.sizes import Floats, Ints, checked_sizes, named

ZERO_SHOT = "zero_shot"


def stratified_split(
    labels: npt.ArrayLike,
    *,
    sizes: Mapping[str, float],
    seed: int,
    groups: npt.ArrayLike | None = None,
    every_class_in_each_part: bool = False,
    min_class_size: int = 1,
    small_class_part: str = ZERO_SHOT,
    ids: npt.ArrayLike | None = None,
    stable: bool = False,
) -> npt.NDArray[np.str_]:
    """Assign every image to a part, each class in proportion.

    Without groups, every class is within one image of its share in every part, and each part's total is exactly its share by
    the largest remainder (see `tasks.split.rounding.controlled_rounding`). With groups, each stays whole, so neither can
    be exact: they are brought as near as moves and swaps of groups bring them (see `tasks.split.assignment`).

    Parameters
    ----------
    labels
        (n,) label of each image, text or numbers.
    sizes
        Part name -> share; shares add up to 1.
    seed
        Of every draw. The order of the rows does not matter for how many images of a class go where; with `ids` it does not
        matter for which.
    groups
        (n,) group of each image, such as its place: a group is never divided. It may hold images of several classes.
    every_class_in_each_part
        Whether every class has an image in every part: where one is missing it moves over, and totals are off by that.
    min_class_size
        Classes with fewer images (with groups: in fewer groups) go whole to `small_class_part` and are left out of
        the shares; a group that holds one goes there with all its images.
    small_class_part
        Name of a part, one of `sizes` or another.
    ids
        (n,) id of each image, all different: images are then drawn in an order that follows from the hash of seed and id.
    stable
        Whether images added later change no earlier image's part. Each image's part then follows from the hash of seed, class
        and id (with groups: of seed and group, so that needs no ids) alone, and shares are met only by chance: of n images
        of a class, a part with share p has n·p give or take √(n·p·(1 - p)).

    Returns
    -------
    ndarray
        (n,) part name of each image.

    Raises
    ------
    ValueError
        When shares do not add up to 1, lengths differ, labels or groups are missing, ids occur twice; when there are more parts
        than images or groups; when classes are too small to be in every part; when `stable` comes without ids or
        with what it cannot promise.

    Examples
    --------
    >>> labels = ["a"] * 20 + ["b"] * 20 + ["c"]
    >>> parts = stratified_split(labels, sizes={"train": 0.85, "test": 0.15}, seed=0, min_class_size=2)
    >>> [int((parts == name).sum()) for name in ("train", "test", "zero_shot")]
    [34, 6, 1]
    """
    names, shares = checked_sizes(sizes)
    classes, code = name_codes(labels, "labels")
    group = None if groups is None else group_codes(groups, len(code))
    if stable:
        if every_class_in_each_part or min_class_size > 1:
            raise ValueError(
                "stable cannot be had with every_class_in_each_part or min_class_size: added images change both"
            )
        part = _stable_parts(classes, code, shares, seed, group, ids)
        return np.array(names)[part]
    order = draw_order(len(code), seed, ids)
    code = code[order]
    drawn_group = None if group is None else numbered(group[1][order])
    shared = ~_goes_with_small_classes(code, drawn_group, min_class_size)
    if group is not None and shared.any():
        check_groups_fill(group[0], group[1][order][shared], len(names))
    if every_class_in_each_part:
        _check_reach(classes, code[shared], None if drawn_group is None else drawn_group[shared], len(names))
    part = np.full(len(code), -1)
    if shared.any() or not len(code):
        part[shared] = (
            _image_parts(code[shared], shares, seed, every_class_in_each_part)
            if drawn_group is None
            else _group_parts(code[shared], numbered(drawn_group[shared]), shares, every_class_in_each_part, classes)
        )
    of_row = np.empty_like(part)
    of_row[order] = part
    return np.array([*names, small_class_part])[of_row]


def _image_parts(code: Ints, shares: Floats, seed: int, every: bool) -> Ints:
    """Part of each image, (n,): quotas of the classes, dealt to their images in the order given."""
    if len(code) < len(shares):
        raise ValueError(f"{len(code)} images cannot fill {len(shares)} parts")
    present, code = np.unique(code, return_inverse=True)
    class_sizes = np.bincount(code, minlength=len(present))
    quotas = controlled_rounding(class_sizes, shares, seed=seed)
    if every:
        _move_to_empty(quotas, class_sizes[:, None] * shares)
    by_class = np.argsort(
        code.astype(np.min_scalar_type(len(present))), kind="stable"
    )  # small integers are sorted by radix
    part = np.empty(len(code), dtype=np.int64)
    part[by_class] = np.repeat(np.tile(np.arange(len(shares)), len(present)), quotas.ravel())
    return part


def _move_to_empty(quotas: Ints, exact: Floats) -> None:
    """Give every class an image in every part, from the part of the class that has most above its share."""
    for row, part in np.argwhere(quotas == 0):
        above = np.where(quotas[row] > 1, quotas[row] - exact[row], -np.inf)
        quotas[row, above.argmax()] -= 1
        quotas[row, part] += 1


def _group_parts(code: Ints, group: Ints, shares: Floats, every: bool, classes: npt.NDArray[Any]) -> Ints:
    """Part of each image, (n,), the same within a group."""
    n_groups = int(group.max(initial=-1)) + 1
    counts = group_counts(one_hot(code, len(classes)), group, n_groups)
    part = assigned_parts(counts, np.bincount(group, minlength=n_groups), shares, classes=classes if every else None)
    return part[group]


def _units_of_classes(code: Ints, group: Ints | None) -> Ints:
    """Images of each class, or the groups that it is in."""
    if group is None or not len(code):
        return np.bincount(code)
    n_groups = int(group.max()) + 1
    return np.bincount(np.unique(code * n_groups + group) // n_groups)


def _goes_with_small_classes(code: Ints, group: Ints | None, min_class_size: int) -> npt.NDArray[np.bool_]:
    small = (_units_of_classes(code, group) < min_class_size)[code]
    return small if group is None else np.isin(group, group[small])


def _check_reach(classes: npt.NDArray[Any], code: Ints, group: Ints | None, n_parts: int) -> None:
    units = _units_of_classes(code, group)
    short = np.flatnonzero((units > 0) & (units < n_parts))
    if len(short):
        what = "images" if group is None else "groups"
        raise ValueError(f"these classes have fewer {what} than the {n_parts} parts: {named(classes[short].tolist())}")


def _stable_parts(
    classes: npt.NDArray[Any],
    code: Ints,
    shares: Floats,
    seed: int,
    group: tuple[npt.NDArray[Any], Ints] | None,
    ids: npt.ArrayLike | None,
) -> Ints:
    """Part of each image, (n,), from the hash of what stays the same when images are added."""
    if group is not None:
        number = hashes(group[0].astype(str).tolist(), seed)[group[1]]
    elif ids is not None:
        label = classes.astype(str)[code].tolist()
        number = hashes((f"{of}\0{text}" for of, text in zip(label, checked_ids(ids, len(code)), strict=True)), seed)
    else:
        raise ValueError("stable needs ids: the id of each image decides where it goes")
    ends = np.cumsum(shares)[:-1]
    return np.searchsorted(ends, number / 2.0**64, side="right")
