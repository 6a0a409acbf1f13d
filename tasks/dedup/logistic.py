"""Logistic regressions on one feature, of many resamples of the same pairs at once: by the likelihood, or by Firth's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MAX_STEPS = 500


def ends_held(x: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Lowest and highest of the ascending x (n,) that each row of counts (b, n) holds; (∞, −∞) of an empty row."""
    held = counts > 0
    some = held.any(axis=1)
    lowest = np.where(some, x[held.argmax(axis=1)], np.inf)
    return lowest, np.where(some, x[len(x) - 1 - held[:, ::-1].argmax(axis=1)], -np.inf)


def needs_firth(x: Floats, duplicate: Bools, counts: Floats) -> Bools:
    """Whether each resample is of one class, or separable: the cosines of its classes meet at one cosine at most.

    Told from the x (n,), ascending, that are fitted: cosines that standardising makes equal cannot overlap.
    """
    lowest_other, highest_other = ends_held(x[~duplicate], counts[:, ~duplicate])
    lowest_duplicate, highest_duplicate = ends_held(x[duplicate], counts[:, duplicate])
    return (highest_other <= lowest_duplicate) | (highest_duplicate <= lowest_other)


def maximise(z: Floats, sign: Floats, counts: Floats, start: Floats, *, firth: bool) -> Floats:
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


def maximise_firth(z: Floats, sign: Floats, counts: Floats, *, within: float) -> Floats:
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
    lowest_other, highest_other = ends_held(z[sign < 0], counts[:, sign < 0])
    lowest_duplicate, highest_duplicate = ends_held(z[sign > 0], counts[:, sign > 0])
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
    found = maximise(z, sign, counts[row], trials[row, trial], firth=True)
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
