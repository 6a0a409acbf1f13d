"""The nearest image from another place, as a brute-force search finds it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dedup import elsewhere as module
from tasks.dedup.elsewhere import UNKNOWN, Places, great_circle_km, nearest_elsewhere


@pytest.mark.parametrize(
    ("one", "other", "distance_km"),
    [
        ((0, 0), (0, 180), np.pi * 6371.0088),
        ((90, 0), (-90, 77), np.pi * 6371.0088),
        ((0, 179.5), (0, -179.5), np.pi * 6371.0088 / 180),
        ((51.5, -0.12), (40.71, -74.01), 5570),  # London and New York, as atlases have it
        ((12.3, 45.6), (12.3, 45.6), 0),
    ],
)
def test_distances(one: tuple[float, float], other: tuple[float, float], distance_km: float) -> None:
    found = great_circle_km(*one, np.array([other[0]]), np.array([other[1]]))
    assert found[0] == pytest.approx(distance_km, rel=2e-3, abs=1e-9)


def unit(n: int, d: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@given(n=st.integers(2, 60), seed=st.integers(0, 10_000), min_distance_km=st.floats(0, 15_000))
@settings(max_examples=60)
def test_as_brute_force(n: int, seed: int, min_distance_km: float) -> None:
    generator = np.random.default_rng(seed)
    latitude = np.where(generator.random(n) < 0.3, np.nan, generator.uniform(-90, 90, n))
    places = Places(latitude, generator.uniform(-180, 180, n), generator.integers(UNKNOWN, 4, n))
    vectors = unit(n, 5, seed)
    vectors[n // 2 :] = vectors[: n - n // 2]  # equal ones
    rows = generator.permutation(n)[: n // 2 + 1]
    found, cosine = nearest_elsewhere(vectors, rows, places, min_distance_km=min_distance_km)
    exact = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    for row, other, value in zip(rows, found, cosine, strict=True):
        elsewhere = []
        for each in range(n):
            if np.isnan(latitude[row]) or np.isnan(latitude[each]):
                labels = places.label[row], places.label[each]
                if UNKNOWN not in labels and labels[0] != labels[1]:
                    elsewhere.append(each)
            elif (
                great_circle_km(
                    latitude[row], places.longitude[row], latitude[each : each + 1], places.longitude[each : each + 1]
                )[0]
                >= min_distance_km
            ):
                elsewhere.append(each)
        if elsewhere:
            assert other in elsewhere
            assert exact[row, other] == pytest.approx(max(exact[row, each] for each in elsewhere), abs=1e-7)
            assert value == pytest.approx(exact[row, other], abs=1e-7)
        else:
            assert other == UNKNOWN
            assert np.isnan(value)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, label = unit(300, 6, 1), np.arange(300) % 7
    vectors[150:] = vectors[:150]
    places = Places(np.full(300, np.nan), np.full(300, np.nan), label)
    rows = np.arange(0, 300, 3)
    once = nearest_elsewhere(vectors, rows, places, min_distance_km=1)
    monkeypatch.setattr(module, "_COLUMNS", 7)
    again = nearest_elsewhere(vectors, rows, places, min_distance_km=1)
    assert once[0].tolist() == again[0].tolist()
    assert once[1].tobytes() == again[1].tobytes()
    assert (label[once[0]] != label[rows]).all()
