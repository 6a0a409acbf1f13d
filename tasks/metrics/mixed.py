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
    truth, predicted, regions = (np.asarray(each, dtype=np.int64) for each in (y_true, y_pred, region))
    if truth.ndim != 1 or truth.shape != predicted.shape or not len(truth):
        raise ValueError(f"y_true and y_pred must be two equally long lists, got {truth.shape} and {predicted.shape}")
    n_classes = len(regions)
    highest, lowest = max(truth.max(), predicted.max()), min(truth.min(), predicted.min())
    if lowest < 0 or highest >= n_classes:
        raise ValueError(f"class indices reach from {lowest} to {highest}, but region covers 0 to {n_classes - 1}")

    def count(classes: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return np.bincount(classes, minlength=n_classes).astype(np.float64)

    hit = truth == predicted
    near = ~hit & (regions[truth] == regions[predicted])
    credit = count(truth[hit]) + count(truth[near]) / 2
    false_positive = count(predicted[~hit])
    false_negative = count(truth[~hit & ~near])
    occurs = np.union1d(truth, predicted)
    precision = _ratio(credit, credit + false_positive)[occurs]
    recall = _ratio(credit, credit + false_negative)[occurs]
    f1 = _ratio(2 * precision * recall, precision + recall)
    mean_precision, mean_recall = float(precision.mean()), float(recall.mean())
    total = mean_precision + mean_recall
    return MixedScores(
        precision=mean_precision,
        recall=mean_recall,
        f1=float(f1.mean()),
        f1_harmonic=2 * mean_precision * mean_recall / total if total else 0.0,
        missed=len(np.setdiff1d(truth, predicted)),
    )


def _ratio(part: npt.NDArray[np.float64], whole: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Quotient, 0 where the denominator is 0."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
