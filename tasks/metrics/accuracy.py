"""Accuracy, top-k and region accuracy, with bootstrap intervals that respect places."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]


def top_k_hits(y_true: npt.NDArray[np.int64], scores: npt.NDArray[np.floating], k: int) -> Bools:
    """Whether the true class is among the k highest scores, (n,).

    Ties are broken by the lower class index, as `numpy.argmax` does, so that k = 1 is plain accuracy.

    Parameters
    ----------
    y_true
        Class indices, (n,).
    scores
        One score a class, (n, n_classes).
    """
    own = np.take_along_axis(scores, y_true[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < y_true[:, None]
    rank = (scores > own).sum(axis=1) + ((scores == own) & earlier).sum(axis=1)
    return np.asarray(rank < k)


def region_hits(y_true: npt.NDArray[np.int64], y_pred: npt.NDArray[np.int64], region: npt.NDArray[np.int64]) -> Bools:
    """Whether the predicted class lies in the region of the true class, (n,)."""
    return np.asarray(region[y_true] == region[y_pred])


def share_interval(
    hits: Bools, groups: npt.NDArray[np.int64], *, n_resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the share of hits, resampling whole groups.

    Images of one place are not independent: resampling them one by one would make the interval too narrow
    (Davison & Hinkley 1997, §3.8).

    Parameters
    ----------
    hits
        (n,) booleans.
    groups
        Group of each image, (n,) integers, such as the index of its place.
    """
    _, group = np.unique(groups, return_inverse=True)
    n_groups = int(group.max()) + 1
    size = np.bincount(group, minlength=n_groups).astype(np.float64)
    n_hits = np.bincount(group, weights=hits, minlength=n_groups)
    generator = np.random.default_rng(seed)
    shares = np.empty(n_resamples)
    for resample in range(n_resamples):
        times = np.bincount(generator.integers(n_groups, size=n_groups), minlength=n_groups)
        shares[resample] = (times @ n_hits) / (times @ size)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(low), float(high)
