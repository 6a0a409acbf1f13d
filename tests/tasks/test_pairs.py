"""Pairs and nearest neighbours as a brute-force search finds them, and the proof of the screens put to the test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dedup import pairs as module
from tasks.dedup.pairs import Pairs, TooManyPairsError, near_pairs, nearest_neighbours, score_error, screen_error

pytestmark = pytest.mark.usefixtures("one_thread")
SCREENS = ("float32", "bfloat16")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random(n: int, d: int, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((n, d)))


def clustered(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Clusters of five whose cosines lie around 0.9, some equal rows, and as many rows that are like no other."""
    generator = np.random.default_rng(seed)
    centres = np.repeat(generator.standard_normal((n // 10 + 1, d)), 5, axis=0)
    near = centres + generator.uniform(0.2, 0.5, (len(centres), 1)) * generator.standard_normal(centres.shape)
    vectors = np.concatenate([near, generator.standard_normal((n, d))])[:n]
    vectors[: n // 20] = vectors[n // 20 : 2 * (n // 20)]
    return unit(generator.permutation(vectors))


def cosines(vectors: np.ndarray) -> np.ndarray:
    """All cosines, (n, n) float32, each the exact product rounded but for one bit."""
    exact = vectors.astype(np.float64)
    return (exact @ exact.T).astype(np.float32)


def brute_pairs(vectors: np.ndarray, min_cosine: float) -> set[tuple[int, int]]:
    near = np.triu(cosines(vectors) >= np.float32(min_cosine), k=1)
    return set(zip(*(index.tolist() for index in np.nonzero(near)), strict=True))


def found_pairs(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))


def same(one: Pairs, other: Pairs) -> bool:
    """To the last bit."""
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in ("i", "j", "cosine"))


@pytest.mark.parametrize("vectors", [random(700, 16), clustered(700, 64), clustered(301, 512, 1)])
@pytest.mark.parametrize("min_cosine", [0.3, 0.9, 0.95])
def test_pairs_are_those_of_brute_force(vectors: np.ndarray, min_cosine: float) -> None:
    pairs = near_pairs(vectors, min_cosine=min_cosine, block_rows=128)
    assert found_pairs(pairs) == brute_pairs(vectors, min_cosine)
    assert [pairs.i.dtype, pairs.j.dtype, pairs.cosine.dtype] == [np.int64, np.int64, np.float32]
    assert (pairs.i < pairs.j).all()
    assert (np.lexsort((pairs.j, pairs.i)) == np.arange(len(pairs.i))).all()
    np.testing.assert_allclose(pairs.cosine, cosines(vectors)[pairs.i, pairs.j], rtol=0, atol=2.0**-23)
    assert (pairs.cosine >= np.float32(min_cosine)).all()


def test_every_pair_at_the_lowest_cosine() -> None:
    pairs = near_pairs(random(90, 8), min_cosine=-1.0, block_rows=7)
    assert found_pairs(pairs) == {(i, j) for j in range(90) for i in range(j)}


@pytest.mark.parametrize(("n", "block_columns"), [(40, 1), (60, 7), (400, 64), (400, 2048)])
def test_no_block_shape_changes_a_bit(n: int, block_columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(n, 96)
    pairs, (row, cosine) = near_pairs(vectors, min_cosine=0.85), nearest_neighbours(vectors)
    assert len(pairs.i) > n / 4
    monkeypatch.setitem(module.BLOCK_COLUMNS, "cpu", block_columns)
    for block_rows in [*([1] if n < 100 else []), 37, 128, n - 1, n, 1000]:
        assert same(near_pairs(vectors, min_cosine=0.85, block_rows=block_rows), pairs)
        other_row, other_cosine = nearest_neighbours(vectors, block_rows=block_rows)
        assert other_row.tobytes() == row.tobytes()
        assert other_cosine.tobytes() == cosine.tobytes()


@given(st.integers(0, 40), st.integers(1, 24), st.floats(-1, 1, width=32), st.integers(1, 45), st.sampled_from(SCREENS))
@settings(max_examples=100)
def test_any_shape_as_brute_force(n: int, d: int, min_cosine: float, block_rows: int, screen: str) -> None:
    vectors = clustered(n, d, seed=n + d) if n else np.empty((0, d), dtype=np.float32)
    pairs = near_pairs(vectors, min_cosine=min_cosine, block_rows=block_rows, screen=screen)
    every = cosines(vectors).astype(np.float64)
    least = float(np.float32(min_cosine))
    upper = np.triu(np.ones((n, n), dtype=bool), k=1)
    found = np.zeros((n, n), dtype=bool)
    found[pairs.i, pairs.j] = True
    # Brute force sums in another order, so its last bit may differ.
    assert found[upper & (every >= least + 2.0**-23)].all()
    assert not found[~upper | (every < least - 2.0**-23)].any()
    assert same(pairs, near_pairs(vectors, min_cosine=min_cosine))


@pytest.mark.parametrize("n_known", [0, 1, 50, 128, 299, 300])
@pytest.mark.parametrize("block_rows", [32, 1024])
def test_known_pairs_and_new_ones_are_all(n_known: int, block_rows: int) -> None:
    vectors = clustered(300, 64)
    every = near_pairs(vectors, min_cosine=0.8)
    new = near_pairs(vectors, min_cosine=0.8, n_known=n_known, block_rows=block_rows)
    known = near_pairs(vectors[:n_known], min_cosine=0.8)
    i, j, cosine = (np.concatenate([getattr(known, name), getattr(new, name)]) for name in ("i", "j", "cosine"))
    order = np.lexsort((j, i))
    assert (new.j >= n_known).all()
    assert same(Pairs(i[order], j[order], cosine[order]), every)


def test_more_pairs_than_allowed() -> None:
    vectors = clustered(300, 64)
    n_pairs = len(near_pairs(vectors, min_cosine=0.8).i)
    assert len(near_pairs(vectors, min_cosine=0.8, max_pairs=n_pairs).i) == n_pairs
    with pytest.raises(TooManyPairsError, match=f"more than {n_pairs - 1} pairs have a cosine of 0.8 or more"):
        near_pairs(vectors, min_cosine=0.8, max_pairs=n_pairs - 1)


@pytest.mark.parametrize("vectors", [random(300, 3), clustered(300, 48), clustered(120, 512, 3)])
def test_both_screens_find_the_same_to_the_last_bit(vectors: np.ndarray) -> None:
    for min_cosine in (0.5, 0.88, 0.9, 0.999):
        one, other = (near_pairs(vectors, min_cosine=min_cosine, screen=screen) for screen in SCREENS)
        assert same(one, other)
        assert len(one.i)


@pytest.mark.parametrize(("screen", "block_rows"), [("float32", 20), ("float32", 1024), ("bfloat16", 30)])
def test_a_cosine_of_exactly_the_least_is_found_and_one_bit_less_is_not(screen: str, block_rows: int) -> None:
    vectors = clustered(100, 100, 5)
    every = near_pairs(vectors, min_cosine=0.5)
    for at in range(0, len(every.i), 5):
        cosine = every.cosine[at]
        exact = near_pairs(vectors, min_cosine=float(cosine), block_rows=block_rows, screen=screen)
        assert (int(every.i[at]), int(every.j[at])) in found_pairs(exact)
        if cosine < 1:
            above = near_pairs(
                vectors, min_cosine=float(np.nextafter(cosine, np.float32(2))), block_rows=block_rows, screen=screen
            )
            assert found_pairs(exact) - found_pairs(above) == {
                (int(i), int(j))
                for i, j in zip(every.i[every.cosine == cosine], every.j[every.cosine == cosine], strict=True)
            }


def test_equal_rows_have_the_same_cosine_of_one_but_for_rounding() -> None:
    vectors = np.repeat(random(5, 512), [1, 3, 4, 1, 2], axis=0)
    for screen in SCREENS:
        pairs = near_pairs(vectors, min_cosine=0.999999, block_rows=3, screen=screen)
        assert found_pairs(pairs) == {(1, 2), (1, 3), (2, 3)} | {(i, j) for j in range(4, 8) for i in range(4, j)} | {
            (9, 10)
        }
        np.testing.assert_allclose(pairs.cosine, 1, rtol=0, atol=1e-6)
        assert len(set(pairs.cosine[:3].tolist())) == 1


def test_float16_is_widened() -> None:
    vectors = clustered(300, 64).astype(np.float16)
    pairs = near_pairs(vectors, min_cosine=0.9)
    assert same(pairs, near_pairs(vectors.astype(np.float32), min_cosine=0.9))
    assert found_pairs(pairs) == brute_pairs(vectors, 0.9)
    assert (nearest_neighbours(vectors)[0] == nearest_neighbours(vectors.astype(np.float32))[0]).all()


def test_arrays_of_any_layout_and_arrays_that_may_not_be_written(recwarn: pytest.WarningsRecorder) -> None:
    vectors = clustered(200, 32)
    expected = near_pairs(vectors, min_cosine=0.9)
    read_only = vectors.copy()
    read_only.flags.writeable = False
    for each in (np.asfortranarray(vectors), np.repeat(vectors, 2, axis=0)[::2], read_only):
        assert same(near_pairs(each, min_cosine=0.9), expected)
    assert not recwarn.list
    for screen in SCREENS:
        near_pairs(vectors, min_cosine=0.9, screen=screen)
    nearest_neighbours(vectors)
    assert (vectors == read_only).all()


@pytest.mark.parametrize("vectors", [random(500, 16), clustered(500, 64), clustered(211, 512, 1), random(50, 1)])
@pytest.mark.parametrize("block_rows", [13, 60, 1024])
def test_nearest_neighbours_are_those_of_brute_force(vectors: np.ndarray, block_rows: int) -> None:
    row, cosine = nearest_neighbours(vectors, block_rows=block_rows)
    assert [row.dtype, cosine.dtype] == [np.int64, np.float32]
    # As placeprint scores a pair, all pairs.
    n = len(vectors)
    exact = np.full((n, n), -np.inf, dtype=np.float32)
    pairs = near_pairs(vectors, min_cosine=-1.0) if (cosines(vectors) > -0.99).all() else None
    if pairs is None:
        wide = vectors.astype(np.float64)
        for i in range(n):
            exact[i] = (wide[i] * wide).sum(axis=1)
        np.fill_diagonal(exact, -np.inf)
    else:
        exact[pairs.i, pairs.j] = exact[pairs.j, pairs.i] = pairs.cosine
    assert (row == exact.argmax(axis=1)).all()
    assert (cosine == exact.max(axis=1)).all()


def test_the_lowest_of_equally_near_rows() -> None:
    vectors = np.repeat(random(4, 20), [3, 1, 2, 2], axis=0)[[7, 0, 3, 4, 1, 6, 5, 2]]
    for block_rows in (1, 2, 3, 8):
        row, cosine = nearest_neighbours(vectors, block_rows=block_rows)
        assert row[[0, 1, 3, 4, 5, 6, 7]].tolist() == [5, 4, 6, 1, 0, 3, 1]
        np.testing.assert_allclose(cosine[[0, 1, 3, 4, 5, 6, 7]], 1, rtol=0, atol=1e-6)
    axes = np.eye(6, dtype=np.float32)
    assert nearest_neighbours(axes, block_rows=2)[0].tolist() == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_none_one_and_two(n: int) -> None:
    vectors = random(2, 7)[:n]
    for screen in SCREENS:
        assert len(near_pairs(vectors, min_cosine=-1.0, screen=screen).i) == n // 2
    row, cosine = nearest_neighbours(vectors)
    assert row.tolist() == [[], [-1], [1, 0]][n]
    assert row.dtype == np.int64
    assert cosine.dtype == np.float32
    assert np.isnan(cosine).all() == (n < 2)


@pytest.mark.parametrize("d", [1, 8, 200, 512, 2048])
@pytest.mark.parametrize("screen", SCREENS)
def test_products_are_as_near_the_exact_ones_as_proved(d: int, screen: str) -> None:
    generator = np.random.default_rng(d)
    # Also components that are all of one sign and all near the worst case for bfloat16: half way between two of its numbers.
    flat = np.full((20, d), 1 + 2.0**-8) * (1 + generator.uniform(-1e-4, 0, (20, d)))
    for vectors in (random(70, d), unit(np.abs(generator.standard_normal((40, d)))), unit(flat)):
        wide = vectors.astype(np.longdouble)
        exact = wide @ wide.T
        for first_row, first_column, products in module.upper_blocks(vectors, 64, screen, "cpu"):
            rows, columns = products.shape
            error = np.abs(
                products.double().numpy() - exact[first_row : first_row + rows, first_column : first_column + columns]
            )
            assert float(error.max()) <= screen_error(d, screen)
        i, j = (index.ravel() for index in np.indices(exact.shape))
        assert float(
            np.abs(module.pair_cosines(vectors, i, j).astype(np.longdouble) - exact.ravel()).max()
        ) <= score_error(d)


def test_bounds_are_of_the_order_told() -> None:
    assert screen_error(512, "float32") == pytest.approx(512 * 2.0**-24, rel=3e-3)
    assert screen_error(512, "bfloat16") == pytest.approx(3 * 2.0**-8, rel=2e-2)
    assert score_error(512) < 1.01 * 2.0**-24


def test_the_margin_for_bfloat16_is_needed() -> None:
    """Every component of two equal rows just under half way between two bfloat16 numbers: rounded down, their cosine is 0.992."""
    d = 1016
    vectors = np.full((2, d), (1 + 2.0**-8 - 2.0**-20) / 32, dtype=np.float32)
    rounded = torch.from_numpy(vectors).bfloat16().double()
    assert float((rounded @ rounded.T)[0, 1]) < 0.9930  # so a margin of 2 · 2^-9, or 0.0039, would lose the pair
    pairs = near_pairs(vectors, min_cosine=0.9999, screen="bfloat16")
    assert found_pairs(pairs) == {(0, 1)}
    assert pairs.cosine[0] > 0.9999


def test_a_pairs_score_does_not_depend_on_the_others() -> None:
    for d in (1, 2, 5, 129, 512, 1000):
        vectors = random(300, d)
        i, j = np.random.default_rng(1).integers(0, 300, (2, 900))
        together = module.pair_cosines(vectors, i, j)
        alone = [module.pair_cosines(vectors, i[at : at + 1], j[at : at + 1])[0] for at in range(900)]
        swapped = module.pair_cosines(vectors, j, i)
        assert together.tobytes() == np.array(alone, dtype=np.float32).tobytes() == swapped.tobytes()


@pytest.mark.parametrize("screen", SCREENS)
def test_settings_of_torch_are_overruled_and_left_as_they_were(screen: str) -> None:
    vectors = clustered(200, 64)
    expected = near_pairs(vectors, min_cosine=0.9)
    try:
        torch.set_float32_matmul_precision("medium")
        assert same(near_pairs(vectors, min_cosine=0.9, screen=screen), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_auto_is_bfloat16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for able, kind in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"avx512_bf16": able}, raising=False)
        assert module._kind("auto", "cpu") == kind
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert module._kind("auto", "cpu") == "float32"
    assert module._kind("auto", "cuda") == "bfloat16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_finds_the_same_to_the_last_bit() -> None:
    vectors = clustered(3000, 512)
    expected = near_pairs(vectors, min_cosine=0.9, device="cpu", screen="float32")
    for screen in SCREENS:
        assert same(near_pairs(vectors, min_cosine=0.9, device="cuda", screen=screen), expected)
    row, cosine = nearest_neighbours(vectors, device="cpu")
    other_row, other_cosine = nearest_neighbours(vectors, device="cuda")
    assert row.tobytes() == other_row.tobytes()
    assert cosine.tobytes() == other_cosine.tobytes()


MEMORY = """
import sys
from pathlib import Path
import numpy as np
import torch
from tasks.dedup.pairs import near_pairs, nearest_neighbours


def peak():  # in MB; getrusage's would begin with that of the process which started this one
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) / 1000


n = int(sys.argv[1])
vectors = np.random.default_rng(0).standard_normal((n, 32), dtype=np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
near_pairs(vectors[:2000], min_cosine=0.95)
before = peak()
near_pairs(vectors, min_cosine=0.95)
nearest_neighbours(vectors)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_square() -> None:
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, "20000"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert float(run.stdout) < 150  # all cosines would be 1600 MB


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros(5, dtype=np.float32), r"shape \(n, d\), got \(5,\)"),
        (np.zeros((2, 3, 4), dtype=np.float32), r"shape \(n, d\), got \(2, 3, 4\)"),
        (random(3, 4).astype(np.float64), "float32 or float16, got float64"),
        (np.array([["a"]]), "float32 or float16, got <U1"),
        (np.zeros((2, 4), dtype=np.float32), "row 0 of the embeddings has the length 0, not 1"),
        (np.empty((2, 0), dtype=np.float32), "row 0 of the embeddings has the length 0, not 1"),
        (
            np.concatenate([random(1500, 4), 1.0011 * random(1, 4)]),
            r"row 1500 of the embeddings has the length 1\.0011",
        ),
        (np.concatenate([random(2, 4), 0.9989 * random(1, 4)]), r"row 2 of the embeddings has the length 0\.9989"),
        (np.array([[1, 0], [np.nan, 1]], dtype=np.float32), "row 1 of the embeddings holds NaN or infinity"),
        (np.array([[1, 0], [np.inf, 1]], dtype=np.float16), "row 1 of the embeddings holds NaN or infinity"),
    ],
)
def test_embeddings_that_are_refused(vectors: np.ndarray, message: str) -> None:
    for search in (lambda: near_pairs(vectors, min_cosine=0.9), lambda: nearest_neighbours(vectors)):
        with pytest.raises(ValueError, match=message) as refusal:
            search()
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("factor", [0.9991, 1.0009])
def test_lengths_a_little_off_are_let_pass(factor: float) -> None:
    vectors = random(30, 16) * np.float32(factor)
    assert found_pairs(near_pairs(vectors, min_cosine=0.5)) == brute_pairs(vectors, 0.5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_cosine": np.nan}, "min_cosine must be between -1 and 1, got nan"),
        ({"min_cosine": 1.01}, "min_cosine must be between -1 and 1, got 1.01"),
        ({"block_rows": 0}, "block_rows must be at least 1, got 0"),
        ({"screen": "float16"}, "screen must be one of auto, float32, bfloat16, got 'float16'"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        pytest.param(
            {"device": "cuda"},
            "torch finds no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_settings_that_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        near_pairs(random(3, 4), **{"min_cosine": 0.9, **given})  # type: ignore[arg-type]
