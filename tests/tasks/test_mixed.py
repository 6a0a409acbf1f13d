from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from tasks.metrics.mixed import MixedScores, mixed_scores


def by_definition(truth: list[int], predicted: list[int], region: list[int]) -> MixedScores:
    """The formulas of the study, class by class and image by image."""
    precisions, recalls, f1s = [], [], []
    classes = sorted(set(truth) | set(predicted))
    pairs = list(zip(truth, predicted, strict=True))
    for c in classes:
        credit = sum(t == p == c for t, p in pairs)
        credit += sum(t == c != p and region[p] == region[c] for t, p in pairs) / 2
        false_positive = sum(p == c != t for t, p in pairs)
        false_negative = sum(t == c != p and region[p] != region[c] for t, p in pairs)
        precision = credit / (credit + false_positive) if credit + false_positive else 0.0
        recall = credit / (credit + false_negative) if credit + false_negative else 0.0
        precisions.append(precision)
        recalls.append(recall)
        f1s.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    p, r = sum(precisions) / len(classes), sum(recalls) / len(classes)
    harmonic = 2 * p * r / (p + r) if p + r else 0.0
    return MixedScores(p, r, sum(f1s) / len(classes), harmonic, len(set(truth) - set(predicted)))


cases = st.integers(1, 6).flatmap(
    lambda n_classes: st.tuples(
        st.lists(st.tuples(*[st.integers(0, n_classes - 1)] * 2), min_size=1, max_size=30),
        st.lists(st.integers(0, 3), min_size=n_classes, max_size=n_classes),
    )
)


def test_worked_example_of_the_study() -> None:
    a, b, d = 0, 1, 2
    scores = mixed_scores([a, a, a, b, d], [a, b, d, b, d], region=[0, 0, 1])
    assert scores.precision == pytest.approx(2 / 3)
    assert scores.recall == pytest.approx(0.866667, abs=1e-6)
    assert scores.f1 == pytest.approx(0.694444, abs=1e-6)
    assert scores.f1_harmonic == pytest.approx(0.753623, abs=1e-6)
    assert scores.missed == 0


@given(cases)
def test_agrees_with_the_definition(case: tuple[list[tuple[int, int]], list[int]]) -> None:
    pairs, region = case
    truth, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    found, wanted = mixed_scores(truth, predicted, region), by_definition(truth, predicted, region)
    assert vars(found) == pytest.approx(vars(wanted))


@given(cases)
def test_without_regions_it_is_scikit_learns_macro_average(case: tuple[list[tuple[int, int]], list[int]]) -> None:
    pairs, region = case
    truth, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    scores = mixed_scores(truth, predicted, region=np.arange(len(region)))
    wanted = precision_recall_fscore_support(truth, predicted, average="macro", zero_division=0)[:3]
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx(wanted)


def test_missed_counts_classes_that_were_never_predicted() -> None:
    assert mixed_scores([0, 1, 2], [0, 0, 0], region=[0, 0, 1]).missed == 2


@pytest.mark.parametrize(
    ("truth", "predicted", "region", "message"),
    [
        ([0, 1], [0], [0, 0], "equally long"),
        ([], [], [0], "equally long"),
        ([0, 2], [0, 0], [0, 0], "region covers 0 to 1"),
        ([0, -1], [0, 0], [0, 0], "reach from -1"),
    ],
)
def test_wrong_input_is_refused(truth: list[int], predicted: list[int], region: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixed_scores(truth, predicted, region)
