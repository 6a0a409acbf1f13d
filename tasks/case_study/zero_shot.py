"""The zero-shot experiment: prompts against prompts, on repeated partitions of each collection (the case study's section 6.2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import KFold

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

ENSEMBLE = "ensemble"


def prompt_sets(templates: Mapping[str, Floats], *, ensemble: bool) -> dict[str, Floats]:
    """The prompt embeddings of every configuration: each template, and the mean of all, normalised again.

    Parameters
    ----------
    templates
        Template -> (n_classes, d) L2-normalised rows.
    ensemble
        Add the ensemble, where there are several templates (Radford et al. 2021, §3.1.4).
    """
    found = dict(templates)
    if ensemble and len(templates) > 1:
        mean = np.mean(list(templates.values()), axis=0)
        found[ENSEMBLE] = (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)
    return found


def folds(n: int, *, n_folds: int, seed: int) -> Ints:
    """The fold of each of n images in a random partition, (n,).

    Raises
    ------
    ValueError
        When there are fewer images than folds.
    """
    if n < n_folds:
        raise ValueError(f"{n} images cannot be cut into {n_folds} folds")
    fold = np.empty(n, dtype=np.int64)
    for number, (_, rows) in enumerate(KFold(n_folds, shuffle=True, random_state=seed).split(np.empty(n))):
        fold[rows] = number
    return fold
