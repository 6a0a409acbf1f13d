from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

from tasks.heads.logistic import logistic_regression
from tasks.heads.zero_shot import ZeroShotHead


def unit(n: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(n, 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


PROMPTS = unit(5, 0)


def test_zero_shot_is_the_nearest_prompt() -> None:
    images = unit(50, 1)
    head = ZeroShotHead(prompt_embeddings=PROMPTS).fit(images)
    cosines = images @ PROMPTS.T
    np.testing.assert_allclose(head.decision_function(images), cosines, atol=1e-6)
    np.testing.assert_array_equal(head.predict(images), cosines.argmax(axis=1))
    np.testing.assert_allclose(head.predict_proba(images).sum(axis=1), 1, atol=1e-5)
    wanted = np.exp(100 * cosines) / np.exp(100 * cosines).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(head.predict_proba(images), wanted, atol=1e-4)


def test_zero_shot_does_not_depend_on_the_length_of_the_image_vector() -> None:
    images = unit(20, 2)
    head = ZeroShotHead(prompt_embeddings=PROMPTS).fit(images)
    np.testing.assert_allclose(head.decision_function(images * 7), head.decision_function(images), atol=1e-6)
    assert np.isfinite(head.decision_function(np.zeros((1, 16)))).all()


def test_zero_shot_is_an_estimator() -> None:
    head = ZeroShotHead(prompt_embeddings=PROMPTS, logit_scale=50)
    assert head.get_params()["logit_scale"] == 50
    images = unit(10, 3)
    copies = [clone(head).fit(images), pickle.loads(pickle.dumps(head.fit(images)))]  # noqa: S301
    for copy in copies:
        np.testing.assert_array_equal(copy.predict(images), head.predict(images))
    assert 0 <= head.score(images, head.predict(images)) <= 1


def test_wrong_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="images have 8 dimensions"):
        ZeroShotHead(prompt_embeddings=PROMPTS).fit(unit(4, 0)[:, :8])
    with pytest.raises(ValueError, match="features"):
        ZeroShotHead(prompt_embeddings=PROMPTS).fit(unit(4, 0)).predict(unit(4, 0)[:, :8])


def test_logistic_regression_is_scikit_learns_on_standardised_features() -> None:
    images, labels = unit(200, 4), np.arange(200) % 4
    images = images + labels[:, None] * 0.1
    model = logistic_regression(C=0.5, max_iter=2000).fit(images, labels)
    standardised = (images - images.mean(axis=0)) / images.std(axis=0)
    reference = LogisticRegression(C=0.5, max_iter=2000).fit(standardised, labels)
    np.testing.assert_allclose(model.predict_proba(images), reference.predict_proba(standardised), atol=1e-4)
