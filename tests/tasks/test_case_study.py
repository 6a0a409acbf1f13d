"""The zero-shot experiment's partitions and prompts, and how predictions are judged."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from tasks.case_study.judge import Bootstraps, cells_of, class_rows, metric_rows
from tasks.case_study.tables import latex_table
from tasks.case_study.zero_shot import ENSEMBLE, folds, prompt_sets
from tasks.labels.label_set import LabelSet
from tasks.metrics.mixed import mixed_scores

CLASSES = LabelSet(("A", "B", "D"), ("r1", "r1", "r2"))
TRUTH, PREDICTED = np.array([0, 0, 0, 1, 2]), np.array([0, 1, 2, 1, 2])


def test_folds_are_a_partition_as_even_as_can_be() -> None:
    fold = folds(267, n_folds=20, seed=4808)
    sizes = np.bincount(fold)
    assert len(sizes) == 20
    assert set(sizes.tolist()) == {13, 14}
    np.testing.assert_array_equal(fold, folds(267, n_folds=20, seed=4808))
    assert (fold != folds(267, n_folds=20, seed=4947)).mean() > 0.8
    with pytest.raises(ValueError, match="19 images cannot be cut into 20 folds"):
        folds(19, n_folds=20, seed=0)


def test_the_ensemble_is_the_mean_of_normalised_prompts() -> None:
    a, b = np.eye(2, 3, dtype=np.float32), np.eye(2, 3, k=1, dtype=np.float32)
    sets = prompt_sets({"a": a, "b": b}, ensemble=True)
    assert list(sets) == ["a", "b", ENSEMBLE]
    np.testing.assert_allclose(sets[ENSEMBLE], (a + b) / np.sqrt(2), atol=1e-6)
    assert list(prompt_sets({"a": a}, ensemble=True)) == ["a"]
    assert list(prompt_sets({"a": a, "b": b}, ensemble=False)) == ["a", "b"]


def test_metrics_are_those_of_their_functions() -> None:
    found = {row["metric"]: row for row in metric_rows({"part": "test"}, TRUTH, PREDICTED, CLASSES)}
    assert found["accuracy"]["value"] == pytest.approx(3 / 5)
    assert found["region_accuracy"]["value"] == pytest.approx(4 / 5)
    for name, value in asdict(mixed_scores(TRUTH, PREDICTED, CLASSES.region_index)).items():
        assert found[f"mixed_{name}"]["value"] == value
    assert {row["n"] for row in found.values()} == {5}
    assert {row["lower"] for row in found.values()} == {None}
    assert all(row["part"] == "test" for row in found.values())


def test_both_intervals_hold_the_value() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 300)
    predicted = np.where(generator.random(300) < 0.6, truth, generator.integers(0, 3, 300))
    cells = np.repeat(np.arange(30), 10)
    bootstraps = Bootstraps.of(cells, n_resamples=200, seed=0)
    for row in metric_rows({}, truth, predicted, CLASSES, bootstraps=bootstraps):
        assert row["lower"] <= row["value"] <= row["upper"], row
        assert row["lower_image"] <= row["value"] <= row["upper_image"], row


def test_classes_and_regions_by_hand() -> None:
    found = {(row["level"], row["name"]): row for row in class_rows({}, TRUTH, PREDICTED, CLASSES)}
    assert set(found) == {("label", "A"), ("label", "B"), ("label", "D"), ("region", "r1"), ("region", "r2")}
    a = found["label", "A"]
    assert (a["n_true"], a["n_predicted"], a["tp"], a["atp"]) == (3, 1, 1, 1)
    assert (a["precision"], a["recall"], a["f1"]) == pytest.approx((1, 0.6, 0.75))
    r1 = found["region", "r1"]
    assert (r1["n_true"], r1["tp"], r1["atp"], r1["recall"]) == (4, 3, 0, 0.75)


def test_cells_hold_neighbours_and_images_without_a_place_are_alone() -> None:
    latitude, longitude = np.array([50.0, 50.001, -30.0, np.nan, np.nan]), np.array([8.0, 8.001, 20.0, np.nan, 8.0])
    cells = cells_of(latitude, longitude, side_km=50)
    assert cells[0] == cells[1]
    assert len(set(cells.tolist())) == 4


def test_latex_escapes_what_comes_from_outside() -> None:
    import polars as pl

    text = latex_table(pl.DataFrame({"a_b": ["{country}", "50 % & more", "\\input{x}", "±"]}), "Table $1")
    assert r"a\_b \\" in text
    assert r"\{country\} \\" in text
    assert r"50 \% \& more \\" in text
    assert r"\textbackslash{}input\{x\} \\" in text
    assert r"$\pm$ \\" in text
    assert r"\caption{Table \$1}" in text
