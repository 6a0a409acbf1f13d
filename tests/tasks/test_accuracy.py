from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from tasks.metrics.accuracy import region_hits, share_interval, top_k_hits


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_agrees_with_scikit_learn(k: int) -> None:
    generator = np.random.default_rng(k)
    truth, scores = generator.integers(0, 12, 500), generator.random((500, 12))
    assert top_k_hits(truth, scores, k).mean() == top_k_accuracy_score(truth, scores, k=k, labels=range(12))


def test_top_1_breaks_ties_as_argmax_does() -> None:
    scores = np.random.default_rng(0).integers(0, 3, (200, 6)).astype(float)
    truth = np.random.default_rng(1).integers(0, 6, 200)
    np.testing.assert_array_equal(top_k_hits(truth, scores, 1), scores.argmax(axis=1) == truth)


def test_region_hits() -> None:
    region = np.array([0, 0, 1])
    assert region_hits(np.array([0, 0, 2]), np.array([1, 2, 2]), region).tolist() == [True, False, True]


def test_interval_covers_the_true_share_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        hits = generator.random(150) < 0.3
        low, high = share_interval(hits, np.arange(150), n_resamples=300, seed=seed)
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 198


def test_interval_of_whole_groups_is_wider_than_of_images() -> None:
    hits = np.repeat(np.random.default_rng(0).random(40) < 0.5, 10)
    groups = np.repeat(np.arange(40), 10)
    narrow, wide = share_interval(hits, np.arange(400)), share_interval(hits, groups)
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert share_interval(hits, groups, seed=3) == share_interval(hits, groups, seed=3)
