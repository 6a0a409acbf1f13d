"""Multinomial logistic regression on frozen embeddings: the linear probe of the literature."""

from __future__ import annotations

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler


def logistic_regression(*, C: float = 0.1, max_iter: int = 300, random_state: int | None = None) -> Pipeline:
    """A scikit-learn pipeline: standardise each dimension, then fit L2-penalised multinomial logistic regression.

    Parameters
    ----------
    C
        Inverse strength of the L2 penalty.
    max_iter
        Iterations of L-BFGS.
    random_state
        Passed on; L-BFGS itself is deterministic.
    """
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=max_iter, random_state=random_state))
