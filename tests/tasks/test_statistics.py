"""Tests of a difference: against scipy and statsmodels, against published results, and by hand."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from deepsig import aso
from deepsig.aso import compute_violation_ratio
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from tasks.statistics import (
    almost_stochastic_order,
    apa_p,
    cohens_d,
    corrected_repeated_kfold_ttest,
    hedges_g,
    holm,
    independent_ttest,
    independent_ttest_from_stats,
    mann_whitney,
    mcnemar,
    paired_ttest,
    wilcoxon,
)

ALTERNATIVES = ("two-sided", "greater", "less")


def scores(seed: int, n: int = 20, shift: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(shift, 1, n), generator.normal(0, 1, n)


@pytest.mark.parametrize("alternative", ALTERNATIVES)
@pytest.mark.parametrize("seed", range(4))
def test_the_same_as_scipy(alternative: str, seed: int) -> None:
    a, b = scores(seed)
    for mine, theirs in (
        (independent_ttest(a, b, alternative=alternative), stats.ttest_ind(a, b, alternative=alternative)),  # type: ignore[arg-type]
        (paired_ttest(a, b, alternative=alternative), stats.ttest_rel(a, b, alternative=alternative)),  # type: ignore[arg-type]
        (wilcoxon(a, b, alternative=alternative), stats.wilcoxon(a, b, alternative=alternative)),  # type: ignore[arg-type]
        (mann_whitney(a, b, alternative=alternative), stats.mannwhitneyu(a, b, alternative=alternative)),  # type: ignore[arg-type]
    ):
        assert mine.statistic == pytest.approx(theirs.statistic)
        assert mine.pvalue == pytest.approx(theirs.pvalue)
        assert (mine.mean_a, mine.sd_b) == (pytest.approx(a.mean()), pytest.approx(b.std(ddof=1)))


def test_corrected_test_by_hand() -> None:
    # Two folds, twice: d = 1, 2, 3, 2, of mean 2 and variance 2/3; t = 2 / sqrt((1/4 + 1) * 2/3).
    found = corrected_repeated_kfold_ttest([2, 4, 6, 5], [1, 2, 3, 3], n_folds=2, n_repeats=2)
    assert found.statistic == pytest.approx(2 / sqrt(1.25 * 2 / 3))
    assert found.df == 3
    assert found.pvalue == pytest.approx(2 * stats.t.sf(found.statistic, 3))
    code = corrected_repeated_kfold_ttest([2, 4, 6, 5], [1, 2, 3, 3], n_folds=2, n_repeats=2, variant="case-study-code")
    assert code.statistic == pytest.approx(2 / sqrt((2 / 3) / (4 + 1)))


def test_corrected_test_with_two_hundred_values() -> None:
    a, b = scores(1, 200, 0.2)
    found = corrected_repeated_kfold_ttest(a, b, n_folds=20, n_repeats=10, alternative="greater")
    plain = paired_ttest(a, b, alternative="greater")
    assert found.df == 199
    assert found.statistic == pytest.approx(plain.statistic * sqrt((1 / 200) / (1 / 200 + 1 / 19)))
    assert found.pvalue > plain.pvalue
    assert found.apa().startswith("t(199) = ")


@pytest.mark.parametrize(
    ("a", "b", "t"),
    [
        # Published with rounded means: weakly balanced, F1, L0 against L50: t(18) = -12.003.
        ((0.355, 0.015), (0.429, 0.013), -12.003),
    ],
)
def test_published_values_within_their_rounding(a: tuple[float, float], b: tuple[float, float], t: float) -> None:
    found = independent_ttest_from_stats(*a, 10, *b, 10)
    corners = [
        independent_ttest_from_stats(
            a[0] + s * 5e-4, a[1] + u * 5e-4, 10, b[0] - s * 5e-4, b[1] + u * 5e-4, 10
        ).statistic
        for s in (-1, 1)
        for u in (-1, 1)
    ]
    assert min(corners) <= t <= max(corners)
    assert found.df == 18
    assert found.apa() == f"t(18) = {found.statistic:.2f}, p < .001"
    assert found.means() == "M = .355, SD = .015; M = .429, SD = .013"


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60))
def test_mcnemar_is_that_of_statsmodels(pairs: list[tuple[bool, bool]]) -> None:
    a, b = np.array(pairs).T
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    found = mcnemar(a, b)
    if (a != b).any():
        expected = statsmodels_mcnemar(table, exact=True)
        assert found.pvalue == pytest.approx(expected.pvalue)
        assert found.statistic == expected.statistic
    else:
        assert found.pvalue == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
@settings(max_examples=15)  # statsmodels takes 50 ms
def test_holm_is_that_of_statsmodels(pvalues: list[float]) -> None:
    np.testing.assert_allclose(holm(pvalues), multipletests(pvalues, method="holm")[1])


def test_effect_sizes_by_hand() -> None:
    assert cohens_d([1, 2, 3, 4], [3, 4, 5, 6]) == pytest.approx(-2 / sqrt(5 / 3))
    assert hedges_g([1, 2, 3, 4], [3, 4, 5, 6]) == pytest.approx(-2 / sqrt(5 / 3) * (1 - 3 / 23))
    # Of the ranks 1, 2, 3 of the differences 1, -2, 3, those above zero have 4 of 6: 4/6 - 2/6.
    assert wilcoxon([2, 1, 5], [1, 3, 2]).effect_size == pytest.approx(1 / 3)
    assert mann_whitney([3, 4], [1, 2]).effect_size == 1
    assert paired_ttest([2, 4, 6], [1, 2, 3]).effect_size == pytest.approx(2)


def test_almost_stochastic_order() -> None:
    """Violations worked out by hand, and bounds that hold."""
    generator = np.random.default_rng(0)
    low, high = generator.normal(0, 1, 40), generator.normal(3, 1, 40)
    assert almost_stochastic_order(high, low).statistic < 0.05
    assert almost_stochastic_order(low, high).statistic == 1
    assert almost_stochastic_order(low, low, confidence_level=0.5).statistic == pytest.approx(0.5, abs=1e-9)
    # Quantiles 0, 3 against 1, 1: of the squared distances 1 and 4 the first is a violation.
    assert almost_stochastic_order([0, 3], [1, 1], confidence_level=0.5).statistic == pytest.approx(1 / 5)
    unequal = almost_stochastic_order([0, 3], [1, 1, 1, 1, 1], confidence_level=0.5)
    assert unequal.statistic == pytest.approx(1 / 5)
    assert unequal.apa() == "ε = 0.20"
    one, other = (almost_stochastic_order(high, low + 2.5, seed=3).statistic for _ in range(2))
    assert one == other > almost_stochastic_order(high, low + 2.5, confidence_level=0.5).statistic


def test_p_values_as_apa_prints_them() -> None:
    assert [apa_p(p) for p in (0.1066, 0.05, 0.001, 0.00099, 1.0, 0.9996)] == [
        "p = .107",
        "p = .050",
        "p = .001",
        "p < .001",
        "p = 1.000",
        "p = 1.000",
    ]


def test_scores_that_do_not_vary() -> None:
    same = paired_ttest([1, 2, 3], [1, 2, 3])
    assert same.pvalue == 1
    assert np.isnan(same.statistic)
    always = paired_ttest([2, 3, 4], [1, 2, 3])
    assert (always.statistic, always.pvalue) == (np.inf, 0)
    with pytest.raises(ValueError, match="nothing to rank"):
        wilcoxon([1, 2], [1, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: independent_ttest([1], [1, 2]), "two scores or more"),
        (lambda: paired_ttest([1, 2, 3], [1, 2]), "paired scores must be as many, got 3 and 2"),
        (lambda: independent_ttest([1, np.nan], [1, 2]), "1 scores are NaN or infinite"),
        (
            lambda: corrected_repeated_kfold_ttest([1, 2], [1, 3], n_folds=2, n_repeats=2),
            "give 4 scores of each, got 2",
        ),
        (lambda: mcnemar([0.5, 1], [1, 0]), "right and wrong answers"),
        (lambda: holm([0.5, 1.5]), "numbers from 0 to 1"),
        (lambda: paired_ttest([1, 2], [1, 3], alternative="more"), "alternative must be one of"),  # type: ignore[arg-type]
    ],
)
def test_what_is_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_stochastic_order_is_that_of_deepsig() -> None:
    a, b = scores(0, n=10)
    # Without the bootstrap, the estimate itself: deepsig's is a sum over steps, ours exact.
    ratio = compute_violation_ratio(a, b, dt=1e-5)
    alone = almost_stochastic_order(a, b, confidence_level=0.5)
    assert alone.statistic == pytest.approx(ratio, abs=1e-3)
    theirs = aso(a, b, num_bootstrap_iterations=300, show_progress=False, seed=0)
    assert almost_stochastic_order(a, b).statistic == pytest.approx(theirs, abs=0.05)
