"""Pairs of images that look alike: all of them, exactly, with memory that does not grow with the square of their number.

Matrix products by blocks only *screen*: they find every pair that could reach the least cosine, with a margin for what
rounding can do to them. Each pair found is then scored by itself, always with the same additions in the same order, and only
that score decides. So the answer, to the last bit, depends neither on the block size nor on the screen nor on the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Screen = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]

LENGTH_TOLERANCE = 1e-3  # of a row's length; rounding to float16 makes up to 0.0005
BLOCK_COLUMNS = {"cpu": 2048, "cuda": 16384}
PAIRS_AT_ONCE = 256  # scored together: two such blocks of vectors stay in a core's cache
ROWS_AT_ONCE = 1024  # checked together

# Largest relative error of one rounding to nearest (Higham 2002, table 2.1): float32 has 24 significant bits, bfloat16 has 8.
FLOAT32_ROUNDOFF = 2.0**-24
FLOAT64_ROUNDOFF = 2.0**-53
BFLOAT16_ROUNDOFF = 2.0**-8
# Matrix units add bfloat16 products in float32, but a GPU's cut off instead of rounding, and align several terms first (Fasi et
# al. 2021): four times float32's roundoff for each term covers that.
MATRIX_UNIT_ROUNDOFF = 2.0**-22
# What underflow can add for each component, denormal numbers flushed to zero or not: some of 2^-126.
UNDERFLOW = 2.0**-120


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows, sorted by (i, j).

    Parameters
    ----------
    i, j
        (m,) int64, rows with i < j.
    cosine
        (m,) float32.
    """

    i: npt.NDArray[np.int64]
    j: npt.NDArray[np.int64]
    cosine: npt.NDArray[np.float32]


class TooManyPairsError(ValueError):
    """So many pairs have the cosine asked for that it cannot be one that makes near-duplicates."""


def near_pairs(
    embeddings: npt.ArrayLike,
    *,
    min_cosine: float,
    block_rows: int = 1024,
    n_known: int = 0,
    max_pairs: int | None = None,
    screen: Screen = "auto",
    device: Device = "auto",
) -> Pairs:
    """Every pair of rows with a cosine of at least `min_cosine`.

    The cosine of a pair is the product of the two rows as they are given, without dividing by their lengths: summed in float64
    in a fixed order, rounded to float32, and compared with `min_cosine` rounded to float32. It is within 1.01 · 2^-24 of
    the exact product, and can exceed 1 by what the rows' lengths do.

    Pairs are looked for with products of blocks, the upper triangle only, and a margin for their rounding, `screen_error`: the
    same pairs come out, bit for bit, for every `block_rows`, `screen` and `device`. Memory beside the embeddings
    and the pairs found is that of one block; float16 is widened to a float32 copy, and a bfloat16 screen or a GPU keeps
    a copy of its own.

    Parameters
    ----------
    embeddings
        (n, d) float32 or float16, L2-normalised. A float16 array is widened.
    min_cosine
        -1 to 1.
    block_rows
        Rows of a block.
    n_known
        Pairs of two of the first so many rows are left out, and not looked for: they were found before.
    max_pairs
        More are refused while they are being found, before they fill the memory.
    screen
        What blocks are computed in. ``auto`` is bfloat16 on a GPU and on a CPU with AVX512-BF16, and float32 elsewhere,
        where bfloat16 is right too but slow.
    device
        ``auto`` is a GPU where there is one.

    Returns
    -------
    Pairs
        Sorted by (i, j); empty for fewer than two rows.

    Raises
    ------
    ValueError
        When the embeddings have another shape or type, hold NaN or infinity, or a row's length is more than 0.001 off 1; when
        `min_cosine`, `block_rows`, `n_known`, `screen` or `device` is none that is allowed, or there is no GPU for ``cuda``.
    TooManyPairsError
        When there are more than `max_pairs`.

    Examples
    --------
    >>> near_pairs(np.array([[1, 0], [0.6, 0.8], [1, 0]], dtype=np.float32), min_cosine=0.9)
    Pairs(i=array([0]), j=array([2]), cosine=array([1.], dtype=float32))
    """
    vectors = checked_embeddings(embeddings, block_rows)
    if not -1.0 <= min_cosine <= 1.0:
        raise ValueError(f"min_cosine must be between -1 and 1, got {min_cosine}")
    if not 0 <= n_known <= len(vectors):
        raise ValueError(f"n_known must be between 0 and the {len(vectors)} rows, got {n_known}")
    place = torch_place(device)
    kind = _kind(screen, place)
    threshold = np.float32(min_cosine)
    dimension = vectors.shape[1]
    least = float(threshold) - screen_error(dimension, kind) - score_error(dimension)
    cut = _round_up(least, kind)
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    n_found = 0
    for first_row, first_column, products in upper_blocks(vectors, block_rows, kind, place, n_known):
        hot = (products.amax(dim=1) >= cut).nonzero().flatten()  # few rows, as a rule: only these are looked through
        if not len(hot):
            continue
        at, j = _indices(products[hot] >= cut)
        i, j = hot.cpu().numpy()[at] + first_row, j + first_column
        wanted = i < j
        i, j = i[wanted], j[wanted]
        cosine = pair_cosines(vectors, i, j)
        near = cosine >= threshold
        found.append((i[near], j[near], cosine[near]))
        n_found += int(near.sum())
        if max_pairs is not None and n_found > max_pairs:
            raise TooManyPairsError(f"more than {max_pairs:,} pairs have a cosine of {min_cosine:.4g} or more")
    i, j, cosine = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((j, i))
    return Pairs(i[order], j[order], cosine[order])


def nearest_neighbours(
    embeddings: npt.ArrayLike, *, block_rows: int = 1024, device: Device = "auto"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The most similar other row of each row; of equally similar ones the lowest.

    Scored as in `near_pairs` and screened in float32: the answer is the same, bit for bit, for every `block_rows` and `device`.
    Rows are equally similar when their cosines are equal in float32. Where thousands of rows are equal, each pair of them
    is scored.

    Parameters
    ----------
    embeddings
        (n, d) float32 or float16, L2-normalised. A float16 array is widened.
    block_rows
        Rows of a block.
    device
        ``auto`` is a GPU where there is one.

    Returns
    -------
    row
        (n,) int64; -1 for the only row of one.
    cosine
        (n,) float32; NaN for the only row of one.

    Raises
    ------
    ValueError
        As in `near_pairs`.

    Examples
    --------
    >>> row, cosine = nearest_neighbours(np.array([[1, 0], [0.6, 0.8], [1, 0]], dtype=np.float32))
    >>> row.tolist(), [round(float(each), 3) for each in cosine]
    ([2, 0, 0], [1.0, 0.6, 1.0])
    """
    vectors = checked_embeddings(embeddings, block_rows)
    place = torch_place(device)
    n, dimension = vectors.shape
    row, cosine = np.full(n, -1, dtype=np.int64), np.full(n, np.nan if n == 1 else -np.inf, dtype=np.float32)
    if n < 2:
        return row, cosine
    # Twice: the best may be screened too low by as much as another too high; and 2^-22 for rounding of the subtraction.
    margin = 2.0 * (screen_error(dimension, "float32") + score_error(dimension)) + 2.0**-22
    best: torch.Tensor | None = None  # the highest product of each row so far
    for first_row, first_column, products in upper_blocks(vectors, block_rows, "float32", place):
        if best is None:
            best = products.new_full((n,), -np.inf)
        if first_row == first_column:
            products.fill_diagonal_(-np.inf)
        sides = ((first_row, first_column, products), (first_column, first_row, products.T))
        highest = [side.amax(dim=1) for _, _, side in sides]
        for (first, _, _), side_highest in zip(sides, highest, strict=True):
            best[first : first + len(side_highest)].clamp_(min=side_highest)
        for (first, first_other, side), side_highest in zip(sides, highest, strict=True):
            least = best[first : first + len(side_highest)] - margin
            # Not finite: a block of one image with itself.
            near = ((side_highest >= least) & side_highest.isfinite()).nonzero().flatten()
            if not len(near):
                continue
            at, other = _indices(side[near] >= least[near, None])
            at, other = near.cpu().numpy()[at] + first, other + first_other
            _keep_nearest(row, cosine, at, other, pair_cosines(vectors, at, other))
    return row, cosine


def pair_cosines(
    vectors: npt.NDArray[np.float32], i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """The cosines of given pairs of rows, as `near_pairs` scores them.

    Products are exact in float64, and numpy sums each row in an order that its length alone fixes: a pair's cosine does not
    depend on what else is scored.

    Parameters
    ----------
    vectors
        (n, d) float32, L2-normalised.
    i, j
        (m,) rows.

    Returns
    -------
    ndarray
        (m,) float32.

    Examples
    --------
    >>> vectors = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
    >>> pair_cosines(vectors, np.array([0, 1]), np.array([1, 1])).round(3).tolist()
    [0.6000000238418579, 1.0]
    """
    cosine = np.empty(len(i), dtype=np.float32)
    for start in range(0, len(i), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        cosine[part] = (vectors[i[part]].astype(np.float64) * vectors[j[part]].astype(np.float64)).sum(axis=1)
    return cosine


def screen_error(dimension: int, screen: Literal["float32", "bfloat16"]) -> float:
    """How far a block's product of two rows can be from the exact product of the rows as given.

    In float32, a sum of d products in any order, with fused multiplications or without, is off by at most γ_d · Σ|x_k y_k|, where
    γ_d = d u / (1 - d u) and u = 2^-24 (Higham 2002, section 3.1); by Cauchy-Schwarz the sum is at most ‖x‖ ‖y‖, which is
    at most 1.001². At 512 dimensions that is 0.0000306.

    In bfloat16, of 8 significant bits, each component is first rounded to within 2^-8 of itself, which is the bound for rounding
    to nearest. Products of two such numbers are exact in float32, their sum is off by γ_d with u = 2^-22, and the
    sum is rounded to bfloat16. So each of the products counts with a factor that is off 1 by no more than
    (1 + 2^-8)³ (1 + γ_d) - 1, which bounds the whole as above. At 512 dimensions that is 0.0119.

    Parameters
    ----------
    dimension
        Components of a row, fewer than 2^22.
    screen
        ``float32`` or ``bfloat16``.

    Returns
    -------
    float
        The bound, for rows whose lengths are within 0.001 of 1, with what underflow can add.

    References
    ----------
    .. [1] N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, SIAM 2002.
    .. [2] M. Fasi, N. J. Higham, M. Mikaitis, S. Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science 7,
       2021.
    """
    if screen == "float32":
        relative = _gamma(dimension, FLOAT32_ROUNDOFF)
    else:
        relative = (1.0 + BFLOAT16_ROUNDOFF) ** 3 * (1.0 + _gamma(dimension, MATRIX_UNIT_ROUNDOFF)) - 1.0
    return (1.0 + LENGTH_TOLERANCE) ** 2 * relative + dimension * UNDERFLOW


def score_error(dimension: int) -> float:
    """How far the score of a pair, a sum in float64 that is rounded to float32, can be from the exact product."""
    relative = (1.0 + _gamma(dimension, FLOAT64_ROUNDOFF)) * (1.0 + FLOAT32_ROUNDOFF) - 1.0
    return (1.0 + LENGTH_TOLERANCE) ** 2 * relative + UNDERFLOW


def _gamma(dimension: int, roundoff: float) -> float:
    return dimension * roundoff / (1.0 - dimension * roundoff)


def checked_embeddings(embeddings: npt.ArrayLike, block_rows: int = 1) -> npt.NDArray[np.float32]:
    """The embeddings as (n, d) float32 in C order, the same array if it is so already; ValueError as `near_pairs` says."""
    given = np.asarray(embeddings)
    if given.ndim != 2:
        raise ValueError(f"embeddings must have the shape (n, d), got {given.shape}")
    if given.dtype not in (np.float32, np.float16):
        raise ValueError(f"embeddings must be float32 or float16, got {given.dtype}")
    if block_rows < 1:
        raise ValueError(f"block_rows must be at least 1, got {block_rows}")
    vectors = np.ascontiguousarray(given, dtype=np.float32)
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        lengths = np.sqrt(np.square(vectors[start : start + ROWS_AT_ONCE], dtype=np.float64).sum(axis=1))
        wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= LENGTH_TOLERANCE))
        if len(wrong):
            length = lengths[wrong[0]]
            what = f"has the length {length:.6g}, not 1" if np.isfinite(length) else "holds NaN or infinity"
            raise ValueError(f"row {start + wrong[0]} of the embeddings {what}")
    return vectors


def torch_place(device: Device) -> str:
    """``cpu`` or ``cuda``; ValueError for what is neither, nor ``auto``, and for ``cuda`` without a GPU."""
    import torch

    if device not in get_args(Device):
        raise ValueError(f"device must be one of {', '.join(get_args(Device))}, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch finds no GPU here")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _kind(screen: Screen, place: str) -> Literal["float32", "bfloat16"]:
    import torch

    if screen not in get_args(Screen):
        raise ValueError(f"screen must be one of {', '.join(get_args(Screen))}, got {screen!r}")
    if screen != "auto":
        return screen
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # earlier versions of torch cannot be asked
    able = place == "cuda" or (capabilities is not None and bool(capabilities().get("avx512_bf16")))
    return "bfloat16" if able else "float32"


def upper_blocks(
    vectors: npt.NDArray[np.float32],
    block_rows: int,
    kind: Literal["float32", "bfloat16"],
    place: str,
    n_known: int = 0,
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """First row, first column and products, (rows, columns), of blocks that cover all pairs i <= j once or more, but for those
    of two of the first `n_known` rows.

    Without known rows, only blocks whose first row is their first column meet the diagonal. The products are overwritten
    by the next block's.
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to it
        rows = torch.from_numpy(vectors).to(place, getattr(torch, kind))
    n = len(rows)
    block_rows = max(min(block_rows, n), 1)
    block_columns = min(max(block_rows, BLOCK_COLUMNS[place]), n)
    buffer = torch.empty(block_rows * block_columns, dtype=rows.dtype, device=place)
    for first_row in range(0, n, block_rows):
        left = rows[first_row : first_row + block_rows]
        for first_column in range(max(first_row, n_known), n, block_columns):
            right = rows[first_column : first_column + block_columns]
            products = buffer[: len(left) * len(right)].view(len(left), len(right))
            with full_precision():
                torch.mm(left, right.T, out=products)
            yield first_row, first_column, products


@contextmanager
def full_precision() -> Iterator[None]:
    """Products as `screen_error` takes them to be, whatever torch was told: a float32 one is not computed in less, and sums of
    bfloat16 products stay float32 to the end.
    """
    import torch

    cuda = torch.backends.cuda.matmul
    precision, reduced = torch.get_float32_matmul_precision(), cuda.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    cuda.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        cuda.allow_bf16_reduced_precision_reduction = reduced


def _round_up(value: float, kind: str) -> float:
    """The least number of the kind that is not below the value: a comparison with it is as one with the value."""
    import torch

    rounded = torch.tensor(value, dtype=getattr(torch, kind))
    if float(rounded) < value:
        rounded = torch.nextafter(rounded, torch.full_like(rounded, np.inf))
    return float(rounded)


def _indices(mask: torch.Tensor) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns where an (r, c) mask is set."""
    at = mask.nonzero().cpu().numpy()
    return at[:, 0], at[:, 1]


def _keep_nearest(
    row: npt.NDArray[np.int64],
    cosine: npt.NDArray[np.float32],
    at: npt.NDArray[np.int64],
    other: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
) -> None:
    """Put the best of the others scored for each row in its place, where it is better than the one there."""
    order = np.lexsort((other, -scores, at))
    first = order[np.unique(at[order], return_index=True)[1]]
    at, other, scores = at[first], other[first], scores[first]
    better = (scores > cosine[at]) | ((scores == cosine[at]) & (other < row[at]))
    row[at[better]], cosine[at[better]] = other[better], scores[better]
