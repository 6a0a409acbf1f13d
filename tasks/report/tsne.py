"""t-SNE maps of embeddings, the same bytes on every machine of the same libraries.

Source: van der Maaten & Hinton 2008; Barnes-Hut gradients as in van der Maaten 2014, from scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

_FEWEST = 5


@dataclass(frozen=True)
class TsneResult:
    """A map of some rows.

    Attributes
    ----------
    rows
        The rows that were drawn, (m,) int64, sorted.
    points
        Their places on the map, (m, 2) float32. The axes have no units.
    """

    rows: npt.NDArray[np.int64]
    points: npt.NDArray[np.float32]


def tsne_points(
    vectors: npt.NDArray[np.floating],
    *,
    max_points: int = 50_000,
    seed: int,
    perplexity: float = 30.0,
    max_iter: int = 1000,
    pca_dimensions: int = 50,
) -> TsneResult:
    """Places on a plane at which near vectors lie together.

    Everything runs in one thread: sums over threads are added up in any order, and t-SNE makes another map of a
    different last bit.

    Parameters
    ----------
    vectors
        (n, d) floating, d at least 2. Distances are Euclidean, which for L2-normalised embeddings orders as the cosine.
    max_points
        So many rows are drawn at random, without replacement, where there are more.
    seed
        Of the draw and of the map.
    perplexity
        About the number of neighbours that a point is kept near to; lowered to a third of the other points.
    max_iter
        Steps of the optimisation, at least 250.
    pca_dimensions
        Vectors with more dimensions are first brought down to so many.

    Returns
    -------
    TsneResult

    Raises
    ------
    ValueError
        When `vectors` is not a matrix of two columns or more, fewer than 5 rows would be drawn, all rows are the
        same, or a number is not finite.
    """
    given = np.asarray(vectors)
    if given.ndim != 2 or given.shape[1] < 2:
        raise ValueError(f"vectors must be a matrix of two columns or more, got {given.shape}")
    rows = _drawn(len(given), max_points, seed)
    if len(rows) < _FEWEST:
        raise ValueError(f"a map needs {_FEWEST} rows or more, got {len(rows)}")
    chosen = given[rows].astype(np.float32)
    if (chosen == chosen[0]).all():  # scikit-learn's process would die of it
        raise ValueError("all rows are the same: there is no map of them")
    tsne = TSNE(
        perplexity=min(perplexity, (len(rows) - 1) / 3),
        max_iter=max_iter,
        metric="euclidean",
        init="pca",
        random_state=seed,
    )
    with threadpool_limits(limits=1):
        points = tsne.fit_transform(_fewer_dimensions(chosen, pca_dimensions, seed))
    return TsneResult(rows, np.asarray(points, dtype=np.float32))


def _drawn(n: int, max_points: int, seed: int) -> npt.NDArray[np.int64]:
    if n <= max_points:
        return np.arange(n, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(n, size=max_points, replace=False)).astype(np.int64)


def _fewer_dimensions(vectors: npt.NDArray[np.float32], wanted: int, seed: int) -> npt.NDArray[np.float32]:
    """The first principal components: the search for neighbours compares all pairs, and its time follows d."""
    n_components = min(wanted, vectors.shape[1], len(vectors) - 1)
    if vectors.shape[1] <= n_components:
        return vectors
    return np.asarray(PCA(n_components, random_state=seed).fit_transform(vectors), dtype=np.float32)
