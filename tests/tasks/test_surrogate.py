"""Surrogate values as the softmax of all cosines in float64 has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from tasks.dedup import pairs
from tasks.split import surrogate as module
from tasks.split.surrogate import surrogate_strata, surrogate_values

pytestmark = pytest.mark.usefixtures("one_thread")
TEMPERATURES = (1.0, 100.0, 1000.0)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def embeddings(n: int, d: int, seed: int = 0) -> np.ndarray:
    """A third of the images alone, the others in clusters, from loose ones to copies."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((max(n // 8, 1), d))
    vectors = centres[generator.integers(0, len(centres), n)]
    vectors = vectors + generator.choice([0.0, 0.02, 0.2, 3.0], (n, 1)) * generator.standard_normal((n, d))
    return unit(vectors)


def brute_values(vectors: np.ndarray, temperature: float) -> np.ndarray:
    exact = vectors.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    logits = temperature * (exact @ exact.T)
    np.fill_diagonal(logits, -np.inf)
    return softmax(logits, axis=1).max(axis=1)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("vectors", [embeddings(700, 16), embeddings(900, 512, 1), unit(np.eye(40) + 0.1)])
def test_values_are_those_of_the_softmax_in_float64(vectors: np.ndarray, temperature: float) -> None:
    values = surrogate_values(vectors, temperature=temperature, block_rows=128)
    assert values.dtype == np.float64
    error = np.abs(values / brute_values(vectors, temperature) - 1)
    assert np.sqrt(np.square(error).mean()) < 1e-7 * (2 + temperature)
    assert error.max() < 5e-7 * (2 + temperature)


@given(st.integers(2, 60), st.integers(1, 24), st.floats(1e-3, 1e4), st.integers(1, 70), st.integers(0, 99))
def test_any_shape_as_brute_force(n: int, d: int, temperature: float, block_rows: int, seed: int) -> None:
    vectors = embeddings(n, d, seed)
    values = surrogate_values(vectors, temperature=temperature, block_rows=block_rows)
    np.testing.assert_allclose(values, brute_values(vectors, temperature), rtol=1e-6 * (2 + temperature))
    assert (values > 0).all()
    assert (values <= 1).all()


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("n", "block_columns"), [(40, 1), (60, 7), (300, 50), (300, 2048)])
def test_block_shapes_change_rounding_only(
    n: int, block_columns: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = embeddings(n, 64)
    values = surrogate_values(vectors, temperature=temperature)
    monkeypatch.setitem(pairs.BLOCK_COLUMNS, "cpu", block_columns)
    for block_rows in [*([1] if n < 100 else []), 37, n - 1, n, 5000]:
        again = surrogate_values(vectors, temperature=temperature, block_rows=block_rows)
        np.testing.assert_allclose(again, values, rtol=1e-6 * (1 + temperature))


def test_values_follow_the_rows_when_they_are_reordered() -> None:
    vectors, order = embeddings(400, 32), np.random.default_rng(3).permutation(400)
    np.testing.assert_allclose(surrogate_values(vectors[order]), surrogate_values(vectors)[order], rtol=1e-4)


@pytest.mark.parametrize("n_copies", [2, 3, 11])
def test_the_inverse_counts_the_images_that_are_alike(n_copies: int) -> None:
    vectors = np.repeat(np.eye(30, dtype=np.float32), n_copies, axis=0)
    np.testing.assert_allclose(surrogate_values(vectors, temperature=200.0), 1 / (n_copies - 1), rtol=1e-6)


def test_what_would_underflow_is_computed_from_its_own_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.concatenate([embeddings(200, 256), unit(np.random.default_rng(5).standard_normal((100, 256)))])
    expected = brute_values(vectors, 2000.0)
    again: list[int] = []
    original = module._from_own_largest

    def counted(scaled: np.ndarray, rows: np.ndarray, *rest: object) -> np.ndarray:
        again.extend(rows.tolist())
        return original(scaled, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_from_own_largest", counted)
    np.testing.assert_allclose(surrogate_values(vectors, temperature=2000.0, block_rows=32), expected, rtol=1e-3)
    assert set(range(200, 300)) <= set(again)
    assert len(again) == len(set(again)) < 300
    again.clear()
    np.testing.assert_allclose(surrogate_values(vectors), brute_values(vectors, 100.0), rtol=1e-4)
    assert not again


def test_lengths_that_float16_rounded_are_made_good() -> None:
    vectors = (embeddings(200, 64) * np.random.default_rng(0).uniform(0.9992, 1.0008, (200, 1))).astype(np.float32)
    np.testing.assert_allclose(surrogate_values(vectors), brute_values(vectors, 100.0), rtol=1e-4)
    half = embeddings(200, 64).astype(np.float16)
    np.testing.assert_allclose(surrogate_values(half), brute_values(half, 100.0), rtol=1e-4)


def test_input_is_not_written_to(recwarn: pytest.WarningsRecorder) -> None:
    vectors = embeddings(100, 16)
    before = vectors.copy()
    vectors.flags.writeable = False
    surrogate_values(vectors)
    surrogate_values(vectors, temperature=5000.0)
    assert (vectors == before).all()
    assert not recwarn.list


@pytest.mark.parametrize("n", [0, 1, 2])
def test_none_one_and_two(n: int) -> None:
    for temperature in TEMPERATURES:
        values = surrogate_values(embeddings(2, 7)[:n], temperature=temperature)
        np.testing.assert_array_equal(values, [[], [np.nan], [1.0, 1.0]][n])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_finds_the_same_but_for_rounding() -> None:
    vectors = embeddings(3000, 512)
    for temperature in TEMPERATURES:
        on_cpu, on_gpu = (surrogate_values(vectors, temperature=temperature, device=each) for each in ("cpu", "cuda"))
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-6 * (2 + temperature))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0 and at most 10,000, got 0.0"),
        ({"temperature": np.nan}, "temperature"),
        ({"temperature": 10_001.0}, "temperature"),
        ({"block_rows": 0}, "block_rows must be at least 1, got 0"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"embeddings": np.zeros(3, dtype=np.float32)}, r"shape \(n, d\), got \(3,\)"),
        (
            {"embeddings": np.full((2, 2), 3.0, dtype=np.float32)},
            "row 0 of the embeddings has the length 4.24264, not 1",
        ),
        ({"embeddings": np.array([[1, 0], [np.nan, 1]], dtype=np.float32)}, "row 1 of the embeddings holds NaN"),
    ],
)
def test_what_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        surrogate_values(**{"embeddings": embeddings(3, 4), **given})  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 15))
def test_strata_are_of_equal_size_in_the_order_of_the_values(values: list[int], n_bins: int) -> None:
    stratum = surrogate_strata(values, n_bins=n_bins)
    assert stratum.dtype == np.int64
    sizes = np.bincount(stratum, minlength=n_bins)
    assert len(sizes) == n_bins
    assert sizes.max() - sizes.min() <= 1
    for one in range(len(values)):
        for other in range(one):
            earlier, later = sorted([one, other], key=lambda row: (values[row], row))
            assert stratum[earlier] <= stratum[later]


def test_strata_that_are_refused() -> None:
    with pytest.raises(ValueError, match="2 of 3 values are NaN, the first in row 1"):
        surrogate_strata([0.5, np.nan, np.nan])
    with pytest.raises(ValueError, match="n_bins must be at least 1, got 0"):
        surrogate_strata([0.5], n_bins=0)
    with pytest.raises(ValueError, match=r"shape \(n,\), got \(1, 1\)"):
        surrogate_strata([[0.5]])
