"""Caps, nested subsets, images mixed in and single positives: nested, seeded, whatever the order of the rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.split.balance import (
    cap,
    mixed,
    nested_subsets,
    of_large_classes,
    rank_in_class,
    single_positives,
)

labels_lists = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=60)


def ids_of(labels: list[str]) -> list[str]:
    return [f"{number:04d}" for number in range(len(labels))]


@given(labels_lists, st.integers(1, 20), st.integers(0, 5), st.randoms())
def test_a_cap_takes_so_many_of_each_class_in_any_order(
    labels: list[str], most: int, seed: int, random: object
) -> None:
    ids = ids_of(labels)
    taken = cap(labels, ids, max_per_class=most, seed=seed)
    assert Counter(np.array(labels)[taken]) == {label: min(n, most) for label, n in Counter(labels).items()}
    order = list(range(len(labels)))
    random.shuffle(order)  # type: ignore[attr-defined]
    other = cap([labels[row] for row in order], [ids[row] for row in order], max_per_class=most, seed=seed)
    assert {ids[row] for row in np.flatnonzero(taken)} == {ids[order[row]] for row in np.flatnonzero(other)}
    looser = cap(labels, ids, max_per_class=most + 3, seed=seed)
    assert (looser | ~taken).all()


@given(labels_lists, st.integers(0, 3))
def test_images_added_later_keep_the_order_of_the_earlier_ones(labels: list[str], seed: int) -> None:
    ids = ids_of(labels)
    before = rank_in_class(labels[:-1], ids[:-1], seed=seed) if len(labels) > 1 else np.empty(0)
    after = rank_in_class(labels, ids, seed=seed)[:-1]
    for label in set(labels[:-1]):
        rows = [row for row, each in enumerate(labels[:-1]) if each == label]
        assert np.argsort(before[rows]).tolist() == np.argsort(after[rows]).tolist()


@given(labels_lists, st.integers(0, 3))
def test_subsets_are_nested_and_other_seeds_draw_others(labels: list[str], seed: int) -> None:
    subsets = nested_subsets(labels, ids_of(labels), sizes=(2, 5, 9), seed=seed)
    assert (subsets[5] | ~subsets[2]).all()
    assert (subsets[9] | ~subsets[5]).all()
    counts = Counter(labels)
    for size, taken in subsets.items():
        assert Counter(np.array(labels)[taken]) == {label: min(n, size) for label, n in counts.items()}


def test_other_seeds_draw_other_images() -> None:
    labels = ["a"] * 100
    one, other = (cap(labels, ids_of(labels), max_per_class=20, seed=seed) for seed in (0, 1))
    assert (one != other).any()
    drawn = np.mean([cap(labels, ids_of(labels), max_per_class=20, seed=seed) for seed in range(400)], axis=0)
    assert abs(drawn - 0.2).max() < 0.09  # four standard errors


def test_images_of_large_classes() -> None:
    labels = ["b", "a", "b", "c", "b"]
    assert of_large_classes(labels, min_per_class=3).tolist() == [True, False, True, False, True]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=80), st.integers(0, 3))
def test_mixing_keeps_class_sizes_and_more_than_half_of_the_base(rows: list[tuple[str, bool]], seed: int) -> None:
    labels, is_base = [row[0] for row in rows], np.array([row[1] for row in rows])
    taken = mixed(labels, is_base, ids_of(labels), seed=seed)
    assert taken.sum() == is_base.sum()
    for label in set(labels):
        own = np.array([each == label for each in labels])
        n_base, n_left = int((own & is_base).sum()), int((own & is_base & taken).sum())
        n_mixed = int((own & ~is_base & taken).sum())
        assert n_left + n_mixed == n_base
        assert n_mixed == min(int((own & ~is_base).sum()), max(0, (n_base + 1) // 2 - 1))
        assert n_base == 0 or n_mixed < n_base / 2


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 5))
def test_one_positive_each_among_the_labels(n: int, c: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.random((n, c)) < 0.4
    labels[np.arange(n), generator.integers(0, c, n)] = True
    ids = [str(number) for number in range(n)]
    observed = single_positives(labels, ids, seed=seed)
    assert (observed.sum(axis=1) == 1).all()
    assert (labels | ~observed).all()
    assert (observed == single_positives(labels, ids, seed=seed)).all()
    order = generator.permutation(n)
    assert (single_positives(labels[order], [ids[row] for row in order], seed=seed) == observed[order]).all()


def test_positives_are_drawn_uniformly() -> None:
    labels = np.tile([[True, False, True, True]], (6000, 1))
    observed = single_positives(labels, [str(number) for number in range(6000)], seed=0).mean(axis=0)
    assert observed[1] == 0
    assert abs(observed[[0, 2, 3]] - 1 / 3).max() < 0.025


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="2 images have no label to observe, such as 'y'"):
        single_positives([[1, 0], [0, 0], [0, 0]], ["x", "y", "z"], seed=0)
    with pytest.raises(ValueError, match="max_per_class must be 1 or more"):
        cap(["a"], ["x"], max_per_class=0, seed=0)
    with pytest.raises(ValueError, match="2 labels, but 1 ids"):
        rank_in_class(["a", "b"], ["x"], seed=0)
    with pytest.raises(ValueError, match="sizes must be 1 or more"):
        nested_subsets(["a"], ["x"], sizes=(), seed=0)
