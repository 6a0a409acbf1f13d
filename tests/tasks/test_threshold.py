from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from scipy.stats import mannwhitneyu
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from statsmodels.discrete.discrete_model import Logit

from tasks.dedup.logistic import maximise, needs_firth
from tasks.dedup.threshold import DuplicateModel, _resamples, cosine_at, fit_thresholds

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
TRUTH = {"intercept": -190.0, "slope": 200.0}


def simulated(seed: int, n: int, *, intercept: float = -190.0, slope: float = 200.0) -> tuple[Floats, Bools]:
    generator = np.random.default_rng(seed)
    x = generator.uniform(0.85, 1, n)
    return x, generator.random(n) < expit(intercept + slope * x)


def noisy(seed: int, n: int) -> tuple[Floats, Bools]:
    """Labels that follow the cosine loosely, so that the sets overlap even where they are small."""
    return simulated(seed, n, intercept=-37.0, slope=40.0)


def penalised(x: Floats, y: Bools) -> Callable[[Floats], float]:
    """Minus log L - ½ log det I, from the textbook matrices."""
    X = np.stack([np.ones_like(x), x], axis=1)

    def loss(beta: Floats) -> float:
        eta = X @ beta
        information = X.T @ (X * (expit(eta) * expit(-eta))[:, None])
        return float(-log_expit(np.where(y, eta, -eta)).sum() - 0.5 * np.linalg.slogdet(information)[1])

    return loss


def test_worked_example() -> None:
    np.testing.assert_allclose(cosine_at([0.01, 0.5, 0.99], **TRUTH), [0.927024, 0.95, 0.972976], atol=5e-7)


@pytest.mark.parametrize("n", [60, 200, 2000])
@pytest.mark.parametrize("seed", range(3))
def test_maximum_likelihood_is_that_of_statsmodels(seed: int, n: int) -> None:
    x, y = noisy(seed, n)
    model = fit_thresholds(x, y, n_resamples=5)
    reference = Logit(y.astype(float), np.stack([np.ones(n), x], axis=1)).fit(method="newton", tol=1e-9, disp=False)
    np.testing.assert_allclose([model.intercept, model.slope], reference.params, rtol=1e-8)
    np.testing.assert_allclose(model.probability(x), reference.predict(), rtol=1e-8)
    np.testing.assert_allclose([model.suspected, model.certain], cosine_at([0.01, 0.99], **vars_of(model)), rtol=1e-9)
    assert (model.separable, model.n) == (False, n)


def vars_of(model: DuplicateModel) -> dict[str, float]:
    return {"intercept": model.intercept, "slope": model.slope}


def test_each_resample_is_fitted_as_if_alone() -> None:
    x, y = (each[np.argsort(noisy(0, 40)[0])] for each in noisy(0, 40))
    counts = np.concatenate(list(_resamples(40, 30, np.random.default_rng(0))))
    assert (counts.sum(axis=1) == 40).all()
    fits = maximise(x, np.where(y, 1.0, -1.0), counts, np.zeros((30, 2)), firth=False)
    for count, fit in zip(counts.astype(int), fits, strict=True):
        X = np.stack([np.ones(40), x], axis=1).repeat(count, axis=0)
        reference = Logit(y.repeat(count).astype(float), X).fit(method="newton", tol=1e-9, disp=False)
        np.testing.assert_allclose(fit, reference.params, rtol=1e-7)


@pytest.mark.parametrize("gap", [0.0, 0.001, 0.02, 0.1])
@pytest.mark.parametrize("seed", range(4))
def test_firth_is_the_maximum_of_the_penalised_likelihood(seed: int, gap: float) -> None:
    generator = np.random.default_rng(seed)
    # Gap 0 is quasi-complete: the classes share one cosine.
    x = np.concatenate([generator.uniform(0.5, 0.8, 12), [0.8, 0.8 + gap], generator.uniform(0.8 + gap, 1, 7)])
    y = np.arange(21) >= 13
    model = fit_thresholds(x, y, n_resamples=5)
    assert model.separable
    centre, scale = x.mean(), x.std()
    loss = penalised((x - centre) / scale, y)
    found = [
        minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000})
        for start in ((0.0, 1.0), (-5.0, 10.0))
    ]
    best = min(found, key=lambda each: float(each.fun))
    ours = np.array([model.intercept + model.slope * centre, model.slope * scale])
    assert loss(ours) <= best.fun + 1e-9
    np.testing.assert_allclose(ours, best.x, rtol=1e-5)


def test_firth_is_the_highest_of_several_maxima() -> None:
    # Cosines that crowd near 1, as those of copies do: from slope 0 alone, a lower maximum is found in some sets.
    lower = 0
    for seed in range(6):
        generator = np.random.default_rng(seed)
        x = np.sort(1 - generator.exponential(np.where(generator.random(30) < 0.5, 1e-4, 0.1)).clip(0, 1))
        y = np.arange(30) >= generator.integers(10, 25)
        model = fit_thresholds(x, y, n_resamples=5)
        centre, scale = x.mean(), x.std()
        z, middle = (x - centre) / scale, (x[~y].max() + x[y].min() - 2 * centre) / 2 / scale
        loss = penalised(z, y)
        ours = loss(np.array([model.intercept + model.slope * centre, model.slope * scale]))
        with np.errstate(invalid="ignore"):  # infinite where all information underflows
            found = [
                minimize(loss, (-slope * middle, slope), method="Nelder-Mead", options={"fatol": 1e-9}).fun
                for slope in (1.0, 30.0, 1000.0, 30_000.0)
            ]
        assert ours <= min(found) + 1e-6
        from_zero = maximise(z, np.where(y, 1.0, -1.0), np.ones((1, 30)), np.zeros((1, 2)), firth=True)[0]
        lower += loss(from_zero) > ours + 0.01
    assert lower > 0


@pytest.mark.parametrize("table", [((9, 0), (0, 6)), ((9, 0), (2, 6)), ((7, 4), (0, 5)), ((30, 0), (0, 3))])
def test_firth_of_two_cosines_adds_a_half_to_each_cell(table: tuple[tuple[int, int], tuple[int, int]]) -> None:
    # With as many coefficients as cosines the penalty is half a pair in each cell (Firth 1993, §4).
    x = np.repeat([0.6, 0.6, 0.9, 0.9], np.ravel(table))
    y = np.repeat([False, True, False, True], np.ravel(table))
    model = fit_thresholds(x, y, n_resamples=5)
    expected = [np.log((duplicates + 0.5) / (others + 0.5)) for others, duplicates in table]
    assert model.separable
    np.testing.assert_allclose(model.intercept + model.slope * np.array([0.6, 0.9]), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("others", "duplicates", "separable"),
    [
        ([0.5, 0.6, 0.7], [0.8, 0.9, 1.0], True),
        ([0.5, 0.6, 0.8], [0.8, 0.9, 1.0], True),  # quasi-complete
        ([0.5, 0.6, np.nextafter(0.8, 1)], [0.8, 0.9, 1.0], False),  # overlap by the last bit
        ([0.5, 0.6, 0.85], [0.8, 0.9, 1.0], False),
    ],
)
def test_separation_is_told_exactly(others: list[float], duplicates: list[float], separable: bool) -> None:
    x, y = np.array(2 * others + 2 * duplicates), np.repeat([0, 1], 6)
    model = fit_thresholds(x, y, n_resamples=50)
    assert model.separable is separable
    assert np.isfinite([model.intercept, model.slope, model.suspected, model.certain]).all()
    # Every resample of separable pairs is separable, or of one class.
    assert (model.n_resamples_firth == model.n_resamples == 50) or not separable


def test_resamples_that_maximum_likelihood_cannot_fit_are_counted() -> None:
    x, y = np.linspace(0.8, 1, 20), np.arange(20) >= 12
    y[[11, 12]] = True, False  # without one of these two, separable
    model = fit_thresholds(x, y, n_resamples=400)
    assert not model.separable
    assert 200 < model.n_resamples_firth < 320  # 1 - (1 - 1/e)² = 60 %, and some of one class
    counts = np.array([[1.0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1]])
    labels = np.array([False, True, False, True])
    assert needs_firth(np.array([0.6, 0.7, 0.8, 0.9]), labels, counts).tolist() == [True, True, False, True]


def test_labels_that_hardly_follow_the_cosine_leave_the_thresholds_unbounded() -> None:
    generator = np.random.default_rng(3)
    x, y = generator.uniform(0.5, 1, 40), generator.random(40) < 0.5
    y = y if np.corrcoef(x, y)[0, 1] > 0 else ~y
    model = fit_thresholds(x, y, n_resamples=200)
    assert model.n_resamples_undefined > 10
    assert model.interval_suspected[0] == -np.inf
    assert model.interval_certain[1] == np.inf
    assert model.certain > 1  # not clipped: nothing is a duplicate


def test_differences_that_are_next_to_nothing_count_as_none_for_firth() -> None:
    x = np.array([0.2] * 9 + [0.9, 0.9 + 1e-9, 0.9 + 2e-9, 0.9 + 3e-9])
    model = fit_thresholds(x, np.arange(13) >= 10, n_resamples=300)
    assert model.separable
    np.testing.assert_allclose(model.probability([0.2, 0.9]), [0.5 / 10, 3.5 / 5], rtol=1e-6)
    assert 0 < model.n_resamples_undefined < 15  # of 9 in 13 equal cosines, a resample may hold nothing else


def test_a_resample_without_the_pairs_that_decide_the_fit_is_fitted_all_the_same() -> None:
    # A slope of about 10⁹, at which the pairs at 0.2 and 0.3 carry no information; some resamples hold no others.
    x = np.concatenate([np.repeat([0.2, 0.3], 28), 0.9 + 1e-9 * np.arange(5)])
    model = fit_thresholds(x, np.isin(np.arange(61), [57, 59, 60]), n_resamples=1000)
    assert model.slope > 1e8
    np.testing.assert_allclose([model.suspected, model.certain], 0.9, atol=1e-7)
    assert model.n_resamples_undefined > 0


def test_cosines_a_float32_bit_apart_converge() -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        x = np.float32(1) - generator.integers(0, 6, 30).astype(np.float32) * np.float32(2**-24)
        x[:10] = generator.uniform(0.5, 0.9, 10)
        y = generator.random(30) < expit(5 * (x.argsort().argsort() / 30 - 0.5) * 3)
        model = fit_thresholds(x, y, n_resamples=50, seed=seed)
        assert model.suspected < model.certain


def test_known_parameters_are_recovered_and_the_interval_covers_them_about_as_often_as_it_says() -> None:
    truth = cosine_at([0.01, 0.99], **TRUTH)
    covered, errors = np.zeros(2), []
    for seed in range(60):
        model = fit_thresholds(*simulated(seed, 600), n_resamples=200, seed=seed)
        for threshold, (low, high) in enumerate((model.interval_suspected, model.interval_certain)):
            covered[threshold] += low <= truth[threshold] <= high
        errors.append([model.suspected, model.certain] - truth)
    assert (covered >= 50).all()
    assert (covered <= 60).all()
    assert covered.sum() < 120
    assert np.abs(np.mean(errors, axis=0)).max() < 0.001
    large = fit_thresholds(*simulated(0, 40_000), n_resamples=10)
    np.testing.assert_allclose([large.suspected, large.certain], truth, atol=0.001)
    np.testing.assert_allclose(large.slope, 200, rtol=0.03)


def test_interval_narrows_with_the_root_of_the_number_of_pairs() -> None:
    widths = []
    for n in (500, 8000):
        low, high = fit_thresholds(*simulated(1, n), n_resamples=200).interval_certain
        widths.append(high - low)
    assert 2.5 < widths[0] / widths[1] < 6


def test_auc_counts_ties_half() -> None:
    x, y = noisy(4, 300)
    x = x.round(2)
    auc = fit_thresholds(x, y, n_resamples=5).auc
    assert auc == pytest.approx(roc_auc_score(y, x), abs=1e-12)
    assert auc == pytest.approx(mannwhitneyu(x[y], x[~y]).statistic / (y.sum() * (~y).sum()), abs=1e-12)


def test_scikit_learns_default_ridge_ruins_the_slope() -> None:
    x, y = simulated(0, 1000)
    ridge = LogisticRegression().fit(x[:, None], y)
    model = fit_thresholds(x, y, n_resamples=5)
    assert ridge.coef_[0, 0] < 0.2 * model.slope
    low, high = cosine_at([0.01, 0.99], intercept=ridge.intercept_[0], slope=ridge.coef_[0, 0])
    assert high - low > 5 * (model.certain - model.suspected)
    unpenalised = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(x[:, None], y)
    assert unpenalised.coef_[0, 0] == pytest.approx(model.slope, rel=1e-3)


def test_probability_keeps_the_shape_and_reaches_the_asked_at_the_thresholds() -> None:
    model = fit_thresholds(*noisy(0, 100), probabilities=(0.2, 0.7), n_resamples=5)
    assert model.probabilities == (0.2, 0.7)
    np.testing.assert_allclose(model.probability([[model.suspected], [model.certain]]), [[0.2], [0.7]], rtol=1e-9)
    assert model.probability(0.9).shape == ()
    assert model.probability(np.float32([0.9])).dtype == np.float64


pairs = st.lists(st.tuples(st.integers(-100, 100), st.booleans()), min_size=10, max_size=60)


def fit_or_error(x: Floats, y: Bools, seed: int = 0) -> DuplicateModel | str:
    try:
        return fit_thresholds(x, y, n_resamples=20, seed=seed)
    except ValueError as error:
        return str(error)


@settings(max_examples=60)
@given(pairs, st.randoms(use_true_random=False))
def test_order_of_pairs_does_not_matter(labelled: list[tuple[int, bool]], random: object) -> None:
    x, y = np.array([x / 100 for x, _ in labelled]), np.array([label for _, label in labelled])
    order = np.array(random.sample(range(len(x)), len(x)))  # type: ignore[attr-defined]
    first, other = fit_or_error(x, y), fit_or_error(x[order], y[order].astype(int))
    assert first == other or (isinstance(first, str) and isinstance(other, str))


@settings(max_examples=60)
@given(pairs)
def test_thresholds_are_ordered_and_flipped_cosines_are_refused(labelled: list[tuple[int, bool]]) -> None:
    x, y = np.array([x / 100 for x, _ in labelled]), np.array([label for _, label in labelled])
    model = fit_or_error(x, y)
    if isinstance(model, str):
        return
    assert model.slope > 0
    assert model.suspected < model.certain
    for low, high in (model.interval_suspected, model.interval_certain):
        assert low <= high
    with pytest.raises(ValueError, match="not more often duplicates"):
        fit_thresholds(-x, y)
    with pytest.raises(ValueError, match="not more often duplicates"):
        fit_thresholds(x, ~y)


def test_same_seed_same_numbers() -> None:
    x, y = noisy(0, 100)
    assert fit_thresholds(x, y, seed=3) == fit_thresholds(x, y, seed=3)
    assert fit_thresholds(x, y, seed=3).interval_certain != fit_thresholds(x, y, seed=4).interval_certain
    assert fit_thresholds(x, y, seed=3).certain == fit_thresholds(x, y, seed=4).certain


X, Y = noisy(0, 50)
FOURTH = np.arange(50) == 3


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X[:9], Y[:9], "9 labelled pairs.*label more, at least 10 pairs"),
        (X, np.arange(50) < 2, "50 labelled pairs, 2 of them duplicates: label more"),
        (X, np.arange(50) >= 2, "3 others"),
        (X, np.ones(50), "50 of them duplicates"),
        (X, np.zeros(50), "0 of them duplicates"),
        ([], [], "0 labelled pairs"),
        (np.where(FOURTH, np.nan, X), Y, "1 cosines are not finite"),
        (np.where(FOURTH, np.inf, X), Y, "not finite"),
        (np.where(FOURTH, 1.00001, X), Y, "cosine 1.00001 is outside -1 … 1"),
        (np.where(FOURTH, -1.5, X), Y, "cosine -1.5 is outside"),
        (X[1:], Y, r"shape \(49,\), but labels of shape \(50,\)"),
        (X[:, None], Y, r"shape \(50, 1\)"),
        (0.9, True, r"shape \(\)"),
        (X, np.where(FOURTH, 2, Y), "labels other than true and false"),
        (X, np.where(FOURTH, np.nan, Y), "labels other than true and false"),
        (np.full(50, 0.9), Y, "all cosines are 0.9"),
        (np.tile([0.8, 0.9], 6), np.repeat([0, 1], 6), "not more often duplicates"),  # no relation at all
    ],
)
def test_what_cannot_be_fitted_is_one_clear_line(x: npt.ArrayLike, y: npt.ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        fit_thresholds(x, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("probabilities", [(0.0, 0.99), (0.01, 1.0), (0.99, 0.01), (0.5, 0.5), (np.nan, 0.9), (0.1,)])
def test_probabilities_must_increase_within_0_and_1(probabilities: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="probabilities must be two, increasing"):
        fit_thresholds(X, Y, probabilities=probabilities)


def test_no_resamples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        fit_thresholds(X, Y, n_resamples=0)


def test_cosines_rounded_just_beyond_1_are_taken() -> None:
    x = X.copy()
    x[[0, 1]] = 1 + 5e-7, 1
    assert fit_thresholds(x, Y, n_resamples=5).n == 50
