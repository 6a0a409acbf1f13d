"""Intervals of all metrics at once: against the plain loop over resamples."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from tasks.metrics.accuracy import share_interval
from tasks.metrics.bootstrap import Bootstrap
from tasks.metrics.mixed import class_scores, mixed_scores

REGION = np.array([0, 0, 1, 1, 2])


def labels(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 4, n)
    predicted = np.where(generator.random(n) < 0.5, truth, generator.integers(0, 5, n))
    return truth, predicted, generator.integers(0, 20, n) * 7


@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_scoring_every_resample(seed: int) -> None:
    truth, predicted, groups = labels(seed)
    found = Bootstrap(groups, n_resamples=230, seed=9).mixed(truth, predicted, REGION)
    names = np.unique(groups)
    generator = np.random.default_rng(9)
    scores = []
    for _ in range(230):
        drawn = names[generator.integers(len(names), size=len(names))]
        rows = np.concatenate([np.flatnonzero(groups == each) for each in drawn])
        scores.append(asdict(mixed_scores(truth[rows], predicted[rows], REGION)))
    for metric, interval in found.items():
        wanted = np.quantile([each[metric] for each in scores], [0.025, 0.975])
        np.testing.assert_allclose(interval, wanted, atol=1e-12)


def test_shares_are_those_of_share_interval() -> None:
    truth, predicted, groups = labels(0)
    bootstrap = Bootstrap(groups, n_resamples=300, seed=4)
    assert bootstrap.share(truth == predicted) == share_interval(truth == predicted, groups, n_resamples=300, seed=4)


def test_groups_widen_the_interval() -> None:
    # Ten copies of each image tell no more than one.
    truth, predicted, _ = labels(1)
    many = np.repeat(truth == predicted, 10)
    by_place = Bootstrap(np.repeat(np.arange(60), 10), n_resamples=500, seed=0).share(many)
    by_image = Bootstrap(np.arange(600), n_resamples=500, seed=0).share(many)
    assert by_place[1] - by_place[0] > 2 * (by_image[1] - by_image[0])


def test_counts_by_class_by_hand() -> None:
    # The worked example: truth A A A B D, predicted A B D B D, regions of A, B and of D.
    found = class_scores([0, 0, 0, 1, 2], [0, 1, 2, 1, 2], [0, 0, 1])
    assert found.tp.tolist() == [1, 1, 1]
    assert found.atp.tolist() == [1, 0, 0]
    assert found.fp.tolist() == [0, 1, 1]
    assert found.fn.tolist() == [1, 0, 0]
    np.testing.assert_allclose(found.f1, [0.75, 2 / 3, 2 / 3])
    np.testing.assert_allclose(found.recall, [0.6, 1, 1])
