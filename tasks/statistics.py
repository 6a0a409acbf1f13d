"""Tests of a difference between two sets of scores, with effect sizes, corrections, and results as papers print them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import stats

Alternative = Literal["two-sided", "greater", "less"]
Variant = Literal["bouckaert-frank", "case-study-code"]
Floats = npt.NDArray[np.float64]

_SMALLEST_PRINTED = 0.001


@dataclass(frozen=True)
class TestResult:
    """A test of a against b.

    Attributes
    ----------
    name
        Of the test.
    statistic
        t, W (Wilcoxon), U (Mann-Whitney), the smaller count of disagreements (McNemar), or ε (almost stochastic order).
    df
        Degrees of freedom; None where the test has none.
    pvalue
        None where the test has none.
    effect_size
        Hedges' g for independent scores, Cohen's d_z for paired ones, the rank-biserial correlation for ranks, the odds ratio of
        disagreements for McNemar; NaN where it is not defined, None where the test has none.
    n_a, n_b, mean_a, sd_a, mean_b, sd_b
        Of the scores; standard deviations with n − 1.
    """

    __test__ = False  # no test of pytest's

    name: str
    statistic: float
    df: float | None
    pvalue: float | None
    effect_size: float | None
    n_a: int
    n_b: int
    mean_a: float
    sd_a: float
    mean_b: float
    sd_b: float

    def apa(self) -> str:
        """As APA style prints it: ``t(199) = 1.25, p = .107``.

        Examples
        --------
        >>> independent_ttest_from_stats(0.355, 0.015, 10, 0.429, 0.013, 10).apa()
        't(18) = -11.79, p < .001'
        """
        symbol = _SYMBOLS.get(self.name, "t")
        freedom = "" if self.df is None else f"({self.df:.4g})"
        text = f"{symbol}{freedom} = {self.statistic:.2f}"
        return text if self.pvalue is None else f"{text}, {apa_p(self.pvalue)}"

    def means(self) -> str:
        """Mean and standard deviation of both, to three digits: ``M = .355, SD = .015; M = .429, SD = .013``."""
        pairs = ((self.mean_a, self.sd_a), (self.mean_b, self.sd_b))
        return "; ".join(f"M = {_without_zero(mean)}, SD = {_without_zero(sd)}" for mean, sd in pairs)


_SYMBOLS = {"wilcoxon": "W", "mann-whitney": "U", "mcnemar": "n", "almost-stochastic-order": "ε"}


def apa_p(pvalue: float) -> str:
    """A p-value without a leading zero, to three digits; ``p < .001`` below that.

    Examples
    --------
    >>> apa_p(0.1073), apa_p(0.0004), apa_p(1.0)
    ('p = .107', 'p < .001', 'p = 1.000')
    """
    return "p < .001" if pvalue < _SMALLEST_PRINTED else f"p = {_without_zero(pvalue)}"


def corrected_repeated_kfold_ttest(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    n_folds: int,
    n_repeats: int,
    alternative: Alternative = "two-sided",
    variant: Variant = "bouckaert-frank",
) -> TestResult:
    """The corrected repeated k-fold cross-validation t-test of paired scores.

    With d = a − b over k folds in r repetitions, t = mean(d) / √((1/(k·r) + 1/(k − 1)) · var(d)), var with n − 1, and k·r − 1 degrees of
    freedom (Bouckaert & Frank 2004, equation 3, after Nadeau & Bengio 2003): the folds share training data, so that an
    ordinary t-test finds differences that are none.

    Parameters
    ----------
    a, b
        (k·r,) the scores of both in the same folds.
    n_folds, n_repeats
        k and r.
    alternative
        ``greater``: a is greater than b.
    variant
        ``case-study-code`` divides by √(var(d) / (k·r + 1/(k − 1))), as the code of the case study does: that is hardly a correction.

    Raises
    ------
    ValueError
        When there are not k·r scores of each, or some are not finite.
    """
    x, y = _scores(a, b, paired=True)
    n = n_folds * n_repeats
    if n_folds < 2 or n_repeats < 1 or len(x) != n:
        raise ValueError(f"{n_folds} folds in {n_repeats} repetitions give {n} scores of each, got {len(x)}")
    if variant not in get_args(Variant):
        raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, got {variant!r}")
    difference = x - y
    variance = float(difference.var(ddof=1))
    if variant == "bouckaert-frank":
        error = np.sqrt((1 / n + 1 / (n_folds - 1)) * variance)
    else:
        error = np.sqrt(variance / (n + 1 / (n_folds - 1)))
    statistic = _ratio(float(difference.mean()), float(error))
    pvalue = _t_pvalue(statistic, n - 1, alternative)
    return _result(
        "corrected-repeated-kfold", statistic, n - 1, pvalue, _ratio(float(difference.mean()), variance**0.5), x, y
    )


def independent_ttest(a: npt.ArrayLike, b: npt.ArrayLike, *, alternative: Alternative = "two-sided") -> TestResult:
    """Student's t-test of independent scores with equal variances; its effect size is Hedges' g.

    Examples
    --------
    >>> independent_ttest([1, 2, 3, 4], [3, 4, 5, 6]).apa()
    't(6) = -2.19, p = .071'
    """
    x, y = _scores(a, b)
    found = stats.ttest_ind(x, y, alternative=alternative)
    return _result("independent-t", found.statistic, len(x) + len(y) - 2, found.pvalue, hedges_g(x, y), x, y)


def independent_ttest_from_stats(
    mean_a: float,
    sd_a: float,
    n_a: int,
    mean_b: float,
    sd_b: float,
    n_b: int,
    *,
    alternative: Alternative = "two-sided",
) -> TestResult:
    """`independent_ttest` where only means and standard deviations are published."""
    found = stats.ttest_ind_from_stats(mean_a, sd_a, n_a, mean_b, sd_b, n_b, alternative=alternative)
    df = n_a + n_b - 2
    pooled = np.sqrt(((n_a - 1) * sd_a**2 + (n_b - 1) * sd_b**2) / df)
    effect = _ratio(mean_a - mean_b, float(pooled)) * _small_sample(df)
    return TestResult(
        "independent-t", float(found.statistic), df, float(found.pvalue), effect, n_a, n_b, mean_a, sd_a, mean_b, sd_b
    )


def paired_ttest(a: npt.ArrayLike, b: npt.ArrayLike, *, alternative: Alternative = "two-sided") -> TestResult:
    """Student's t-test of paired scores; its effect size is Cohen's d_z, the mean difference over its standard deviation."""
    x, y = _scores(a, b, paired=True)
    difference = x - y
    error = float(difference.std(ddof=1) / np.sqrt(len(x)))
    statistic = _ratio(float(difference.mean()), error)
    pvalue = _t_pvalue(statistic, len(x) - 1, alternative)
    return _result(
        "paired-t", statistic, len(x) - 1, pvalue, _ratio(float(difference.mean()), float(difference.std(ddof=1))), x, y
    )


def wilcoxon(a: npt.ArrayLike, b: npt.ArrayLike, *, alternative: Alternative = "two-sided") -> TestResult:
    """Wilcoxon's signed-rank test of paired scores; its effect size is the rank-biserial correlation (Kerby 2014)."""
    x, y = _scores(a, b, paired=True)
    difference = x - y
    nonzero = difference[difference != 0]
    if not len(nonzero):
        raise ValueError("all paired scores are equal: there is nothing to rank")
    found = stats.wilcoxon(x, y, alternative=alternative)
    ranks = stats.rankdata(np.abs(nonzero))
    effect = float((ranks[nonzero > 0].sum() - ranks[nonzero < 0].sum()) / ranks.sum())
    return _result("wilcoxon", found.statistic, None, found.pvalue, effect, x, y)


def mann_whitney(a: npt.ArrayLike, b: npt.ArrayLike, *, alternative: Alternative = "two-sided") -> TestResult:
    """Mann and Whitney's U test of independent scores; its effect size is the rank-biserial correlation, 2U/(n_a·n_b) − 1."""
    x, y = _scores(a, b)
    found = stats.mannwhitneyu(x, y, alternative=alternative)
    effect = float(2 * found.statistic / (len(x) * len(y)) - 1)
    return _result("mann-whitney", found.statistic, None, found.pvalue, effect, x, y)


def mcnemar(a: npt.ArrayLike, b: npt.ArrayLike, *, alternative: Alternative = "two-sided") -> TestResult:
    """McNemar's exact test of two heads on the same images: of those that one alone has right, is either's share over a half?

    Parameters
    ----------
    a, b
        (n,) booleans or 0 and 1: whether each head is right on each image.
    alternative
        ``greater``: a is right more often.

    Returns
    -------
    TestResult
        `statistic` is the smaller of the two counts of disagreements, `effect_size` their ratio a : b.
    """
    x, y = _scores(a, b, paired=True)
    if not np.isin(np.concatenate([x, y]), (0.0, 1.0)).all():
        raise ValueError("McNemar's test is of right and wrong answers: give booleans, or 0 and 1")
    only_a, only_b = int(((x == 1) & (y == 0)).sum()), int(((x == 0) & (y == 1)).sum())
    if only_a + only_b == 0:
        pvalue = 1.0
    else:
        pvalue = float(stats.binomtest(only_a, only_a + only_b, 0.5, alternative=alternative).pvalue)
    return _result("mcnemar", min(only_a, only_b), None, pvalue, _ratio(only_a, only_b), x, y)


def almost_stochastic_order(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    confidence_level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> TestResult:
    """How far a is from being stochastically greater than b: ε_min, an upper bound (del Barrio et al. 2018, Dror et al. 2019).

    The violation ratio is ∫ max(G⁻¹ − F⁻¹, 0)² / ∫ (F⁻¹ − G⁻¹)², with F⁻¹ and G⁻¹ the quantile functions of a and b: 0 where a is greater
    throughout, 1 where b is. ε_min is its estimate plus Φ⁻¹(confidence level) bootstrap standard errors, clipped to 0 … 1. Below
    0.5 a is called almost stochastically dominant, below 0.2 convincingly so (Ulmer et al. 2022).

    Returns
    -------
    TestResult
        `statistic` is ε_min; it has no p-value. Equal scores give 0.5.
    """
    x, y = _scores(a, b)
    if not 0.5 <= confidence_level < 1:
        raise ValueError(f"confidence_level must be from 0.5 to below 1, got {confidence_level}")
    generator = np.random.default_rng(seed)
    drawn = _violation_ratios(*(each[generator.integers(len(each), size=(n_resamples, len(each)))] for each in (x, y)))
    estimate = float(_violation_ratios(x[None], y[None])[0])
    bound = estimate + stats.norm.ppf(confidence_level) * float(np.std(drawn))
    return _result("almost-stochastic-order", float(np.clip(bound, 0.0, 1.0)), None, None, None, x, y)


def holm(pvalues: Sequence[float]) -> list[float]:
    """P-values corrected for the number of comparisons by Holm's step-down method (1979), in the order given.

    Examples
    --------
    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(pvalues, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values must be a sequence of numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(each) for each in corrected]


def cohens_d(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """The difference of the means over the pooled standard deviation (Cohen 1988); NaN where no score varies."""
    x, y = _scores(a, b)
    df = len(x) + len(y) - 2
    pooled = np.sqrt(((len(x) - 1) * x.var(ddof=1) + (len(y) - 1) * y.var(ddof=1)) / df)
    return _ratio(float(x.mean() - y.mean()), float(pooled))


def hedges_g(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Cohen's d without its bias in small samples: times 1 − 3 / (4 df − 1) (Hedges 1981).

    Examples
    --------
    >>> round(cohens_d([1, 2, 3, 4], [3, 4, 5, 6]), 3), round(hedges_g([1, 2, 3, 4], [3, 4, 5, 6]), 3)
    (-1.549, -1.347)
    """
    x, y = _scores(a, b)
    return cohens_d(x, y) * _small_sample(len(x) + len(y) - 2)


def _small_sample(df: int) -> float:
    return 1 - 3 / (4 * df - 1)


def _violation_ratios(x: Floats, y: Floats) -> Floats:
    """Of every row of x (r, n) and y (r, m); exact for the step functions that quantile functions are, 0.5 where both are the same."""
    n, m = x.shape[1], y.shape[1]
    edges = np.unique(np.concatenate([np.arange(n + 1) / n, np.arange(m + 1) / m]))
    middle, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    of_a, of_b = (
        np.sort(each, axis=1)[:, np.minimum((middle * each.shape[1]).astype(int), each.shape[1] - 1)] for each in (x, y)
    )
    distance = ((of_a - of_b) ** 2) @ width
    violated = (np.clip(of_b - of_a, 0, None) ** 2) @ width
    return np.asarray(np.divide(violated, distance, out=np.full(len(x), 0.5), where=distance > 0))


def _scores(a: npt.ArrayLike, b: npt.ArrayLike, *, paired: bool = False) -> tuple[Floats, Floats]:
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or y.ndim != 1 or min(len(x), len(y)) < 2:
        raise ValueError(f"give two sequences of two scores or more, got shapes {x.shape} and {y.shape}")
    if paired and len(x) != len(y):
        raise ValueError(f"paired scores must be as many, got {len(x)} and {len(y)}")
    n_bad = int((~np.isfinite(x)).sum() + (~np.isfinite(y)).sum())
    if n_bad:
        raise ValueError(f"{n_bad} scores are NaN or infinite")
    return x, y


def _ratio(part: float, whole: float) -> float:
    """Their ratio; without variation infinite, or NaN where there is no difference either."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.float64(part) / np.float64(whole))


def _t_pvalue(statistic: float, df: int, alternative: Alternative) -> float:
    if alternative not in get_args(Alternative):
        raise ValueError(f"alternative must be one of {', '.join(get_args(Alternative))}, got {alternative!r}")
    if np.isnan(statistic):
        return 1.0
    if alternative == "two-sided":
        return float(2 * stats.t.sf(abs(statistic), df))
    return float(stats.t.sf(statistic if alternative == "greater" else -statistic, df))


def _result(
    name: str, statistic: float, df: float | None, pvalue: float | None, effect: float | None, x: Floats, y: Floats
) -> TestResult:
    return TestResult(
        name=name,
        statistic=float(statistic),
        df=df,
        pvalue=None if pvalue is None else float(pvalue),
        effect_size=effect,
        n_a=len(x),
        n_b=len(y),
        mean_a=float(x.mean()),
        sd_a=float(x.std(ddof=1)),
        mean_b=float(y.mean()),
        sd_b=float(y.std(ddof=1)),
    )


def _without_zero(value: float) -> str:
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 and not text.startswith(("1", "-1")) else text
