"""Which pair of images a person is asked about next, and when enough have been answered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tasks.dedup.pairs import Pairs
from tasks.dedup.threshold import DuplicateModel, cosine_at, fit_thresholds

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

# Between these probabilities a model is unsure. Wider than the thresholds' own 0.01 and 0.99, so that pairs on both sides of
# each are answered.
UNSURE = (0.005, 0.995)
LOWEST_PERCENTILE = 1  # of the candidates' cosines, for as long as there is no model
N_BINS = 10


def candidate_pairs(row: npt.ArrayLike, cosine: npt.ArrayLike) -> Pairs:
    """The pairs of each image with its most similar other image, each pair once.

    Parameters
    ----------
    row, cosine
        (n,) as of `tasks.dedup.pairs.nearest_neighbours`.

    Returns
    -------
    Pairs
        Sorted by (i, j); empty for fewer than two images.

    Examples
    --------
    >>> candidate_pairs([2, 0, 0], [1.0, 0.6, 1.0])
    Pairs(i=array([0, 0]), j=array([1, 2]), cosine=array([0.6, 1. ], dtype=float32))
    """
    nearest = np.asarray(row, dtype=np.int64)
    image = np.flatnonzero(nearest >= 0)
    nearest = nearest[image]
    ends = np.stack([np.minimum(image, nearest), np.maximum(image, nearest)], axis=1)
    pairs, first = np.unique(ends, axis=0, return_index=True)
    return Pairs(pairs[:, 0], pairs[:, 1], np.asarray(cosine, dtype=np.float32)[image][first])


def random_order(pairs: Pairs, row: npt.ArrayLike, *, seed: int) -> Rows:
    """The candidates in the order in which images drawn at random, each once, bring them up.

    An image is drawn at random and shown with its most similar other image (Bynke 2022, section 3). A pair of two images
    that are each other's nearest comes when the first of them is drawn, so twice as likely early as another.

    Parameters
    ----------
    pairs
        Of `candidate_pairs`.
    row
        (n,) the most similar other row of each image, from which `pairs` was made.
    seed
        Of the permutation of the images.

    Returns
    -------
    ndarray
        (m,) int64, indices of `pairs`, each once.
    """
    nearest = np.asarray(row, dtype=np.int64)
    image = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(nearest))
    image = image[nearest[image] >= 0]
    first, second = np.minimum(image, nearest[image]), np.maximum(image, nearest[image])
    n = len(nearest)  # pairs as numbers, which sort as the pairs do
    drawn = np.searchsorted(pairs.i * n + pairs.j, first * n + second)
    each, position = np.unique(drawn, return_index=True)
    return np.asarray(each[np.argsort(position)], dtype=np.int64)


def next_random(order: Rows, shown: Bools) -> int | None:
    """The first candidate in the order that was not shown yet, or None.

    Parameters
    ----------
    order
        (m,) of `random_order`.
    shown
        (m,) which candidates were shown.
    """
    left = order[~shown[order]]
    return int(left[0]) if len(left) else None


def next_stratified(
    cosine: npt.ArrayLike, order: Rows, shown: Bools, answered: npt.ArrayLike, unsure: tuple[float, float]
) -> int | None:
    """A candidate from where the model is unsure and the fewest pairs were answered.

    The range where it is unsure is cut into 10 bins of equal width. Of the bins that still have candidates, those with the
    fewest answers are taken, and of their candidates the first in the order. When all of the range were shown, the
    candidate next to it follows.

    Parameters
    ----------
    cosine
        (m,) of the candidates.
    order
        (m,) of `random_order`.
    shown
        (m,) which candidates were shown.
    answered
        (k,) the cosines of all pairs that were answered, with a yes or a no.
    unsure
        Of `unsure_range`.

    Returns
    -------
    int or None
        Index of the candidate; None when all were shown.
    """
    left = order[~shown[order]]
    if not len(left):
        return None
    low, high = unsure
    x = np.asarray(cosine, dtype=np.float64)[left]
    inside = (x >= low) & (x <= high)
    if not inside.any():
        return int(left[np.maximum(low - x, x - high).argmin()])
    edges = np.linspace(low, high, N_BINS + 1)[1:-1]
    known = np.asarray(answered, dtype=np.float64)
    known = known[(known >= low) & (known <= high)]
    n_answered = np.bincount(np.searchsorted(edges, known, side="right"), minlength=N_BINS)
    n_in_bin = n_answered[np.searchsorted(edges, x[inside], side="right")]
    return int(left[inside][n_in_bin.argmin()])


def unsure_range(cosine: npt.ArrayLike, model: DuplicateModel | None) -> tuple[float, float]:
    """The cosines at which it has to be asked whether a pair is a duplicate.

    Parameters
    ----------
    cosine
        (m,) of the candidates, at least one.
    model
        What was fitted to the answers so far: the range is where P(duplicate) is from 0.005 to 0.995, as far as there are
        candidates. Without one it is from the 1st percentile of the candidates to the highest.

    Examples
    --------
    >>> unsure_range(np.linspace(0.5, 1.0, 101), None)
    (0.505, 1.0)
    """
    x = np.asarray(cosine, dtype=np.float64)
    if model is None:
        return float(np.percentile(x, LOWEST_PERCENTILE)), float(x.max())
    ends = cosine_at(UNSURE, intercept=model.intercept, slope=model.slope)
    low, high = np.clip(ends, x.min(), x.max()).tolist()
    return low, high


class ThresholdHistory:
    """The thresholds after each of the last answers. Each is fitted once, however often it is asked for.

    Parameters
    ----------
    n_last
        How many are kept in view.
    probabilities
        Of the thresholds `suspected` and `certain`, in this order.
    """

    def __init__(self, *, n_last: int, probabilities: tuple[float, float]) -> None:
        self._n_last = n_last
        self._probabilities = probabilities
        self._answers: list[tuple[float, bool]] = []
        self._fitted: dict[int, tuple[float, float]] = {}

    def after(self, cosine: Sequence[float], is_duplicate: Sequence[bool]) -> list[tuple[float, float]]:
        """(suspected, certain) after each of the last answers, the newest last; NaN where they had no thresholds.

        Parameters
        ----------
        cosine, is_duplicate
            (n,) of all answers, in the order in which they were given. What is as it was the last time is not fitted again.
        """
        answers = list(zip(cosine, is_duplicate, strict=True))
        n_same = next(
            (n for n, (old, new) in enumerate(zip(self._answers, answers, strict=False)) if old != new),
            min(len(self._answers), len(answers)),
        )
        self._answers = answers
        self._fitted = {n: thresholds for n, thresholds in self._fitted.items() if n <= n_same}
        wanted = range(max(1, len(answers) - self._n_last + 1), len(answers) + 1)
        for n in wanted:
            if n not in self._fitted:
                self._fitted[n] = self._fit(cosine[:n], is_duplicate[:n])
        return [self._fitted[n] for n in wanted]

    def _fit(self, cosine: Sequence[float], is_duplicate: Sequence[bool]) -> tuple[float, float]:
        try:
            model = fit_thresholds(cosine, is_duplicate, probabilities=self._probabilities, n_resamples=1)
        except (ValueError, ArithmeticError):
            return np.nan, np.nan
        return model.suspected, model.certain


def converged(history: Sequence[tuple[float, float]], *, tolerance: float, n_last: int) -> bool:
    """Whether both thresholds have come to rest.

    Parameters
    ----------
    history
        (suspected, certain) after each answer, the newest last.
    tolerance
        Cosine: how far each of the last may be from the newest.
    n_last
        How many answers count. With fewer in the history, or any without thresholds (NaN), they have not.

    Examples
    --------
    >>> converged([(0.8, 0.9), (0.931, 0.969), (0.930, 0.970)], tolerance=0.002, n_last=2)
    True
    >>> converged([(0.8, 0.9), (0.931, 0.969), (0.930, 0.970)], tolerance=0.002, n_last=3)
    False
    """
    if len(history) < n_last:
        return False
    last = np.asarray(history[-n_last:], dtype=np.float64)
    return bool(np.isfinite(last).all() and (np.abs(last - last[-1]) <= tolerance).all())
