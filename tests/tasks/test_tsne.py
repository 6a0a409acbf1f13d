from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import silhouette_score

from tasks.report.tsne import tsne_points

QUICK = 250  # iterations: the fewest that scikit-learn takes


def clusters(n: int = 200, dimensions: int = 60) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """L2-normalised vectors about four directions, and which."""
    generator = np.random.default_rng(7)
    own = np.arange(n) % 4
    vectors = generator.normal(size=(4, dimensions))[own] + 0.3 * generator.normal(size=(n, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), own


def test_clusters_lie_apart() -> None:
    vectors, own = clusters()
    result = tsne_points(vectors, seed=1, max_iter=QUICK)
    assert result.rows.tolist() == list(range(200))
    assert result.rows.dtype == np.int64
    assert result.points.shape == (200, 2)
    assert result.points.dtype == np.float32
    assert silhouette_score(result.points, own) > 0.5


def test_same_input_and_seed_same_bytes() -> None:
    vectors, _ = clusters(100)
    first, again = (tsne_points(vectors, seed=3, max_iter=QUICK, max_points=60) for _ in range(2))
    assert first.points.tobytes() == again.points.tobytes()
    assert first.rows.tobytes() == again.rows.tobytes()


def test_rows_are_drawn_by_the_seed() -> None:
    vectors, _ = clusters(100)
    drawn = [tsne_points(vectors, seed=seed, max_iter=QUICK, max_points=30).rows for seed in (1, 2)]
    for rows in drawn:
        assert len(rows) == 30
        assert np.array_equal(rows, np.unique(rows))
        assert rows.max() < 100
    assert not np.array_equal(*drawn)


def test_half_precision_and_few_rows_are_enough() -> None:
    vectors, _ = clusters(5)
    points = tsne_points(vectors.astype(np.float16), seed=1, max_iter=QUICK).points
    assert points.shape == (5, 2)
    assert np.isfinite(points).all()


def test_input_without_a_map_is_refused() -> None:
    vectors, _ = clusters(8)
    with pytest.raises(ValueError, match="5 rows or more, got 4"):
        tsne_points(vectors[:4], seed=1)
    with pytest.raises(ValueError, match="5 rows or more, got 3"):
        tsne_points(vectors, seed=1, max_points=3)
    with pytest.raises(ValueError, match="two columns"):
        tsne_points(vectors[:, :1], seed=1)
    with pytest.raises(ValueError, match="all rows are the same"):
        tsne_points(np.ones((9, 4)), seed=1)
    with pytest.raises(ValueError, match="NaN"):
        tsne_points(np.where(np.eye(8, 60) > 0, np.nan, vectors), seed=1)
