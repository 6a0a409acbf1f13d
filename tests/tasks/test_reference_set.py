from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.split.reference import group_size_table, reference_set


def unit(n: int, d: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def images(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], np.ndarray]:
    """Embeddings, cells, two features and ids, most images in one cell."""
    generator = np.random.default_rng(seed)
    cells = np.minimum(generator.geometric(0.5, n), 6)
    features = [generator.choice(["indoor", "outdoor"], n), generator.integers(0, 3, n)]
    return unit(n, seed=seed), cells, features, np.array([f"{number:05d}" for number in generator.permutation(n)])


@given(st.integers(1, 120), st.integers(1, 130), st.integers(0, 20), st.sampled_from([1, 5, 20, 60]))
@settings(max_examples=25)
def test_groups_give_as_evenly_as_their_sizes_allow(n_images: int, n: int, seed: int, max_group: int) -> None:
    vectors, cells, features, ids = images(n_images, seed)
    chosen = reference_set(vectors, cells, features, n=n, seed=seed, ids=ids, max_group=max_group)
    assert chosen.rows.dtype == chosen.group.dtype == np.int64
    assert len(chosen.rows) == min(n, n_images)
    assert (np.diff(chosen.rows) > 0).all()
    size = np.bincount(chosen.group)
    given_ = np.bincount(chosen.group[chosen.rows], minlength=len(size))
    assert (size > 0).all()
    rounds = given_.max()
    assert (given_ <= size).all()
    assert ((given_ == size) | (given_ >= rounds - 1)).all()
    assert chosen.sizes == group_size_table(chosen.group)


@given(st.integers(1, 120), st.integers(0, 20))
@settings(max_examples=30)
def test_the_order_of_the_rows_changes_nothing(n_images: int, seed: int) -> None:
    vectors, cells, features, ids = images(n_images, seed)
    order = np.random.default_rng(seed + 1).permutation(n_images)
    one = reference_set(vectors, cells, features, n=40, seed=seed, ids=ids, max_group=10)
    other = reference_set(
        vectors[order],
        cells[order],
        [column[order] for column in features],
        n=40,
        seed=seed,
        ids=ids[order],
        max_group=10,
    )
    assert set(ids[one.rows]) == set(ids[order][other.rows])
    assert (one.group[order] == other.group).all()


def test_no_group_holds_two_cells_or_two_labels_and_small_ones_are_whole() -> None:
    vectors, cells, features, ids = images(2000)
    group = reference_set(vectors, cells, features, n=100, seed=0, ids=ids).group
    labels = list(zip(cells, *features, strict=True))
    labels_of = {number: {labels[row] for row in np.flatnonzero(group == number)} for number in set(group.tolist())}
    assert all(len(each) == 1 for each in labels_of.values())
    n_groups = Counter(next(iter(each)) for each in labels_of.values())
    for label, n in Counter(labels).items():
        if n <= 50:
            assert n_groups[label] == 1
        else:
            assert 1 < n_groups[label] <= -(-n // 50)


def test_large_groups_are_cut_into_images_that_are_alike() -> None:
    centres = np.repeat(np.eye(6, dtype=np.float32), 40, axis=0)
    vectors = centres + 0.01 * unit(240, 6)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    group = reference_set(vectors, [0] * 240, [], n=6, seed=1, ids=[str(row) for row in range(240)], max_group=40).group
    assert len(set(group.tolist())) == 6
    assert [len(set(group[start : start + 40].tolist())) for start in range(0, 240, 40)] == [1] * 6


def test_clusters_are_of_about_the_size_asked_for() -> None:
    ids = [str(row) for row in range(1500)]
    alike = np.eye(16, dtype=np.float32)[:1] + 0.01 * unit(1000, 16)  # a third of the images is as unlike as can be
    alike /= np.linalg.norm(alike, axis=1, keepdims=True)
    for vectors in (unit(1500, 64), unit(1500, 3), np.concatenate([alike, unit(500, 16)])):
        size = np.bincount(reference_set(vectors, [0] * 1500, [], n=6, seed=1, ids=ids).group)
        assert len(size) == 30
        assert size.max() <= 100


def test_equal_embeddings_in_a_large_group(recwarn: pytest.WarningsRecorder) -> None:
    vectors = np.repeat(unit(1), 200, axis=0)
    chosen = reference_set(vectors, [0] * 200, [], n=5, seed=0, ids=[str(row) for row in range(200)])
    assert len(chosen.rows) == 5
    assert not recwarn.list


def test_same_seed_same_set_smaller_sets_are_part_of_larger_ones_and_other_seeds_differ() -> None:
    vectors, cells, features, ids = images(500)
    one, again, larger, other = (
        reference_set(vectors, cells, features, n=n, seed=seed, ids=ids)
        for n, seed in ((50, 0), (50, 0), (200, 0), (50, 1))
    )
    assert one.rows.tolist() == again.rows.tolist()
    assert one.group.tolist() == again.group.tolist()
    assert set(one.rows) <= set(larger.rows)
    assert set(one.rows) != set(other.rows)


def test_every_group_of_a_seed_is_as_likely_first() -> None:
    first = Counter()
    for seed in range(300):
        chosen = reference_set(unit(6), [0, 0, 0, 1, 1, 2], [], n=1, seed=seed, ids=list("abcdef"))
        first[int(chosen.rows[0])] += 1
    assert 60 < first[5] < 140  # the only image of a group of three groups
    assert all(10 < first[row] < 90 for row in range(5))


def test_labels_may_be_missing_and_there_may_be_no_images() -> None:
    feature = np.array(["day", None, None, "day"], dtype=object)
    chosen = reference_set(unit(4), [1.5, np.nan, np.nan, 1.5], [feature], n=2, seed=0, ids=list("abcd"))
    assert chosen.group.tolist() == [0, 1, 1, 0]
    none = reference_set(np.empty((0, 4), dtype=np.float32), [], [[]], n=2, seed=0, ids=[])
    assert len(none.rows) == len(none.group) == 0
    assert [count for _, count in none.sizes] == [0] * 8


def test_the_table_of_sizes() -> None:
    sizes = [1, 1, 2, 3, 4, 10, 11, 20, 21, 50, 51, 100, 101, 150, 151, 999]
    table = group_size_table(np.repeat(np.arange(len(sizes)) * 3, sizes))
    names = ["1", "2–3", "4–10", "11–20", "21–50", "51–100", "101–150", "more than 150"]
    assert table == [(name, 2) for name in names]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 0}, "n and max_group must be at least 1, got 0 and 50"),
        ({"max_group": 0}, "n and max_group must be at least 1, got 1 and 0"),
        ({"ids": list("aabbcdd")}, "3 ids are there more than once: a, b, d"),
        ({"ids": list("ab")}, r"ids must have the shape \(7,\), as many as there are embeddings, got \(2,\)"),
        ({"cells": [1]}, r"cells must have the shape \(7,\)"),
        ({"features": [list("abcdefg"), ["a"]]}, r"features\[1\] must have the shape \(7,\)"),
        ({"embeddings": np.zeros((7, 8), dtype=np.float32)}, "row 0 of the embeddings has the length 0, not 1"),
        ({"seed": -1}, "non-negative"),
    ],
)
def test_what_is_refused(given: dict[str, object], message: str) -> None:
    default = {"embeddings": unit(7), "cells": [0] * 7, "features": [], "n": 1, "seed": 0, "ids": list("abcdefg")}
    with pytest.raises(ValueError, match=message):
        reference_set(**{**default, **given})  # type: ignore[arg-type]
