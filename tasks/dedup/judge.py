"""How well a cosine tells duplicates from other pairs, on pairs that the threshold was not fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedKFold

from tasks.dedup.threshold import fit_thresholds

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Those that other tools ship or advise.
CONSTANTS = (0.90, 0.94, 0.96)
N_FOLDS = 5
N_BINS = 10


@dataclass(frozen=True)
class Rule:
    """A threshold put to the test: what it calls duplicates, and what are.

    `cosine` of a fitted rule is the mean over the folds. `precision` is None where nothing is called a duplicate.
    """

    name: str
    cosine: float
    precision: float | None
    recall: float
    n: int


@dataclass(frozen=True)
class Bin:
    """Pairs of about the same fitted probability: its mean, and the share that are duplicates."""

    probability: float
    share: float
    n: int


@dataclass(frozen=True)
class Judgement:
    """Rules and calibration on pairs held out; empty where there are too few pairs to hold some out."""

    rules: tuple[Rule, ...]
    calibration: tuple[Bin, ...]


def judge(
    cosine: npt.ArrayLike, is_duplicate: npt.ArrayLike, *, probabilities: tuple[float, float], seed: int
) -> Judgement:
    """Precision and recall of the fitted thresholds and of constants, and the calibration of the probabilities.

    Every pair is judged once, by a model fitted to the four fifths of the pairs that it is not in (stratified five-fold
    cross-validation); constants are judged on the same pairs.

    Parameters
    ----------
    cosine, is_duplicate
        (n,) as of `tasks.dedup.threshold.fit_thresholds`.
    probabilities
        Of the two thresholds.
    seed
        Of the folds.
    """
    x, duplicate = np.asarray(cosine, dtype=np.float64), np.asarray(is_duplicate, dtype=np.bool_)
    probability = np.empty(len(x))
    called = {name: np.zeros(len(x), dtype=np.bool_) for name in ("suspected", "certain")}
    thresholds: dict[str, list[float]] = {name: [] for name in called}
    if min(duplicate.sum(), (~duplicate).sum()) < N_FOLDS:
        return Judgement((), ())
    for train, test in StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed).split(x[:, None], duplicate):
        try:
            model = fit_thresholds(x[train], duplicate[train], probabilities=probabilities, n_resamples=1)
        except ValueError:  # too few, or no slope: so a fold has no threshold to judge
            return Judgement((), ())
        probability[test] = model.probability(x[test])
        for name, called_by in called.items():
            threshold = float(getattr(model, name))
            called_by[test] = x[test] >= threshold
            thresholds[name].append(threshold)
    rules = [_rule(f"fitted, {name}", float(np.mean(thresholds[name])), called[name], duplicate) for name in called]
    rules += [_rule(f"constant {each:.2f}", each, x >= each, duplicate) for each in CONSTANTS]
    return Judgement(tuple(rules), _calibration(probability, duplicate))


def _rule(name: str, cosine: float, called: Bools, duplicate: Bools) -> Rule:
    n_right = int((called & duplicate).sum())
    precision = n_right / int(called.sum()) if called.any() else None
    return Rule(name, cosine, precision, n_right / int(duplicate.sum()), len(duplicate))


def _calibration(probability: Floats, duplicate: Bools) -> tuple[Bin, ...]:
    """Bins of about equally many pairs, in the order of their probability."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, N_BINS) if len(part)]
    return tuple(Bin(float(probability[part].mean()), float(duplicate[part].mean()), len(part)) for part in parts)
