"""The cosine above which two images are suspected, or certain, to be duplicates: fitted to labelled pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from tasks.dedup.logistic import Bools, Floats, ends_held, maximise, maximise_firth, needs_firth

# A plain resample of n pairs misses a class of k pairs with probability (1 - k/n)^n < e^-k: under 5 % for 3, but up to
# 14 % for 2. Ten pairs are five for each of the two parameters: the least that a number is given for, not enough.
MIN_PAIRS = 10
MIN_OF_A_CLASS = 3
COSINE_SLACK = 1e-6  # cosines of float32 unit vectors may round to beyond 1
LEAST_SLOPE = 1e-9  # of the standardised cosine: less is zero, but for rounding
BLOCK = 1 << 16  # resamples x pairs fitted at once: its arrays stay in the cache
# How much lower a trial of Firth's likelihood may be and still be climbed from. In trials 15 never missed the highest
# maximum, and 1 did in 1.5 % of resamples, at a third of the time.
WITHIN, WITHIN_RESAMPLE = 15.0, 1.0


@dataclass(frozen=True)
class DuplicateModel:
    """P(duplicate | cosine) = σ(intercept + slope · cosine), and the cosines where it reaches two probabilities.

    Attributes
    ----------
    intercept, slope
        Of the logistic regression, on the cosine as it is.
    suspected, certain
        The thresholds at the lower and the higher probability. Not clipped: a threshold above 1 means that no cosine is
        enough, so nothing is a duplicate at that probability; one below -1 that every pair is.
    interval_suspected, interval_certain
        95 % percentile bootstrap intervals, (low, high). An end is infinite where over 2.5 % of the resamples have no
        threshold, so many that the labels do not bound it.
    n
        Number of labelled pairs.
    auc
        Probability that a duplicate has a higher cosine than another pair, ties counted half.
    separable
        Whether one cosine divides the duplicates from the others, so that Firth's likelihood was maximised.
    probabilities
        Those of the two thresholds.
    n_resamples
        Of the bootstrap.
    n_resamples_firth
        How many were separable or of one class, and so fitted by Firth's likelihood.
    n_resamples_undefined
        How many had no threshold: a slope that is not positive, or all cosines equal. They count as -∞ at the low ends
        of the intervals and as ∞ at the high ends.
    """

    intercept: float
    slope: float
    suspected: float
    certain: float
    interval_suspected: tuple[float, float]
    interval_certain: tuple[float, float]
    n: int
    auc: float
    separable: bool
    probabilities: tuple[float, float]
    n_resamples: int
    n_resamples_firth: int
    n_resamples_undefined: int

    def probability(self, cosine: npt.ArrayLike) -> Floats:
        """P(duplicate) of pairs with these cosines, in the shape of `cosine`."""
        return np.asarray(expit(self.intercept + self.slope * np.asarray(cosine, dtype=np.float64)))


def cosine_at(probability: npt.ArrayLike, *, intercept: npt.ArrayLike, slope: npt.ArrayLike) -> Floats:
    """The cosine at which σ(intercept + slope · cosine) is `probability`: (logit p − intercept) / slope.

    Parameters
    ----------
    probability, intercept, slope
        Of shapes that broadcast.

    Examples
    --------
    >>> cosine_at([0.01, 0.5, 0.99], intercept=-190, slope=200).round(6).tolist()
    [0.927024, 0.95, 0.972976]
    """
    return np.asarray((logit(np.asarray(probability, dtype=np.float64)) - intercept) / slope)


def fit_thresholds(
    cosine: npt.ArrayLike,
    is_duplicate: npt.ArrayLike,
    *,
    probabilities: tuple[float, float] = (0.01, 0.99),
    n_resamples: int = 1000,
    seed: int = 0,
) -> DuplicateModel:
    """Fit P(duplicate | cosine) to labelled pairs, and the cosines where it reaches two probabilities.

    The model is P = σ(a + b·x) with the cosine x as its one feature, and the thresholds are t_p = (logit p − a) / b.
    Coefficients maximise the likelihood, without a penalty: cosines of near-duplicates differ in the second decimal, so
    b is in the hundreds, and a ridge on it (scikit-learn's default) would pull the thresholds apart.

    Where one cosine divides the classes, completely or with ties at the dividing cosine, b has no finite maximum. There
    Firth's penalised likelihood, log L(a, b) + ½ log det I(a, b) with I the Fisher information, is maximised instead
    (Firth 1993; Heinze & Schemper 2002): its maximum is finite, and `separable` says that it was used. It treats the
    labels as if a little noise were among them, so the thresholds keep some distance from the gap.

    Intervals are 95 % percentile bootstrap intervals (Efron & Tibshirani 1993, §13.3). Pairs are resampled plainly, not
    within each class: neither way of sampling pairs to label, at random or by cosine, fixes how many will turn out to
    be duplicates, so that number varies from sample to sample and the interval has to say so. Where the numbers were
    fixed, as with synthetic pairs, the interval is a little too wide. Resamples that are separable or of one class are
    fitted by Firth's likelihood; the model counts them. With few pairs near the thresholds the intervals are too
    narrow, since maximum likelihood finds too steep a slope, and again in each resample: simulated, at P = σ(−190 +
    200 x) and cosines uniform from 0.85 to 1, they covered the truth in 76 % of 300 data sets of 120 pairs, 86 % of 250
    pairs, 92 % of 600.

    Parameters
    ----------
    cosine
        Cosine similarity of each pair, (n,).
    is_duplicate
        Label of each pair, (n,) booleans or 0 and 1. The order of the pairs does not matter.
    probabilities
        Of the thresholds `suspected` and `certain`, in this order.
    n_resamples
        Of the bootstrap. Below about 1000 the ends of the intervals are themselves rough.
    seed
        Of the bootstrap.

    Returns
    -------
    DuplicateModel
        Thresholds are not clipped: one above 1 means that nothing is a duplicate at that probability.

    Raises
    ------
    ValueError
        When lengths differ, values are not cosines or not labels, pairs are fewer than 10 or fewer than 3 of a class,
        all cosines are equal, probabilities do not increase within (0, 1), or similar pairs are not more often
        duplicates (slope ≤ 0).

    References
    ----------
    Firth, D. (1993). Bias reduction of maximum likelihood estimates. Biometrika 80(1), 27–38.
    Heinze, G. and Schemper, M. (2002). A solution to the problem of separation in logistic regression. Statistics in
    Medicine 21(16), 2409–2419.
    Efron, B. and Tibshirani, R. J. (1993). An Introduction to the Bootstrap. Chapman & Hall.

    Examples
    --------
    At each cosine 1000 pairs, of which the share σ(−190 + 200 x) are duplicates:

    >>> grid = np.linspace(0.9, 1.0, 41)
    >>> n_duplicates = np.round(1000 * expit(-190 + 200 * grid)).astype(int)
    >>> labels = (np.arange(1000) < n_duplicates[:, None]).ravel()
    >>> model = fit_thresholds(np.repeat(grid, 1000), labels, n_resamples=20)
    >>> round(model.suspected, 3), round(model.certain, 3), model.separable
    (0.927, 0.973, False)
    >>> low, high = model.interval_suspected
    >>> bool(0.926 < low < model.suspected < high < 0.928)
    True
    """
    x, duplicate = _pairs(cosine, is_duplicate)
    lower, higher = _probabilities(probabilities)
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}: ask for at least 1, better 1000")
    centre, scale = x.mean(), x.std()
    z, sign = (x - centre) / scale, np.where(duplicate, 1.0, -1.0)

    once = np.ones((1, len(x)))
    separable = bool(needs_firth(z, duplicate, once)[0])
    if separable:
        fit = maximise_firth(z, sign, once, within=WITHIN)
    else:
        fit = maximise(z, sign, once, np.array([[logit(duplicate.mean()), 0.0]]), firth=False)
    if not fit[0, 1] > LEAST_SLOPE:
        raise ValueError(
            f"pairs with a higher cosine are not more often duplicates (slope {fit[0, 1] / scale:.4g}): check that the labels are not swapped and that similarities, not distances, are given, or label more pairs"
        )

    fits, n_firth = _fit_resamples(z, sign, fit, n_resamples, np.random.default_rng(seed))
    fits = fits[fits[:, 1] > LEAST_SLOPE]  # not true of NaN either
    n_undefined = n_resamples - len(fits)

    def unscaled(coefficients: Floats) -> tuple[Floats, Floats]:
        slope = coefficients[:, 1] / scale
        return coefficients[:, 0] - slope * centre, slope

    intercepts, slopes = unscaled(fits)
    intercept, slope = (float(value[0]) for value in unscaled(fit))
    suspected, certain = cosine_at([lower, higher], intercept=intercept, slope=slope).tolist()
    interval_suspected, interval_certain = (
        _interval(cosine_at(probability, intercept=intercepts, slope=slopes), n_undefined)
        for probability in (lower, higher)
    )
    return DuplicateModel(
        intercept=intercept,
        slope=slope,
        suspected=suspected,
        certain=certain,
        interval_suspected=interval_suspected,
        interval_certain=interval_certain,
        n=len(x),
        auc=_auc(x, duplicate),
        separable=separable,
        probabilities=(lower, higher),
        n_resamples=n_resamples,
        n_resamples_firth=n_firth,
        n_resamples_undefined=n_undefined,
    )


def _pairs(cosine: npt.ArrayLike, is_duplicate: npt.ArrayLike) -> tuple[Floats, Bools]:
    """Checked cosines, ascending, and their labels: sorted, so that the order of the pairs cannot matter."""
    x, label = np.asarray(cosine, dtype=np.float64), np.asarray(is_duplicate)
    if x.ndim != 1 or label.ndim != 1 or len(x) != len(label):
        raise ValueError(
            f"cosines of shape {x.shape}, but labels of shape {label.shape}: give one cosine and one label a pair"
        )
    if not np.isfinite(x).all():
        raise ValueError(
            f"{int((~np.isfinite(x)).sum())} cosines are not finite: leave out pairs whose embeddings are NaN or zero"
        )
    if len(x) and np.abs(x).max() > 1 + COSINE_SLACK:
        raise ValueError(
            f"cosine {x[np.abs(x).argmax()]:.6g} is outside -1 … 1: divide the embeddings by their norms first"
        )
    duplicate = label == 1
    if not (duplicate | (label == 0)).all():
        raise ValueError("labels other than true and false (1 and 0): leave out pairs that were not decided")
    n_duplicates = int(duplicate.sum())
    if len(x) < MIN_PAIRS or min(n_duplicates, len(x) - n_duplicates) < MIN_OF_A_CLASS:
        raise ValueError(
            f"{len(x)} labelled pairs, {n_duplicates} of them duplicates: label more, at least {MIN_PAIRS} pairs with {MIN_OF_A_CLASS} duplicates and {MIN_OF_A_CLASS} others among them"
        )
    if x.min() == x.max():
        raise ValueError(f"all cosines are {x[0]:.6g}: label pairs of different similarity")
    order = np.lexsort((duplicate, x))
    return x[order], duplicate[order]


def _probabilities(probabilities: Sequence[float]) -> tuple[float, float]:
    if len(probabilities) != 2 or not 0 < probabilities[0] < probabilities[1] < 1:
        raise ValueError(f"probabilities must be two, increasing, between 0 and 1, got {tuple(probabilities)}")
    return float(probabilities[0]), float(probabilities[1])


def _auc(x: Floats, duplicate: Bools) -> float:
    """Mann–Whitney: the share of (duplicate, other) whose duplicate has the higher cosine, ties counted half."""
    others, own = x[~duplicate], x[duplicate]
    wins = np.searchsorted(others, own, side="left").sum() + np.searchsorted(others, own, side="right").sum()
    return float(wins / (2 * len(others) * len(own)))


def _fit_resamples(
    z: Floats, sign: Floats, fit: Floats, n_resamples: int, generator: np.random.Generator
) -> tuple[Floats, int]:
    """Intercept and slope of each resample, (n_resamples, 2), NaN where all cosines are equal; how many are Firth's."""
    blocks, n_firth = [], 0
    for counts in _resamples(len(z), n_resamples, generator):
        lowest, highest = ends_held(z, counts)
        varied, firth = highest > lowest, needs_firth(z, sign > 0, counts)
        block = np.full((len(counts), 2), np.nan)
        if (rows := varied & ~firth).any():
            block[rows] = maximise(z, sign, counts[rows], fit.repeat(rows.sum(), axis=0), firth=False)
        if (rows := varied & firth).any():
            block[rows] = maximise_firth(z, sign, counts[rows], within=WITHIN_RESAMPLE)
        blocks.append(block)
        n_firth += int(firth.sum())
    return np.concatenate(blocks), n_firth


def _resamples(n: int, n_resamples: int, generator: np.random.Generator) -> Iterator[Floats]:
    """How often each pair is in each resample, (at most BLOCK // n, n) at a time."""
    rows = max(1, BLOCK // n)
    for done in range(0, n_resamples, rows):
        n_rows = min(rows, n_resamples - done)
        drawn = generator.integers(n, size=(n_rows, n)) + n * np.arange(n_rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=n_rows * n).reshape(n_rows, n).astype(np.float64)


def _interval(thresholds: Floats, n_undefined: int) -> tuple[float, float]:
    """95 % percentile interval; resamples without a threshold count as −∞ at its low end and ∞ at its high end."""
    unknown = np.full(n_undefined, np.inf)
    low = np.quantile(np.concatenate([thresholds, -unknown]), 0.025, method="lower")
    return float(low), float(np.quantile(np.concatenate([thresholds, unknown]), 0.975, method="higher"))
