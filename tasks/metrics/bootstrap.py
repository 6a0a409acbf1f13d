"""Bootstrap intervals of all metrics of the same images: the resamples are drawn once, and every metric is worked out of sums by group.

Percentile intervals that resample whole groups (Davison & Hinkley 1997, §3.8): images of one place are not independent.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from tasks.metrics.mixed import ClassScores, outcomes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

_RESAMPLES_AT_ONCE = 100  # keeps the working memory of 50,000 groups at 20 MB


class Bootstrap:
    """Resamples of groups of images.

    Parameters
    ----------
    groups
        Group of each image, (n,) integers; ``numpy.arange(n)`` resamples images.
    n_resamples, seed
        Of the resamples.
    """

    def __init__(self, groups: Ints, *, n_resamples: int, seed: int) -> None:
        self._group = np.unique(groups, return_inverse=True)[1]
        n_groups = int(self._group.max()) + 1
        generator = np.random.default_rng(seed)
        self._times = np.empty((n_resamples, n_groups), dtype=np.uint16)
        for resample in range(n_resamples):
            self._times[resample] = np.bincount(generator.integers(n_groups, size=n_groups), minlength=n_groups)

    def share(self, hits: npt.NDArray[np.bool_]) -> Interval:
        """95 % interval of the share of hits, (n,) booleans."""
        size = np.bincount(self._group).astype(np.float64)
        n_hits = np.bincount(self._group, weights=hits)
        return _interval((self._times @ n_hits) / (self._times @ size))

    def mixed(self, truth: Ints, predicted: Ints, region: Ints) -> dict[str, Interval]:
        """95 % intervals of `precision`, `recall`, `f1`, `f1_harmonic` and `missed` of `tasks.metrics.mixed.mixed_scores`."""
        hit, near = outcomes(truth, predicted, region)
        sums = {
            "tp": self._by_class(truth, hit, len(region)),
            "atp": self._by_class(truth, near, len(region)),
            "fp": self._by_class(predicted, ~hit, len(region)),
            "fn": self._by_class(truth, ~hit & ~near, len(region)),
        }
        drawn: dict[str, list[Floats]] = {name: [] for name in ("precision", "recall", "f1", "f1_harmonic", "missed")}
        for times in self._blocks():
            scores = ClassScores(**{name: np.asarray(times @ each) for name, each in sums.items()})
            n_occurring = scores.occurs.sum(axis=1)
            # Classes that do not occur have scores of 0, so that they add nothing to a sum.
            precision, recall, f1 = (
                each.sum(axis=1) / n_occurring for each in (scores.precision, scores.recall, scores.f1)
            )
            total = precision + recall
            harmonic = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
            missed = ((scores.n_true > 0) & (scores.n_predicted == 0)).sum(axis=1)
            for name, values in zip(drawn, (precision, recall, f1, harmonic, missed), strict=True):
                drawn[name].append(values)
        return {name: _interval(np.concatenate(values)) for name, values in drawn.items()}

    def _by_class(self, classes: Ints, chosen: npt.NDArray[np.bool_], n_classes: int) -> csr_array:
        """Of each group, the chosen images of each class, (n_groups, n_classes)."""
        rows = np.flatnonzero(chosen)
        ones = np.ones(len(rows))
        return csr_array((ones, (self._group[rows], classes[rows])), shape=(self._times.shape[1], n_classes))

    def _blocks(self) -> Iterator[Floats]:
        for first in range(0, len(self._times), _RESAMPLES_AT_ONCE):
            yield self._times[first : first + _RESAMPLES_AT_ONCE].astype(np.float64)


def _interval(values: Floats) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
