"""Zero-shot head: cosine to the prompt of each class (Radford et al. 2021, §3.1)."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

Floats = npt.NDArray[np.float32]


class ZeroShotHead(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Predict the class whose prompt embedding is nearest to the image embedding.

    Parameters
    ----------
    prompt_embeddings
        One L2-normalised row a class, (n_classes, d) float32, in the order of class indices.
    logit_scale
        Cosines are multiplied by it before the softmax; CLIP's own upper bound is 100.

    Notes
    -----
    `fit` learns nothing: it checks the shapes and sets ``classes_`` to the class indices ``0 … n_classes - 1``.
    """

    def __init__(self, *, prompt_embeddings: Floats, logit_scale: float = 100.0) -> None:
        self.prompt_embeddings = prompt_embeddings
        self.logit_scale = logit_scale

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike | None = None) -> Self:  # noqa: ARG002  (scikit-learn's signature)
        """Check `X` (n, d) against the prompts; `y` is not read.

        Raises
        ------
        ValueError
            When images and prompts have different dimensions.
        """
        images: Floats = validate_data(self, X, dtype=np.float32)
        prompts = np.asarray(self.prompt_embeddings)
        if prompts.ndim != 2 or prompts.shape[1] != images.shape[1]:
            raise ValueError(f"prompt_embeddings has shape {prompts.shape}, images have {images.shape[1]} dimensions")
        self.classes_ = np.arange(len(prompts))
        return self

    def decision_function(self, X: npt.ArrayLike) -> Floats:
        """Cosine of each image and each prompt, (n, n_classes) float32; rows of `X` are normalised first."""
        check_is_fitted(self)
        images: Floats = validate_data(self, X, dtype=np.float32, reset=False)
        norms = np.linalg.norm(images, axis=1, keepdims=True)
        prompts = np.asarray(self.prompt_embeddings, dtype=np.float32)
        return np.asarray((images / np.where(norms > 0, norms, 1)) @ prompts.T, dtype=np.float32)

    def predict_proba(self, X: npt.ArrayLike) -> Floats:
        """Softmax of the scaled cosines, (n, n_classes) float32."""
        logits = self.logit_scale * self.decision_function(X)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Class index of the nearest prompt, (n,)."""
        return np.asarray(self.decision_function(X).argmax(axis=1))
