"""Stratified splits of single-label data: every class in proportion, every total exact."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

ZERO_SHOT = "zero_shot"


def stratified_split(
    labels: npt.ArrayLike,
    *,
    sizes: Mapping[str, float],
    seed: int,
    groups: npt.ArrayLike | None = None,
    min_class_size: int = 2,
) -> npt.NDArray[np.str_]:
    """Assign every image to a part.

    Each class is shared out in proportion to `sizes`; what rounding leaves over goes, by the largest remainder, where
    the totals of the parts still want images. Classes with fewer than `min_class_size` groups cannot be in every part
    and go to the part ``zero_shot``.

    Parameters
    ----------
    labels
        Label of each image, (n,).
    sizes
        Part name -> share; shares add up to 1.
    seed
        Of the shuffle within each class. The order of the input rows does not matter for how many go where.
    groups
        Group of each image, (n,), such as its place: a group is never divided, and proportions are kept in groups.
        Without it every image is a group of its own.

    Returns
    -------
    ndarray
        Part name of each image, (n,).

    Raises
    ------
    ValueError
        When shares do not add up to 1, lengths differ, or a group holds more than one label.

    Examples
    --------
    >>> parts = stratified_split(["a"] * 20 + ["b"] * 20 + ["c"], sizes={"train": 0.85, "test": 0.15}, seed=0)
    >>> [int((parts == name).sum()) for name in ("train", "test", "zero_shot")]
    [34, 6, 1]
    """
    names, shares = list(sizes), np.array(list(sizes.values()), dtype=np.float64)
    if (shares <= 0).any() or abs(shares.sum() - 1.0) > 1e-9:
        raise ValueError(f"split sizes must be positive and add up to 1, got {dict(sizes)}")
    label_names, label = np.unique(np.asarray(labels), return_inverse=True)
    group_of = np.arange(len(label)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(group_of) != len(label):
        raise ValueError(f"{len(label)} labels, but {len(group_of)} groups")
    n_groups = int(group_of.max()) + 1 if len(group_of) else 0
    label_of_group = np.full(n_groups, -1)
    label_of_group[group_of] = label
    divided = np.flatnonzero(label_of_group[group_of] != label)
    if len(divided):
        raise ValueError(f"a group holds more than one label, among them {label_names[label[divided[0]]]!r}")

    class_sizes = np.bincount(label_of_group, minlength=len(label_names))
    large = np.flatnonzero(class_sizes >= max(min_class_size, len(names)))
    quotas = _quotas(class_sizes[large], shares)
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    part_of_group = np.full(n_groups, ZERO_SHOT, dtype=object)
    for row, index in enumerate(large):
        members = generator.permutation(np.flatnonzero(label_of_group == index))
        part_of_group[members] = np.repeat(names, quotas[row])
    return np.asarray(part_of_group[group_of], dtype=np.str_)


def _quotas(class_sizes: npt.NDArray[np.int64], shares: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Whole numbers (n_classes, n_parts): rows add up to the class sizes, columns to the rounded totals.

    Each entry is the exact quota rounded down or up, so no class is more than one group off its share.
    """
    exact = class_sizes[:, None] * shares
    quotas = np.floor(exact + 1e-9).astype(np.int64)
    spare = class_sizes - quotas.sum(axis=1)
    total = int(class_sizes.sum())
    totals = np.floor(total * shares + 1e-9).astype(np.int64)
    by_remainder = np.argsort(-(total * shares - totals), kind="stable")
    totals[by_remainder[: total - totals.sum()]] += 1
    wanted = totals - quotas.sum(axis=0)
    remainder = exact - quotas
    # Classes with the clearest claim first; each of its spare groups goes to the part it has the best claim on.
    for row in np.argsort(-remainder.max(axis=1), kind="stable"):
        for _ in range(int(spare[row])):
            claim = np.where(wanted > 0, remainder[row], -1.0)
            part = int(claim.argmax())
            quotas[row, part] += 1
            wanted[part] -= 1
            remainder[row, part] = -0.5  # one up at most, while another part can take it
    return quotas
