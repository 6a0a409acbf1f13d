"""The cosine above which two images are suspected, or certain, to be duplicates: fitted to labelled pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# A plain resample of n pairs misses a class of k pairs with probability (1 - k/n)^n < e^-k: under 5 % for 3, but up to
# 14 % for 2. Ten pairs are five for each of the two parameters: the least that a number is given for, not enough.
MIN_PAIRS = 10
MIN_OF_A_CLASS = 3
COSINE_SLACK = 1e-6  # cosines of float32 unit vectors may round to beyond 1
LEAST_SLOPE = 1e-9  # of the standardised cosine: less is zero, but for rounding
BLOCK = 1 << 16  # resamples x pairs fitted at once: its arrays stay in the cache
MAX_STEPS = 500
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
    separable = bool(_needs_firth(z, duplicate, once)[0])
    if separable:
        fit = _maximise_firth(z, sign, once, within=WITHIN)
    else:
        fit = _maximise(z, sign, once, np.array([[logit(duplicate.mean()), 0.0]]), firth=False)
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
        lowest, highest = _ends(z, counts)
        varied, firth = highest > lowest, _needs_firth(z, sign > 0, counts)
        block = np.full((len(counts), 2), np.nan)
        if (rows := varied & ~firth).any():
            block[rows] = _maximise(z, sign, counts[rows], fit.repeat(rows.sum(), axis=0), firth=False)
        if (rows := varied & firth).any():
            block[rows] = _maximise_firth(z, sign, counts[rows], within=WITHIN_RESAMPLE)
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


def _ends(x: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Lowest and highest of the ascending x (n,) that each row of counts (b, n) holds; (∞, −∞) of an empty row."""
    held = counts > 0
    some = held.any(axis=1)
    lowest = np.where(some, x[held.argmax(axis=1)], np.inf)
    return lowest, np.where(some, x[len(x) - 1 - held[:, ::-1].argmax(axis=1)], -np.inf)


def _needs_firth(x: Floats, duplicate: Bools, counts: Floats) -> Bools:
    """Whether each resample is of one class, or separable: the cosines of its classes meet at one cosine at most.

    Told from the x (n,), ascending, that are fitted: cosines that standardising makes equal cannot overlap.
    """
    lowest_other, highest_other = _ends(x[~duplicate], counts[:, ~duplicate])
    lowest_duplicate, highest_duplicate = _ends(x[duplicate], counts[:, duplicate])
    return (highest_other <= lowest_duplicate) | (highest_duplicate <= lowest_other)


def _maximise(z: Floats, sign: Floats, counts: Floats, start: Floats, *, firth: bool) -> Floats:
    """Intercept and slope, (b, 2), that maximise the likelihood, or Firth's, of each of b resamples at once.

    Newton's method; a step that does not climb, but for rounding, is halved. Ends where the next step is under 1e-10
    standard errors, or lost in the rounding of the linear predictor.

    Parameters
    ----------
    z, sign
        Standardised cosines, and 1 for duplicates and -1 for others, (n,).
    counts
        How often each pair is in each resample, (b, n).
    start
        (b, 2).
    """
    fit = start.copy()
    rows = np.arange(len(start))
    value, step, left = _step(z, sign, counts, fit, firth=firth)
    lost = ~np.isfinite(left)  # all information underflows: start where there is the most
    if lost.any():
        fit[lost] = 0.0
        value[lost], step[lost], left[lost] = _step(z, sign, counts[lost], fit[lost], firth=firth)
    for _ in range(MAX_STEPS):
        rounding = 2 * np.finfo(np.float64).eps * np.abs(fit[rows]).sum(axis=1)  # of the linear predictor
        climbing = left > 1e-20 + len(z) * rounding**2
        if not climbing.all():
            rows, counts = rows[climbing], counts[climbing]
            value, step, left, rounding = value[climbing], step[climbing], left[climbing], rounding[climbing]
        if not len(rows):
            return fit
        trial = fit[rows] + step
        trial_value, trial_step, trial_left = _step(z, sign, counts, trial, firth=firth)
        climbs = trial_value >= value - 1e-12 * (1 + np.abs(value)) - len(z) * rounding
        fit[rows[climbs]] = trial[climbs]
        value = np.where(climbs, trial_value, value)
        step = np.where(climbs[:, None], trial_step, step / 2)
        left = np.where(climbs, trial_left, left)
    raise ArithmeticError(f"logistic regression did not converge in {MAX_STEPS} steps: report these pairs as a bug")


def _maximise_firth(z: Floats, sign: Floats, counts: Floats, *, within: float) -> Floats:
    """Intercept and slope, (b, 2), of the highest maximum of Firth's likelihood, of each of b resamples.

    There may be several: where cosines crowd near 1, one slope tells the clusters apart and a far steeper one the pairs
    within a cluster. So it is tried at slope 0 and at steps of 4 up to where the nearest pairs are told apart, with
    P = ½ midway between the classes, and climbed from every trial at most `within` below the best.

    Parameters
    ----------
    z, sign
        Standardised cosines, ascending, and 1 for duplicates and -1 for others, (n,).
    counts
        How often each pair is in each resample, (b, n): separable, or of one class.
    """
    lowest_other, highest_other = _ends(z[sign < 0], counts[:, sign < 0])
    lowest_duplicate, highest_duplicate = _ends(z[sign > 0], counts[:, sign > 0])
    rising = highest_other <= lowest_duplicate
    below = np.where(rising, highest_other, highest_duplicate)
    above = np.where(rising, lowest_duplicate, lowest_other)
    one_class = ~np.isfinite(above - below)
    middle = np.where(one_class, 0.0, (below + above) / 2)
    distances = np.diff(z) if (above == below).any() else (above - below)[~one_class]
    nearest = distances[distances > 0].min(initial=1.0)
    slopes = np.append(0.0, 4.0 ** np.arange(-1, np.ceil(np.log(64 / nearest) / np.log(4)) + 1))
    slope = np.where(rising, 1.0, -1.0)[:, None] * slopes
    trials = np.stack([-slope * middle[:, None], slope], axis=2)
    heights = np.stack([_height(z, sign, counts, trials[:, k], firth=True)[0] for k in range(len(slopes))], axis=1)
    heights[~np.isfinite(heights)] = -np.inf
    row, trial = np.nonzero(heights >= heights.max(axis=1, keepdims=True) - within)
    found = _maximise(z, sign, counts[row], trials[row, trial], firth=True)
    by_height = np.lexsort((-_height(z, sign, counts[row], found, firth=True)[0], row))
    return found[by_height[np.searchsorted(row, np.arange(len(counts)))]]


class _Curve(NamedTuple):
    """The fitted curve at each pair, and the information of it; see `_step`."""

    upper: Bools  # p > 1/2, (b, n)
    likely: Floats  # max(p, 1 - p), (b, n)
    unlikely: Floats  # min(p, 1 - p), (b, n), exact in both tails
    right: Bools  # whether the likely class is the labelled one, (b, n)
    weight: Floats  # counts · p (1 - p), (b, n)
    m0: Floats  # (b,)
    m2: Floats  # (b,)
    mean: Floats  # (b,)
    u: Floats  # (b, n)


def _height(z: Floats, sign: Floats, counts: Floats, fit: Floats, *, firth: bool) -> tuple[Floats, _Curve]:
    """Log-likelihood, with Firth's penalty or without, of each row of `fit`, (b,), and what it is made of."""
    with np.errstate(all="ignore"):  # a step too far may overflow: it does not climb, and is halved
        eta = fit[:, :1] + fit[:, 1:] * z
        size = np.abs(eta)
        tail = np.exp(-size)
        likely = 1 / (1 + tail)
        unlikely = tail * likely
        right = sign * eta > 0
        height = np.einsum("bn,bn->b", counts, np.log(likely) - np.where(right, 0.0, size))
        weight = counts * likely * unlikely
        m0 = weight.sum(axis=1)
        mean = np.einsum("bn,n->b", weight, z) / m0
        u = z - mean[:, None]
        m2 = np.einsum("bn,bn,bn->b", weight, u, u)
        if firth:
            height += 0.5 * (np.log(m0) + np.log(m2))
    return height, _Curve(eta > 0, likely, unlikely, right, weight, m0, m2, mean, u)


def _step(z: Floats, sign: Floats, counts: Floats, fit: Floats, *, firth: bool) -> tuple[Floats, Floats, Floats]:
    """(Penalised) log-likelihood (b,), Newton's step to its maximum (b, 2), and its square in standard errors (b,).

    With v = p (1 − p) and u = z less its mean weighted by v, the information matrix of the features 1 and u is
    diagonal: M₀ = Σ v and M₂ = Σ v u². Its determinant is M₀ M₂, without the cancellation of raw moments. Firth's
    penalty ½ log det I has, with N_k = Σ v' u^k and P_k = Σ v'' u^k (derivatives by the linear predictor), the gradient
    ½ (N_j / M₀ + N_{j+2} / M₂) and the Hessian

        ½ (P_{j+k} / M₀ + P_{j+k+2} / M₂ − 2 N_{j+1} N_{k+1} / (M₀ M₂) − N_j N_k / M₀² − N_{j+2} N_{k+2} / M₂²).

    Where the whole is convex along an axis, the step still climbs. (Scoring with the information alone, as is usual for
    Firth's likelihood, can swing about the maximum for ever.)
    """
    height, (upper, likely, unlikely, right, weight, m0, m2, mean, u) = _height(z, sign, counts, fit, firth=firth)
    with np.errstate(all="ignore"):
        residual = counts * sign * np.where(right, unlikely, likely)  # y - p
        # From here in units of standard errors: the features are 1 and u, divided by the roots of m0 and m2.
        unit = np.sqrt(np.stack([m0, m2], axis=1))
        up = np.stack([residual.sum(axis=1), np.einsum("bn,bn->b", residual, u)], axis=1) / unit
        step = up
        if firth:
            u2 = u * u
            first = weight * np.where(upper, unlikely - likely, likely - unlikely)
            second = weight * (1 - 6 * likely * unlikely)
            n, p = (
                np.stack(
                    [k.sum(axis=1), *(np.einsum("bn,bn->b", k, power) for power in (u, u2, u * u2, u2 * u2))], axis=1
                )
                for k in (first, second)
            )
            n0, n2 = n / m0[:, None], n / m2[:, None]
            up = up + (n0[:, :2] + n2[:, 2:4]) / 2 / unit
            j, k = np.array([[0, 0], [1, 1]]), np.array([[0, 1], [0, 1]])
            bend = (
                (p[:, j + k] / m0[:, None, None] + p[:, j + k + 2] / m2[:, None, None])
                - 2 * n0[:, j + 1] * n2[:, k + 1]
                - n0[:, j] * n0[:, k]
                - n2[:, j + 2] * n2[:, k + 2]
            ) / (2 * unit[:, :, None] * unit[:, None, :])
            sizes, axes = np.linalg.eigh(np.nan_to_num(np.eye(2) - bend))
            along = np.einsum("bij,bi->bj", axes, up) / np.maximum(np.abs(sizes), 1e-3)
            step = np.einsum("bij,bj->bi", axes, along)
        left = (up * step).sum(axis=1)
        step = step / unit
        step[:, 0] -= mean * step[:, 1]
        longest = 8 * (1 + np.abs(fit).max(axis=1))  # far from the data hardly any information is left
        step *= np.minimum(1, longest / np.abs(step).max(axis=1))[:, None]
    return height, step, left


def _interval(thresholds: Floats, n_undefined: int) -> tuple[float, float]:
    """95 % percentile interval; resamples without a threshold count as −∞ at its low end and ∞ at its high end."""
    unknown = np.full(n_undefined, np.inf)
    low = np.quantile(np.concatenate([thresholds, -unknown]), 0.025, method="lower")
    return float(low), float(np.quantile(np.concatenate([thresholds, unknown]), 0.975, method="higher"))
