"""How near a split is to what was asked for: every class in every part, and every group whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array, issparse, sparray, spmatrix

from tasks.split.label_matrix import group_codes, label_matrix, name_codes, one_hot
from tasks.split.sizes import Floats, Ints, checked_sizes


@dataclass(frozen=True)
class Quality:
    """What was wanted and what came out, in images and in shares.

    Images in other parts than the k that were asked for, such as ``zero_shot``, count in no class and in no total.

    Parameters
    ----------
    classes
        c names; of multi-label data the numbers of the columns, where no names were given.
    parts
        k names.
    shares
        (k,) what was asked for.
    wanted
        (c, k) float64, images of each class times share.
    got
        (c, k) int64, images.
    got_share
        (c, k) float64, of the images of each class; NaN for a class without images.
    worst_images, worst_images_at
        The largest ``|got - wanted|`` in images, and its class and part.
    worst_share, worst_share_at
        The largest ``|got_share - share|``, and its class and part.
    part_wanted, part_got
        (k,) images of each part.
    n_elsewhere
        Images in other parts.
    n_groups, n_divided
        Groups, and how many of them are in more than one part, wherever: 0, or the split leaks.
    largest_group, largest_group_size
        Name of the group with most images, and their number; None and 0 without groups.
    warnings
        One line for each thing to know: a group larger than a part, divided groups, an empty part.
    """

    classes: tuple[str, ...]
    parts: tuple[str, ...]
    shares: Floats
    wanted: Floats
    got: Ints
    got_share: Floats
    worst_images: float
    worst_images_at: tuple[str, str]
    worst_share: float
    worst_share_at: tuple[str, str]
    part_wanted: Floats
    part_got: Ints
    n_elsewhere: int
    n_groups: int
    n_divided: int
    largest_group: str | None
    largest_group_size: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Groups:
    n: int = 0
    n_divided: int = 0
    largest: str | None = None
    largest_size: int = 0


def split_quality(
    labels: npt.ArrayLike | sparray | spmatrix,
    parts: npt.ArrayLike,
    sizes: Mapping[str, float],
    groups: npt.ArrayLike | None = None,
    *,
    class_names: npt.ArrayLike | None = None,
) -> Quality:
    """Compare a split with what was asked for.

    Parameters
    ----------
    labels
        (n,) label of each image, or (n, c) in {0, 1}, dense or scipy.sparse.
    parts
        (n,) part name of each image.
    sizes
        Part name -> share, as the split was asked for.
    groups
        (n,) group of each image.
    class_names
        (c,) names of the columns of multi-label data.

    Returns
    -------
    Quality
        See there.

    Raises
    ------
    ValueError
        When shares do not add up to 1, lengths differ, labels, parts or groups are missing, or there is no image in any
        of the parts.

    Examples
    --------
    >>> quality = split_quality(["a"] * 4 + ["b"], ["train"] * 3 + ["test"] * 2, {"train": 0.5, "test": 0.5})
    >>> quality.worst_images, quality.worst_images_at, quality.worst_share, quality.worst_share_at
    (1.0, ('a', 'train'), 0.5, ('b', 'train'))
    """
    names, shares = checked_sizes(sizes)
    matrix, classes = _matrix(labels, class_names)
    part_names, part_code = name_codes(parts, "parts")
    if len(part_code) != matrix.shape[0]:
        raise ValueError(f"{matrix.shape[0]} labels, but {len(part_code)} parts")
    column = {name: number for number, name in enumerate(names)}
    part = np.array([column.get(str(name), -1) for name in part_names], dtype=np.int64)[part_code]
    inside = np.flatnonzero(part >= 0)
    if not len(inside) or not len(classes):
        raise ValueError(f"no image with a class is in one of the parts {', '.join(names)}")
    got = np.asarray((matrix[inside].T @ one_hot(part[inside], len(names))).toarray())
    n_of_class = got.sum(axis=1, keepdims=True)
    wanted = n_of_class * shares
    got_share = np.divide(got, n_of_class, out=np.full(got.shape, np.nan), where=n_of_class > 0)
    worst_images, images_at = _worst(np.abs(got - wanted), classes, names)
    worst_share, share_at = _worst(np.nan_to_num(np.abs(got_share - shares)), classes, names)
    part_got = np.bincount(part[inside], minlength=len(names))
    found = _Groups() if groups is None else _groups(groups, part_code)
    return Quality(
        classes=classes,
        parts=tuple(names),
        shares=shares,
        wanted=wanted,
        got=got,
        got_share=got_share,
        worst_images=worst_images,
        worst_images_at=images_at,
        worst_share=worst_share,
        worst_share_at=share_at,
        part_wanted=len(inside) * shares,
        part_got=part_got,
        n_elsewhere=len(part) - len(inside),
        n_groups=found.n,
        n_divided=found.n_divided,
        largest_group=found.largest,
        largest_group_size=found.largest_size,
        warnings=tuple(_warnings(names, len(inside) * shares, part_got, found)),
    )


def _matrix(
    labels: npt.ArrayLike | sparray | spmatrix, class_names: npt.ArrayLike | None
) -> tuple[csr_array, tuple[str, ...]]:
    if not issparse(labels) and np.ndim(labels) == 1:
        classes, code = name_codes(labels, "labels")
        return one_hot(code, len(classes)), tuple(str(each) for each in classes.tolist())
    matrix = label_matrix(labels)
    names = range(matrix.shape[1]) if class_names is None else np.asarray(class_names).tolist()
    if len(names) != matrix.shape[1]:
        raise ValueError(f"{matrix.shape[1]} columns of labels, but {len(names)} class names")
    return matrix, tuple(str(each) for each in names)


def _worst(deviation: Floats, classes: tuple[str, ...], parts: list[str]) -> tuple[float, tuple[str, str]]:
    row, column = np.unravel_index(int(deviation.argmax()), deviation.shape)
    return float(deviation[row, column]), (classes[row], parts[column])


def _groups(groups: npt.ArrayLike, part_code: Ints) -> _Groups:
    names, code = group_codes(groups, len(part_code))
    sizes = np.bincount(code)
    in_parts = np.unique(code * (int(part_code.max()) + 1) + part_code) // (int(part_code.max()) + 1)
    largest = int(sizes.argmax())
    return _Groups(len(names), int((np.bincount(in_parts) > 1).sum()), str(names[largest].item()), int(sizes[largest]))


def _warnings(parts: list[str], wanted: Floats, got: Ints, groups: _Groups) -> list[str]:
    lines = [f"the part {name} is empty" for name, n in zip(parts, got, strict=True) if n == 0]
    if groups.n_divided:
        lines.append(f"{groups.n_divided:,} of {groups.n:,} groups are in more than one part")
    smaller = [name for name, n in zip(parts, wanted, strict=True) if n < groups.largest_size]
    if groups.n and smaller:
        lines.append(
            f"the group {groups.largest!r} has {groups.largest_size:,} images, more than wanted in {', '.join(smaller)}"
        )
    return lines
