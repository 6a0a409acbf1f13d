from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from tasks.split.stratified import stratified_split

SIZES = {"train": 0.85, "test": 0.15}
class_sizes = st.lists(st.integers(1, 60), min_size=1, max_size=25)


@given(class_sizes, st.integers(0, 5))
def test_every_class_within_one_image_of_its_share_and_totals_exact(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    parts = stratified_split(labels, sizes=SIZES, seed=seed)
    large = [n for n in counts if n >= 2]
    assert abs((parts == "test").sum() - 0.15 * sum(large)) <= 0.5 + 1e-9
    assert (parts == "zero_shot").sum() == sum(n for n in counts if n < 2)
    for label, n in enumerate(counts):
        if n >= 2:
            assert abs((parts[labels == label] == "test").sum() - 0.15 * n) < 1


@given(class_sizes, st.integers(0, 5))
def test_order_of_rows_changes_no_count_and_same_seed_is_same_split(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    shuffled = np.random.default_rng(seed).permutation(labels)
    first, again, other = (stratified_split(each, sizes=SIZES, seed=seed) for each in (labels, labels, shuffled))
    assert (first == again).all()
    assert Counter(zip(labels, first, strict=True)) == Counter(zip(shuffled, other, strict=True))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=60))
def test_groups_stay_whole(groups: list[tuple[int, int]]) -> None:
    labels = np.concatenate([np.full(size, label) for label, size in groups])
    group = np.concatenate([np.full(size, number) for number, (_, size) in enumerate(groups)])
    parts = stratified_split(labels, sizes=SIZES, seed=0, groups=group)
    assert all(len(set(parts[group == number])) == 1 for number in range(len(groups)))


def test_other_seed_is_another_split() -> None:
    labels = np.repeat(np.arange(5), 40)
    assert (stratified_split(labels, sizes=SIZES, seed=0) != stratified_split(labels, sizes=SIZES, seed=1)).any()


def test_class_counts_are_those_of_scikit_learn_where_shares_are_whole() -> None:
    labels = np.repeat(["a", "b", "c"], [100, 40, 20])
    parts = stratified_split(labels, sizes=SIZES, seed=0)
    _, test = train_test_split(labels, test_size=0.15, stratify=labels, random_state=0)
    assert Counter(labels[parts == "test"]) == Counter(test) == {"a": 15, "b": 6, "c": 3}


@pytest.mark.parametrize("sizes", [{"train": 0.8, "test": 0.1}, {"train": 1.1, "test": -0.1}])
def test_sizes_that_do_not_add_up_are_refused(sizes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        stratified_split(["a", "b"], sizes=sizes, seed=0)


def test_group_with_two_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="more than one label"):
        stratified_split(["a", "b"], sizes=SIZES, seed=0, groups=[1, 1])
    with pytest.raises(ValueError, match="3 groups"):
        stratified_split(["a", "b"], sizes=SIZES, seed=0, groups=[1, 2, 3])
