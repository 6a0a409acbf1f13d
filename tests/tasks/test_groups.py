"""Groups of near-duplicates, against networkx-free brute force, and the rule by which one image is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dedup import groups as module
from tasks.dedup.groups import group_numbers, groups, keep_order, kept_rows


def clustered(seed: int, n: int, d: int = 6, spread: float = 0.15) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(max(1, n // 4), d))
    vectors = centres[generator.integers(0, len(centres), n)] + spread * generator.normal(size=(n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def pairs(vectors: np.ndarray, min_cosine: float) -> tuple[np.ndarray, np.ndarray]:
    cosines = vectors @ vectors.T
    i, j = np.nonzero(np.triu(cosines >= min_cosine, 1))
    return i.astype(np.int64), j.astype(np.int64)


def walked(n: int, i: np.ndarray, j: np.ndarray) -> list[set[int]]:
    """Components by walking, the plain way."""
    neighbours: dict[int, set[int]] = {row: set() for row in range(n)}
    for a, b in zip(i.tolist(), j.tolist(), strict=True):
        neighbours[a].add(b)
        neighbours[b].add(a)
    seen: set[int] = set()
    found = []
    for row in range(n):
        if row not in seen:
            component, waiting = set(), [row]
            while waiting:
                at = waiting.pop()
                if at not in component:
                    component.add(at)
                    waiting += neighbours[at]
            seen |= component
            if len(component) > 1:
                found.append(component)
    return found


def as_sets(numbers: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(numbers == number).tolist()) for number in range(numbers.max(initial=-1) + 1)]


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), n=st.integers(0, 40), min_cosine=st.floats(0.5, 0.999))
def test_connected_groups_are_those_found_by_walking(seed: int, n: int, min_cosine: float) -> None:
    vectors = clustered(seed, n)
    i, j = pairs(vectors, min_cosine)
    numbers = group_numbers(n, i, j, vectors, min_cosine=min_cosine, how="connected")
    assert as_sets(numbers) == walked(n, i, j)


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 40), min_cosine=st.floats(0.5, 0.999))
def test_complete_groups_hold_pairs_alone_and_lie_in_connected_ones(seed: int, n: int, min_cosine: float) -> None:
    vectors = clustered(seed, n)
    i, j = pairs(vectors, min_cosine)
    connected = as_sets(group_numbers(n, i, j, vectors, min_cosine=min_cosine, how="connected"))
    complete = group_numbers(n, i, j, vectors, min_cosine=min_cosine, how="complete")
    for rows in as_sets(complete):
        assert any(rows <= other for other in connected)
        assert all(vectors[a] @ vectors[b] >= min_cosine - 1e-6 for a, b in combinations(rows, 2))
    assert not any(
        group.smallest_cosine < min_cosine - 1e-6 for group in groups(complete, vectors, min_cosine=min_cosine)
    )


def test_a_chain_is_told() -> None:
    angles = np.radians([0, 10, 20, 90, 95])
    vectors = np.column_stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    min_cosine = float(np.cos(np.radians(12)))
    i, j = pairs(vectors, min_cosine)
    numbers = group_numbers(5, i, j, vectors, min_cosine=min_cosine, how="connected")
    assert numbers.tolist() == [0, 0, 0, 1, 1]
    chain, pair = groups(numbers, vectors, min_cosine=min_cosine)
    assert (chain.is_chain, pair.is_chain) == (True, False)
    assert chain.smallest_cosine == pytest.approx(np.cos(np.radians(20)), abs=1e-6)
    cut = group_numbers(5, i, j, vectors, min_cosine=min_cosine, how="complete")
    assert sorted(map(len, as_sets(cut))) == [2, 2]
    assert cut[3] == cut[4] != -1


def test_one_image_of_each_group_is_kept_by_the_rule() -> None:
    old, new = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (2001, 2020))
    order = [
        keep_order(100, 100, 5, old, "a"),
        keep_order(200, 100, 0, None, "b"),  # most pixels
        keep_order(50, 50, 1, old, "c"),
        keep_order(50, 50, 2, new, "d"),  # most metadata
        keep_order(50, 50, 2, None, "e"),
        keep_order(10, 10, 0, new, "f"),
        keep_order(10, 10, 0, old, "g"),  # oldest
        keep_order(10, 10, 0, None, "i"),
        keep_order(10, 10, 0, None, "h"),  # id
        keep_order(1, 1, 0, None, "z"),
    ]
    numbers = np.array([0, 0, 1, 1, 1, 2, 2, 3, 3, -1])
    assert np.flatnonzero(kept_rows(numbers, order)).tolist() == [1, 3, 6, 8, 9]


def test_nobody_is_lost_where_there_is_no_pair() -> None:
    none = np.array([], dtype=np.int64)
    numbers = group_numbers(3, none, none, clustered(0, 3), min_cosine=0.9, how="connected")
    assert numbers.tolist() == [-1, -1, -1]
    assert kept_rows(numbers, [(0,)] * 3).all()


@pytest.mark.parametrize("block_rows", [1, 7, 64])
def test_the_smallest_cosine_of_a_long_group_is_found_block_by_block(
    block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    monkeypatch.setattr(module, "BLOCK_ROWS", block_rows)
    for n in (2, 3, 40):
        (group,) = groups(np.zeros(n, dtype=np.int64), vectors[:n], min_cosine=0.5)
        assert group.smallest_cosine == pytest.approx(cosines[:n, :n][np.triu_indices(n, 1)].min(), abs=1e-6)


def test_a_group_too_large_for_complete_linkage_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TO_CUT", 5)
    vectors = np.ones((6, 1), dtype=np.float32)
    i = np.arange(5)
    with pytest.raises(ValueError, match="a group of 6 images is too large for complete linkage"):
        group_numbers(6, i, i + 1, vectors, min_cosine=0.5, how="complete")
    assert set(group_numbers(6, i, i + 1, vectors, min_cosine=0.5, how="connected").tolist()) == {0}
