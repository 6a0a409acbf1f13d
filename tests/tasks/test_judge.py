"""Rules put to the test on pairs that they were not fitted to."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import precision_score, recall_score

from tasks.dedup import judge as module
from tasks.dedup.judge import judge
from tasks.dedup.threshold import DuplicateModel, fit_thresholds

PROBABILITIES = (0.01, 0.99)


def labelled(n: int, seed: int, slope: float = 200.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    cosine = generator.uniform(0.85, 1.0, n)
    return cosine, generator.random(n) < expit(slope * (cosine - 0.95))


def test_constants_are_judged_as_scikit_learn_does() -> None:
    cosine, duplicate = labelled(500, 0)
    rules = {rule.name: rule for rule in judge(cosine, duplicate, probabilities=PROBABILITIES, seed=0).rules}
    for constant in (0.90, 0.94, 0.96):
        rule = rules[f"constant {constant:.2f}"]
        assert rule.precision == pytest.approx(precision_score(duplicate, cosine >= constant))
        assert rule.recall == pytest.approx(recall_score(duplicate, cosine >= constant))


def test_fitted_rules_reach_what_their_probabilities_promise() -> None:
    cosine, duplicate = labelled(4000, 1)
    judgement = judge(cosine, duplicate, probabilities=PROBABILITIES, seed=0)
    rules = {rule.name: rule for rule in judgement.rules}
    # Of the pairs below `suspected` under 1 % are duplicates, and of those from `certain` on over 99 %.
    assert rules["fitted, suspected"].recall > 0.99
    assert (rules["fitted, certain"].precision or 0) > 0.99
    assert rules["fitted, suspected"].cosine == pytest.approx(0.927, abs=0.004)
    assert rules["fitted, certain"].cosine == pytest.approx(0.973, abs=0.004)
    assert sum(each.n for each in judgement.calibration) == 4000
    for each in judgement.calibration:
        assert each.share == pytest.approx(each.probability, abs=4 * np.sqrt(0.25 / each.n))


def test_every_pair_is_held_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cosine, duplicate = labelled(203, 3)
    assert len(set(cosine)) == 203
    fitted_to: list[set[float]] = []

    def recorded(x: np.ndarray, y: np.ndarray, **given: object) -> DuplicateModel:
        fitted_to.append(set(x.tolist()))
        return fit_thresholds(x, y, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "fit_thresholds", recorded)
    judgement = judge(cosine, duplicate, probabilities=PROBABILITIES, seed=0)
    assert len(judgement.rules) == 5
    held_out = [set(cosine.tolist()) - each for each in fitted_to]
    assert [len(each) for each in held_out] == [41, 41, 41, 40, 40]
    assert set.union(*held_out) == set(cosine.tolist())


@pytest.mark.parametrize("n_duplicates", [0, 3, 4])
def test_too_few_to_hold_some_out(n_duplicates: int) -> None:
    cosine = np.linspace(0.8, 1.0, 30)
    judgement = judge(cosine, np.arange(30) >= 30 - n_duplicates, probabilities=PROBABILITIES, seed=0)
    assert judgement.rules == judgement.calibration == ()


def test_the_same_seed_the_same_judgement() -> None:
    cosine, duplicate = labelled(300, 2)
    one, other, third = (judge(cosine, duplicate, probabilities=PROBABILITIES, seed=seed) for seed in (1, 1, 2))
    assert one == other != third
