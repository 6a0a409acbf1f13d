from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.metrics.cluster import contingency_matrix

from tasks.split import multilabel_split, split_quality, stratified_split

SIZES = {"train": 0.75, "test": 0.25}


def test_single_label_figures_by_hand() -> None:
    labels = ["a"] * 8 + ["b"] * 4 + ["c"] * 2
    parts = ["train"] * 5 + ["test"] * 3 + ["train"] * 4 + ["zero_shot"] * 2
    quality = split_quality(labels, parts, SIZES)
    assert quality.classes == ("a", "b", "c")
    assert quality.parts == ("train", "test")
    assert quality.wanted.tolist() == [[6.0, 2.0], [3.0, 1.0], [0.0, 0.0]]
    assert quality.got.tolist() == [[5, 3], [4, 0], [0, 0]]
    assert quality.got_share[:2].tolist() == [[0.625, 0.375], [1.0, 0.0]]
    assert np.isnan(quality.got_share[2]).all()
    assert (quality.worst_images, quality.worst_images_at) == (1.0, ("a", "train"))
    assert (quality.worst_share, quality.worst_share_at) == (0.25, ("b", "train"))
    assert quality.part_wanted.tolist() == [9.0, 3.0]
    assert quality.part_got.tolist() == [9, 3]
    assert quality.n_elsewhere == 2
    assert (quality.n_groups, quality.n_divided, quality.largest_group, quality.largest_group_size) == (0, 0, None, 0)
    assert quality.warnings == ()


@pytest.mark.parametrize("kind", [np.array, csr_array])
def test_multi_label_figures_by_hand(kind: type) -> None:
    labels = kind([[1, 1], [1, 0], [1, 1], [1, 0]])
    quality = split_quality(labels, ["train", "train", "test", "train"], SIZES, class_names=["sea", "sand"])
    assert quality.classes == ("sea", "sand")
    assert quality.got.tolist() == [[3, 1], [1, 1]]
    assert quality.wanted.tolist() == [[3.0, 1.0], [1.5, 0.5]]
    assert (quality.worst_images, quality.worst_images_at) == (0.5, ("sand", "train"))
    assert (quality.worst_share, quality.worst_share_at) == (0.25, ("sand", "train"))
    assert quality.part_got.tolist() == [3, 1]


def test_divided_and_large_groups_are_told() -> None:
    parts = ["train"] * 5 + ["test"] * 3
    quality = split_quality(["a"] * 8, parts, SIZES, groups=["x", "y", "y", "y", "z", "z", "w", "w"])
    assert (quality.n_groups, quality.n_divided) == (4, 1)
    assert (quality.largest_group, quality.largest_group_size) == ("y", 3)
    assert quality.warnings == (
        "1 of 4 groups are in more than one part",
        "the group 'y' has 3 images, more than wanted in test",
    )
    assert split_quality(["a"] * 8, ["train"] * 8, SIZES).warnings == ("the part test is empty",)


def test_a_group_that_is_partly_in_zero_shot_is_divided() -> None:
    quality = split_quality(["a", "a", "b"], ["train", "test", "zero_shot"], SIZES, groups=[1, 2, 2])
    assert quality.n_divided == 1


@given(st.lists(st.integers(0, 6), min_size=2, max_size=80), st.integers(0, 3))
def test_counts_are_those_of_scikit_learn_and_the_worst_is_one_of_them(label: list[int], seed: int) -> None:
    parts = stratified_split(label, sizes=SIZES, seed=seed)
    quality = split_quality(label, parts, SIZES)
    order = ["test", "train"]  # scikit-learn sorts names
    columns = [quality.parts.index(part) for part in order if part in set(parts)]
    assert (quality.got[:, columns] == contingency_matrix(label, parts)).all()
    off = np.abs(quality.got - quality.wanted)
    row, column = (
        names.index(at) for names, at in zip((quality.classes, quality.parts), quality.worst_images_at, strict=True)
    )
    assert quality.worst_images == off.max() == off[row, column] < 1
    assert quality.got.sum() == len(label) == quality.part_got.sum()


def test_single_label_data_as_one_column_a_class_is_the_same() -> None:
    label = np.random.default_rng(0).integers(0, 5, 200)
    parts = multilabel_split(np.eye(5)[label], sizes=SIZES, seed=0)
    one, other = split_quality(label, parts, SIZES), split_quality(np.eye(5)[label], parts, SIZES)
    assert one.classes == other.classes
    for name in ("wanted", "got", "got_share", "part_wanted", "part_got"):
        assert (getattr(one, name) == getattr(other, name)).all()
    assert (one.worst_share_at, one.worst_images_at) == (other.worst_share_at, other.worst_images_at)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ["train"]}, "2 labels, but 1 parts"),
        ({"parts": ["train", None]}, "parts are missing in rows 1"),
        ({"parts": ["zero_shot"] * 2}, "no image with a class is in one of the parts train, test"),
        ({"labels": np.zeros((2, 0))}, "no image with a class"),
        ({"groups": [1]}, "2 labels, but 1 groups"),
        ({"sizes": {"train": 0.5}}, "add up to 1"),
        ({"labels": np.eye(2), "class_names": ["a"]}, "2 columns of labels, but 1 class names"),
    ],
)
def test_what_cannot_be_compared_is_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split_quality(**{"labels": ["a", "b"], "parts": ["train", "test"], "sizes": SIZES, **options})
