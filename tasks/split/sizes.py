"""Sizes of the parts of a split: their names, their shares, and whole numbers of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# A product of a count and a share that is so near a whole number is one: 0.15 · 20 is 3, whatever its last bit says.
WHOLE = 1e-7
NAMED = 3  # offenders that an error names


def checked_sizes(sizes: Mapping[str, float]) -> tuple[list[str], Floats]:
    """Names of the parts, in the order given, and their shares.

    Parameters
    ----------
    sizes
        Part name -> share.

    Returns
    -------
    names
        k names.
    shares
        (k,) float64.

    Raises
    ------
    ValueError
        When there is no part, or a share is not positive, or shares do not add up to 1 within 1e-9.

    Examples
    --------
    >>> checked_sizes({"train": 0.85, "test": 0.15})
    (['train', 'test'], array([0.85, 0.15]))
    """
    shares = np.array(list(sizes.values()), dtype=np.float64)
    if not ((shares > 0).all() and abs(shares.sum() - 1.0) <= 1e-9):
        raise ValueError(f"split sizes must be positive and add up to 1, got {dict(sizes)}")
    return [str(name) for name in sizes], shares


def part_totals(n: int, shares: Floats) -> Ints:
    """Whole numbers of images of each part that add up to `n`, by the largest remainder (Hamilton's method).

    Of equal remainders the first part's counts.

    Parameters
    ----------
    n
        Number of images.
    shares
        (k,), adding up to 1.

    Returns
    -------
    ndarray
        (k,) int64, each less than one off ``n * share``.

    Examples
    --------
    >>> part_totals(10, np.array([0.7, 0.15, 0.15])).tolist()
    [7, 2, 1]
    """
    totals = whole_part(n * shares)
    remainder = np.round(n * shares - totals, 7)
    totals[np.argsort(-remainder, kind="stable")[: n - int(totals.sum())]] += 1
    return totals


def whole_part(values: Floats) -> Ints:
    """Values rounded down, but for those less than 1e-7 below a whole number."""
    return np.floor(values + WHOLE).astype(np.int64)


def named(offenders: Iterable[object]) -> str:
    """The first few of them and how many there are, for an error of one line."""
    everyone = list(offenders)
    first = ", ".join(repr(each) for each in everyone[:NAMED])
    return first if len(everyone) <= NAMED else f"{first} and {len(everyone) - NAMED:,} more"
