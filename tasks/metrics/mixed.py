"""Mixed metrics: precision, recall and F1 with half credit for a prediction in the right region.

Source: ``spec/case_study.md`` §6. For a class c, an image of c that was predicted as another class of c's region is
*approximately true positive* (ATP), any other miss of c is a false negative (FN); an image predicted as c in error is a
false positive (FP).

    P_c = (TP + ATP/2) / (TP + ATP/2 + FP)        R_c = (TP + ATP/2) / (TP + ATP/2 + FN)

and 0 where undefined. The scores are means over the classes that occur in the truth or in the predictions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MixedScores:
    """Mixed metrics over all classes.

    Attributes
    ----------
    precision, recall
        Means over classes of P_c and R_c.
    f1
        Mean over classes of the per-class F1: the form that the study's tables follow.
    f1_harmonic
        Harmonic mean of `precision` and `recall`: the form of the study's equation 5.
    missed
        Number of classes in the truth that were never predicted.
    """

    precision: float
    recall: float
    f1: float
    f1_harmonic: float
    missed: int


def mixed_scores(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, region: npt.ArrayLike) -> MixedScores:
    """Mixed precision, recall and F1.

    Parameters
    ----------
    y_true, y_pred
        Class indices, (n,) integers.
    region
        Class index -> region index, (n_classes,) integers.

    Returns
    -------
    MixedScores

    Raises
    ------
    ValueError
        When the lengths differ, there is no image, or a class has no region.

    Examples
    --------
    Classes A, B in one region and D in another; truth A A A B D, predicted A B D B D:

    >>> scores = mixed_scores([0, 0, 0, 1, 2], [0, 1, 2, 1, 2], [0, 0, 1])
    >>> f"{scores.precision:.6f} {scores.recall:.6f} {scores.f1:.6f} {scores.f1_harmonic:.6f} {scores.missed}"
    '0.666667 0.866667 0.694444 0.753623 0'
    """
    each = class_scores(y_true, y_pred, region)
    occurs = each.occurs
    mean_precision, mean_recall = float(each.precision[occurs].mean()), float(each.recall[occurs].mean())
    total = mean_precision + mean_recall
    return MixedScores(
        precision=mean_precision,
        recall=mean_recall,
        f1=float(each.f1[occurs].mean()),
        f1_harmonic=2 * mean_precision * mean_recall / total if total else 0.0,
        missed=int(((each.n_true > 0) & (each.n_predicted == 0)).sum()),
    )


@dataclass(frozen=True)
class ClassScores:
    """Counts and scores of every class, (n_classes,) each, or (R, n_classes) of R resamples; P, R and F1 are 0 where undefined."""

    tp: Floats
    atp: Floats
    fp: Floats
    fn: Floats

    @property
    def n_true(self) -> Floats:
        """Images of the class."""
        return self.tp + self.atp + self.fn

    @property
    def n_predicted(self) -> Floats:
        """Images that were taken for it."""
        return self.tp + self.fp

    @property
    def occurs(self) -> npt.NDArray[np.bool_]:
        """Whether it is in the truth or in the predictions."""
        return (self.n_true + self.n_predicted) > 0

    @property
    def precision(self) -> Floats:
        credit = self.tp + self.atp / 2
        return _ratio(credit, credit + self.fp)

    @property
    def recall(self) -> Floats:
        credit = self.tp + self.atp / 2
        return _ratio(credit, credit + self.fn)

    @property
    def f1(self) -> Floats:
        precision, recall = self.precision, self.recall
        return _ratio(2 * precision * recall, precision + recall)


def class_scores(y_true: npt.ArrayLike, y_pred: npt.ArrayLike, region: npt.ArrayLike) -> ClassScores:
    """The counts behind `mixed_scores`, class by class; parameters and errors as there."""
    truth, predicted, regions = _checked(y_true, y_pred, region)

    def count(classes: npt.NDArray[np.int64]) -> Floats:
        return np.bincount(classes, minlength=len(regions)).astype(np.float64)

    hit, near = outcomes(truth, predicted, regions)
    return ClassScores(
        tp=count(truth[hit]), atp=count(truth[near]), fp=count(predicted[~hit]), fn=count(truth[~hit & ~near])
    )


def outcomes(
    truth: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], region: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of each image, whether it is right, and whether it is wrong within the right region, (n,) each."""
    hit = truth == predicted
    return hit, ~hit & (region[truth] == region[predicted])


def _checked(
    y_true: npt.ArrayLike, y_pred: npt.ArrayLike, region: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    truth, predicted, regions = (np.asarray(each, dtype=np.int64) for each in (y_true, y_pred, region))
    if truth.ndim != 1 or truth.shape != predicted.shape or not len(truth):
        raise ValueError(f"y_true and y_pred must be two equally long lists, got {truth.shape} and {predicted.shape}")
    highest, lowest = max(truth.max(), predicted.max()), min(truth.min(), predicted.min())
    if lowest < 0 or highest >= len(regions):
        raise ValueError(f"class indices reach from {lowest} to {highest}, but region covers 0 to {len(regions) - 1}")
    return truth, predicted, regions


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Quotient, 0 where the denominator is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
