"""A surrogate for how many images are relevant to each image, and strata of equal size by it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tasks.dedup.pairs import Device, checked_embeddings, full_precision, torch_place, upper_blocks

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]

HIGHEST_TEMPERATURE = 10_000.0  # rounding of a cosine in float32, 1e-7 or so, becomes an error of 0.001
LARGEST, SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)  # SMALLEST of normal numbers
LEAST_EXPONENT = -87.0  # taken for lower ones, since exp is ten times as slow where it underflows, below -87.3
LOST_SHARE = 1e-6  # of a row's sum, that lower exponents may change without notice


def surrogate_values(
    embeddings: npt.ArrayLike, *, temperature: float = 100.0, block_rows: int = 1024, device: Device = "auto"
) -> Floats:
    """The largest softmax weight that each image gives to another: 1 for an image with one that is like it, 1 / (n - 1) for none.

    value_i = max_{j ≠ i} softmax_j(T cos(i, j)) over all other images j, which is 1 / Σ_{j ≠ i} exp(T (c_ij - m_i)) with m_i the
    largest c_ij. Its inverse stands for the number of images that are relevant to image i (Bynke [1]_, section 3.3).

    Each pair is multiplied and raised once, in float32, by blocks of the upper triangle: a block's exponentials serve
    its rows and its columns. Sums of blocks are added in float64. What would be lost to underflow, since all
    exponents are taken from one number and not from m_i, is computed again from m_i. Of 100,000 images at T = 100, there
    is none of that; at T = 1000 it is each image whose nearest has a cosine below 0.86, and these take a few times as long. The
    result is off by a relative 1e-7 T or so, whatever `block_rows`. Memory beside a float32 copy of the embeddings is
    that of a block.

    Parameters
    ----------
    embeddings
        (n, d) float32 or float16, L2-normalised. What rounding made of their lengths is made good.
    temperature
        T, above 0 and at most 10,000.
    block_rows
        Rows of a block.
    device
        ``auto`` is a GPU where there is one.

    Returns
    -------
    ndarray
        (n,) float64, above 0 and at most 1; NaN for the only image of one.

    Raises
    ------
    ValueError
        As `tasks.dedup.pairs.near_pairs`, and when the temperature is not allowed.

    References
    ----------
    .. [1] Bynke 2022, section 3.3.

    Examples
    --------
    >>> vectors = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], dtype=np.float32)
    >>> surrogate_values(vectors).round(3).tolist()
    [0.5, 0.5, 0.333, 0.5]
    """
    vectors = checked_embeddings(embeddings, block_rows)
    if not 0 < temperature <= HIGHEST_TEMPERATURE:
        raise ValueError(f"temperature must be above 0 and at most {HIGHEST_TEMPERATURE:,.0f}, got {temperature}")
    place = torch_place(device)
    n = len(vectors)
    if n < 2:
        return np.full(n, np.nan)
    # So that products are T cos(i, j).
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    scaled = vectors * (np.sqrt(temperature) / lengths)[:, None].astype(np.float32)
    # Below 0 only where a sum of exponentials could exceed the largest number otherwise, and no further: there is most room for
    # small ones then.
    shift = min(float(np.log(LARGEST / n)) - 1.0 - temperature, 0.0)
    largest, total = _largest_and_sum(scaled, shift, block_rows, place)
    values = largest / np.where(total > 0, total, 1.0)
    again = np.flatnonzero(~((total >= n * SMALLEST / LOST_SHARE) & (total <= LARGEST)))
    for start in range(0, len(again), block_rows):
        rows = again[start : start + block_rows]
        values[rows] = _from_own_largest(scaled, rows, block_rows, place)
    return values


def surrogate_strata(values: npt.ArrayLike, *, n_bins: int = 10) -> npt.NDArray[np.int64]:
    """Strata of equal size by quantile, to share images out so that each part has as many easy and hard ones.

    Parameters
    ----------
    values
        (n,) of `surrogate_values`.
    n_bins
        Number of strata, whose sizes differ by one at most.

    Returns
    -------
    ndarray
        (n,) int64, 0 for the lowest values to `n_bins` - 1. Equal values are taken in the order of their rows.

    Raises
    ------
    ValueError
        When values are not of the shape (n,) or hold NaN, or `n_bins` is less than 1.

    Examples
    --------
    >>> surrogate_strata([0.3, 0.1, 0.9, 0.2, 0.5], n_bins=2).tolist()
    [0, 0, 1, 0, 1]
    """
    value = np.asarray(values, dtype=np.float64)
    if value.ndim != 1:
        raise ValueError(f"values must have the shape (n,), got {value.shape}")
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")
    missing = np.flatnonzero(np.isnan(value))
    if len(missing):
        raise ValueError(f"{len(missing)} of {len(value)} values are NaN, the first in row {missing[0]}")
    stratum = np.empty(len(value), dtype=np.int64)
    stratum[np.argsort(value, kind="stable")] = np.arange(len(value)) * n_bins // max(len(value), 1)
    return stratum


def _largest_and_sum(
    scaled: npt.NDArray[np.float32], shift: float, block_rows: int, place: str
) -> tuple[Floats, Floats]:
    """Of exp(product + shift) over the other rows, for each row."""
    import torch

    n = len(scaled)
    largest = torch.zeros(n, dtype=torch.float32, device=place)
    total = torch.zeros(n, dtype=torch.float64, device=place)
    for first_row, first_column, products in upper_blocks(scaled, block_rows, "float32", place):
        n_rows, n_columns = products.shape
        exponentials = products.add_(shift).clamp_(min=LEAST_EXPONENT).exp_()
        # The square on the diagonal has each of its pairs twice, so its rows are enough.
        n_square = n_rows if first_row == first_column else 0
        if n_square:
            exponentials.fill_diagonal_(0.0)
        beyond = exponentials[:, n_square:]
        rows, columns = slice(first_row, first_row + n_rows), slice(first_column + n_square, first_column + n_columns)
        total[rows] += exponentials.sum(dim=1)
        largest[rows] = torch.maximum(largest[rows], exponentials.amax(dim=1))
        if beyond.shape[1]:
            total[columns] += beyond.sum(dim=0)
            largest[columns] = torch.maximum(largest[columns], beyond.amax(dim=0))
    return largest.double().cpu().numpy(), total.cpu().numpy()


def _from_own_largest(
    scaled: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], block_rows: int, place: str
) -> Floats:
    """Values of a few rows: exponents are taken from each row's own largest product so far."""
    import torch

    largest = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=place)
    total = torch.zeros_like(largest)
    for products in _row_products(scaled, rows, block_rows, place):
        block_largest = products.amax(dim=1)
        block_total = products.sub_(block_largest[:, None]).clamp_(min=LEAST_EXPONENT).exp_().sum(dim=1).double()
        higher = torch.maximum(largest, block_largest.double())
        total = total * (largest - higher).exp() + block_total * (block_largest.double() - higher).exp()
        largest = higher
    return np.asarray((1.0 / total).cpu().numpy())


def _row_products(
    scaled: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], block_rows: int, place: str
) -> Iterator[torch.Tensor]:
    """Products of a few rows with all, by blocks of columns; the lowest number for a row with itself."""
    import torch

    vectors = torch.from_numpy(scaled)
    left = vectors[torch.from_numpy(rows)].to(place)
    for start in range(0, len(scaled), block_rows):
        right = vectors[start : start + block_rows].to(place)
        with full_precision():
            products = left @ right.T
        inside = np.flatnonzero((rows >= start) & (rows < start + len(right)))
        products[inside, rows[inside] - start] = -LARGEST  # and not -inf, which less itself is NaN
        yield products
