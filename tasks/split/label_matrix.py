"""Labels and groups as numbers: codes of names, and sparse matrices of who has which label."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.sparse import csr_array, hstack, issparse

from tasks.split.sizes import Ints, named


def name_codes(values: npt.ArrayLike, what: str) -> tuple[npt.NDArray[Any], Ints]:
    """Names, sorted, and the number of each row's name.

    As ``np.unique`` with its inverse, but sorts the names instead of the rows, which is many times as fast for text.

    Parameters
    ----------
    values
        (n,) of text or numbers.
    what
        Name of the values in errors.

    Returns
    -------
    names
        (m,), sorted.
    codes
        (n,) int64.

    Raises
    ------
    ValueError
        When the values have another shape, or some are missing (None or NaN).

    Examples
    --------
    >>> names, codes = name_codes(["b", "a", "b"], "labels")
    >>> names.tolist(), codes.tolist()
    (['a', 'b'], [1, 0, 1])
    """
    given = np.asarray(values)
    if given.ndim != 1:
        raise ValueError(f"{what} must have the shape (n,), got {given.shape}")
    missing = (
        [row for row, value in enumerate(given.tolist()) if _is_missing(value)] if given.dtype.kind in "OfM" else []
    )
    if missing:
        raise ValueError(f"{what} are missing in rows {named(missing)}")
    if given.dtype == object:
        given = np.array(given.tolist())
    if given.dtype.kind not in "biufUSM":
        raise ValueError(f"{what} must be text or numbers, all of one kind, got {given.dtype}")
    codes, entries = _entry_codes(given)
    names, code_of_entry = np.unique(entries, return_inverse=True)
    return names, code_of_entry.astype(np.int64)[codes]


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _entry_codes(values: npt.NDArray[Any]) -> tuple[Ints, npt.NDArray[Any]]:
    """The number of each value, (n,), and the values themselves, both in the order of their first rows."""
    width = max(values.dtype.itemsize, 1)
    # As bytes: pa.array would copy them, and import pandas where it is installed.
    rows = pa.Array.from_buffers(
        pa.binary(width), len(values), [None, pa.py_buffer(np.ascontiguousarray(values).view(np.uint8))]
    )
    codes, entries = dictionary_codes(rows)
    return codes, np.frombuffer(entries.buffers()[1], dtype=values.dtype)[: len(entries)]


def dictionary_codes(rows: pa.Array) -> tuple[Ints, pa.Array]:
    """The number of each row's value, (n,) int64, and the values, in the order of their first rows."""
    encoded = rows.dictionary_encode()
    return np.frombuffer(encoded.indices.buffers()[1], dtype=np.int32)[: len(rows)].astype(np.int64), encoded.dictionary


def group_codes(groups: npt.ArrayLike, n: int) -> tuple[npt.NDArray[Any], Ints]:
    """As `name_codes`, for the groups of n images."""
    names, codes = name_codes(groups, "groups")
    if len(codes) != n:
        raise ValueError(f"{n} labels, but {len(codes)} groups")
    return names, codes


def check_groups_fill(names: npt.NDArray[Any], codes: Ints, n_parts: int) -> None:
    """Refuse fewer groups than parts: one would be empty. Names the largest group, which holds what is missing there."""
    sizes = np.bincount(codes, minlength=len(names))
    n_groups = int((sizes > 0).sum())
    if n_groups < n_parts:
        largest = f": the group {names[sizes.argmax()].item()!r} alone has {sizes.max()} of {len(codes)} images"
        raise ValueError(
            f"{n_groups} groups cannot fill {n_parts} parts without being divided{largest if n_groups else ''}"
        )


def one_hot(codes: Ints, n_classes: int) -> csr_array:
    """(n, n_classes) int64 with a 1 for each row's class."""
    n = len(codes)
    return csr_array((np.ones(n, dtype=np.int64), codes, np.arange(n + 1)), shape=(n, n_classes))


def label_matrix(labels: Any) -> csr_array:
    """Multi-label data as a sparse matrix.

    Parameters
    ----------
    labels
        (n, c) in {0, 1}, dense or scipy.sparse.

    Returns
    -------
    csr_array
        (n, c) int64, its indices sorted, without stored zeros.

    Raises
    ------
    ValueError
        When labels have another shape or other values.

    Examples
    --------
    >>> label_matrix([[0, 1], [1, 1]]).toarray().tolist()
    [[0, 1], [1, 1]]
    """
    given = labels if issparse(labels) else np.asarray(labels)
    if given.ndim != 2:
        raise ValueError(f"labels must have the shape (n, c), got {given.shape}")
    matrix = csr_array(given, copy=True) if issparse(given) else _sparse(given)
    matrix.sum_duplicates()
    wrong = np.flatnonzero((matrix.data != 0) & (matrix.data != 1))
    if len(wrong):
        rows = np.unique(np.searchsorted(matrix.indptr, wrong, side="right") - 1)
        raise ValueError(f"labels must be 0 or 1, but there are other values in rows {named(rows.tolist())}")
    matrix = matrix.astype(np.int64)
    matrix.eliminate_zeros()
    return matrix


def _sparse(dense: npt.NDArray[Any]) -> csr_array:
    """As csr_array(dense), which finds the row and column of each entry in a much slower way."""
    n, c = dense.shape
    at = np.flatnonzero(dense)
    ends = np.searchsorted(at, np.arange(n + 1) * c)
    return csr_array((dense.ravel()[at], at % max(c, 1), ends), shape=dense.shape)


def with_pairs(labels: csr_array) -> tuple[csr_array, Ints]:
    """The columns of `labels` and one for each two labels that occur together.

    Parameters
    ----------
    labels
        (n, c) in {0, 1}, its indices sorted.

    Returns
    -------
    matrix
        (n, c + p) for p pairs.
    pairs
        (p, 2) int64, columns of the two labels.

    Examples
    --------
    >>> matrix, pairs = with_pairs(label_matrix([[1, 0, 1], [1, 1, 0], [1, 0, 1]]))
    >>> matrix.toarray().tolist(), pairs.tolist()
    ([[1, 0, 1, 0, 1], [1, 1, 0, 1, 0], [1, 0, 1, 0, 1]], [[0, 1], [0, 2]])
    """
    n, c = labels.shape
    row = np.repeat(np.arange(n), np.diff(labels.indptr))
    n_after = labels.indptr[row + 1] - np.arange(labels.nnz) - 1  # labels of the same row to the right of each
    left = np.repeat(np.arange(labels.nnz), n_after)
    right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(n_after) - n_after, n_after)
    key = labels.indices[left].astype(np.int64) * c + labels.indices[right]
    pairs, column = np.unique(key, return_inverse=True)
    together = csr_array((np.ones(len(key), dtype=np.int64), (row[left], column)), shape=(n, len(pairs)))
    return csr_array(hstack([labels, together], format="csr")), np.stack(np.divmod(pairs, max(c, 1)), axis=1)


def numbered(codes: Ints) -> Ints:
    """Numbers in the order of the first rows, (n,) int64, so that they follow from a draw and not from names.

    Examples
    --------
    >>> numbered(np.array([7, 3, 7])).tolist()
    [0, 1, 0]
    """
    return _entry_codes(codes)[0]


def group_counts(labels: csr_array, group: Ints, n_groups: int) -> csr_array:
    """How often each label occurs in each group, (n_groups, c) int64."""
    counts = csr_array(one_hot(group, n_groups).T @ labels)
    counts.sort_indices()
    return counts
