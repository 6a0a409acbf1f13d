from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from tasks.split import stratified_split
from tasks.split.label_matrix import name_codes
from tasks.split.rounding import controlled_rounding
from tasks.split.sizes import part_totals

SIZES = {"train": 0.85, "test": 0.15}
THREE = {"train": 0.7, "validation": 0.15, "test": 0.15}
class_sizes = st.lists(st.integers(1, 60), min_size=1, max_size=25)
# Shares of up to six parts, of whole numbers, so that products with class sizes are often whole.
some_sizes = st.lists(st.integers(1, 20), min_size=1, max_size=6).map(
    lambda each: {f"part {number}": value / sum(each) for number, value in enumerate(each)}
)


def table(labels: np.ndarray, parts: np.ndarray, sizes: dict[str, float]) -> np.ndarray:
    return np.array([[((labels == label) & (parts == part)).sum() for part in sizes] for label in np.unique(labels)])


@given(class_sizes, some_sizes, st.integers(0, 5))
def test_every_class_within_one_image_of_its_share_and_totals_exact(
    counts: list[int], sizes: dict[str, float], seed: int
) -> None:
    assume(len(sizes) <= sum(counts))
    labels = np.repeat(np.arange(len(counts)), counts)
    got = table(labels, stratified_split(labels, sizes=sizes, seed=seed), sizes)
    shares = np.array(list(sizes.values()))
    assert (got.sum(axis=1) == counts).all()
    assert (np.abs(got - np.outer(counts, shares)) < 1).all()
    assert (np.abs(got.sum(axis=0) - sum(counts) * shares) < 1).all()


@given(class_sizes, st.sampled_from([SIZES, THREE]), st.integers(0, 5))
def test_totals_are_those_of_the_largest_remainder(counts: list[int], sizes: dict[str, float], seed: int) -> None:
    assume(sum(counts) >= 3)
    labels = np.repeat(np.arange(len(counts)), counts)
    parts = stratified_split(labels, sizes=sizes, seed=seed)
    totals = part_totals(sum(counts), np.array(list(sizes.values())))
    assert [(parts == part).sum() for part in sizes] == totals.tolist()


def test_other_totals_where_the_largest_remainder_has_no_table() -> None:
    shares = np.array([0.16, 0.16, 0.48, 0.1, 0.1])
    quotas = controlled_rounding([10, 25], shares, seed=0)
    exact = np.outer([10, 25], shares)
    # 1.6, 1.6, 4.8, 1, 1 of the first: two may be rounded up, but all three have the largest remainders of the totals.
    assert part_totals(35, shares).tolist() == [6, 6, 17, 3, 3]
    assert (np.abs(quotas - exact) < 1).all()
    assert quotas.sum(axis=1).tolist() == [10, 25]
    assert (np.abs(quotas.sum(axis=0) - 35 * shares) < 1).all()


def test_totals_come_before_proportions_of_classes_of_the_same_size() -> None:
    # The two classes of 10 and the two of 45 cannot together be rounded to the nearest numbers with these totals.
    counts, shares = [25, 10, 10, 45, 45], np.array([0.16, 0.16, 0.48, 0.1, 0.1])
    quotas = controlled_rounding(counts, shares, seed=0)
    assert (np.abs(quotas - np.outer(counts, shares)) < 1).all()
    assert quotas.sum(axis=1).tolist() == counts
    assert quotas.sum(axis=0).tolist() == part_totals(135, shares).tolist()


def test_no_classes_are_no_rows() -> None:
    assert controlled_rounding([], [0.5, 0.5], seed=0).shape == (0, 2)


def test_classes_of_one_image_are_in_every_part_in_proportion_and_drawn() -> None:
    labels = np.concatenate([np.arange(100), np.repeat([100, 101, 102], [7, 40, 300])])
    first, second = (stratified_split(labels, sizes=SIZES, seed=seed) for seed in (0, 1))
    assert 14 <= (first[:100] == "test").sum() <= 16
    assert (first[:100] != second[:100]).any()


@given(class_sizes, st.integers(0, 5))
def test_order_of_rows_changes_no_count_and_same_seed_is_same_split(counts: list[int], seed: int) -> None:
    assume(sum(counts) > 1)
    labels = np.repeat(np.arange(len(counts)), counts)
    shuffled = np.random.default_rng(seed).permutation(labels)
    first, again, other = (stratified_split(each, sizes=SIZES, seed=seed) for each in (labels, labels, shuffled))
    assert (first == again).all()
    assert Counter(zip(labels, first, strict=True)) == Counter(zip(shuffled, other, strict=True))


@given(st.lists(st.integers(0, 5), min_size=6, max_size=60), st.integers(0, 5), st.booleans())
def test_with_ids_the_order_of_the_rows_does_not_matter(label: list[int], seed: int, grouped: bool) -> None:
    labels, ids = np.array(label), np.array([f"image {number}" for number in range(len(label))])
    groups = np.arange(len(label)) // 3 if grouped else None
    assume(not grouped or groups[-1] >= 2)
    parts = stratified_split(labels, sizes=THREE if not grouped else SIZES, seed=seed, ids=ids, groups=groups)
    rows = np.random.default_rng(seed).permutation(len(label))
    moved = stratified_split(
        labels[rows],
        sizes=THREE if not grouped else SIZES,
        seed=seed,
        ids=ids[rows],
        groups=None if groups is None else groups[rows],
    )
    assert (moved == parts[rows]).all()


def test_other_seed_is_another_split() -> None:
    labels = np.repeat(np.arange(5), 40)
    ids = np.arange(200).astype(str)
    for given_ids in (None, ids):
        one, other = (stratified_split(labels, sizes=SIZES, seed=seed, ids=given_ids) for seed in (0, 1))
        assert (one != other).any()


def test_class_counts_are_those_of_scikit_learn_where_shares_are_whole() -> None:
    labels = np.repeat(["a", "b", "c"], [100, 40, 20])
    parts = stratified_split(labels, sizes=SIZES, seed=0)
    _, test = train_test_split(labels, test_size=0.15, stratify=labels, random_state=0)
    assert Counter(labels[parts == "test"]) == Counter(test) == {"a": 15, "b": 6, "c": 3}


@given(st.lists(st.integers(3, 40), min_size=1, max_size=15), st.integers(0, 3), st.booleans())
def test_every_class_in_each_part(counts: list[int], seed: int, grouped: bool) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    groups = np.arange(len(labels)) if grouped else None
    parts = stratified_split(labels, sizes=THREE, seed=seed, groups=groups, every_class_in_each_part=True)
    assert (table(labels, parts, THREE) >= 1).all()


def test_classes_too_small_for_every_part_are_named_or_sent_away() -> None:
    labels = np.repeat(["large", "b", "c", "d", "e"], [20, 2, 1, 2, 2])
    with pytest.raises(ValueError, match=r"fewer images than the 3 parts: 'b', 'c', 'd' and 1 more$"):
        stratified_split(labels, sizes=THREE, seed=0, every_class_in_each_part=True)
    parts = stratified_split(labels, sizes=THREE, seed=0, every_class_in_each_part=True, min_class_size=3)
    assert Counter(parts) == {"train": 14, "validation": 3, "test": 3, "zero_shot": 7}
    assert set(labels[parts == "zero_shot"]) == {"b", "c", "d", "e"}


def test_small_classes_go_whole_to_the_part_named_and_count_in_no_share() -> None:
    labels = np.repeat(["a", "b", "c"], [40, 3, 2])
    parts = stratified_split(labels, sizes=SIZES, seed=0, min_class_size=4, small_class_part="rare")
    assert Counter(zip(labels, parts, strict=True)) == {
        ("a", "train"): 34,
        ("a", "test"): 6,
        ("b", "rare"): 3,
        ("c", "rare"): 2,
    }
    assert set(stratified_split(labels, sizes=SIZES, seed=0, min_class_size=99)) == {"zero_shot"}


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(0, 30)), min_size=2, max_size=60),
    st.integers(0, 5),
)
def test_groups_stay_whole_and_every_part_has_one(rows: list[tuple[int, int, int]], seed: int) -> None:
    labels = np.concatenate([np.full(size, label) for label, size, _ in rows])
    group = np.concatenate([np.full(size, number) for _, size, number in rows])  # of several labels
    assume(len(set(group)) > 1)
    parts = stratified_split(labels, sizes=SIZES, seed=seed, groups=group)
    assert all(len(set(parts[group == number])) == 1 for number in np.unique(group))
    assert set(parts) == {"train", "test"}
    assert (parts == stratified_split(labels, sizes=SIZES, seed=seed, groups=group)).all()


def test_groups_of_one_class_are_as_near_as_their_sizes_allow() -> None:
    generator = np.random.default_rng(0)
    size = generator.integers(1, 30, 400)
    group = np.repeat(np.arange(400), size)
    labels = np.repeat(generator.integers(0, 8, 400), size)
    parts = stratified_split(labels, sizes=THREE, seed=0, groups=group)
    wanted = np.outer(np.bincount(labels), list(THREE.values()))
    assert np.abs(table(labels, parts, THREE) - wanted).max() <= 1
    # A plain draw of groups is tens of images off.
    drawn = generator.choice(list(THREE), 400, p=list(THREE.values()))[group]
    assert np.abs(table(labels, drawn, THREE) - wanted).max() > 20


def test_a_group_with_an_image_of_a_small_class_goes_with_it() -> None:
    labels = ["rare", *["a"] * 40]
    group = [0, 0, *range(1, 40)]
    parts = stratified_split(labels, sizes=SIZES, seed=0, groups=group, min_class_size=2)
    assert parts[:2].tolist() == ["zero_shot", "zero_shot"]
    assert Counter(parts[2:]) == {"train": 33, "test": 6}


def test_groups_that_cannot_fill_the_parts_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"^1 groups cannot fill 2 parts .*: the group 'cell' alone has 3 of 3 images$"
    ):
        stratified_split(["a", "b", "b"], sizes=SIZES, seed=0, groups=["cell"] * 3)
    # As large as all but one image: the part is filled with what there is.
    parts = stratified_split(["a"] * 99 + ["b"], sizes=SIZES, seed=0, groups=["large"] * 99 + ["small"])
    assert Counter(parts) == {"train": 99, "test": 1}
    with pytest.raises(ValueError, match="fewer groups than the 2 parts: 'a', 'b'"):
        stratified_split(["a", "a", "b"], sizes=SIZES, seed=0, groups=[1, 1, 2], every_class_in_each_part=True)


def test_a_class_that_no_move_brings_to_every_part_is_named() -> None:
    # Every two of the three groups share a class, so every two of them would have to be in different parts of two.
    labels, group = ["x", "y", "y", "z", "z", "x"], [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match=r"the class .* could not be brought to every part without dividing a group"):
        stratified_split(labels, sizes={"a": 0.5, "b": 0.5}, seed=0, groups=group, every_class_in_each_part=True)


@given(st.lists(st.integers(0, 3), min_size=4, max_size=40), st.integers(0, 40), st.booleans())
def test_stable_images_stay_where_they_are_when_others_are_added(label: list[int], n: int, grouped: bool) -> None:
    labels, ids = np.array(label), np.arange(len(label)).astype(str)
    groups = np.char.add("cell ", (np.arange(len(label)) // 2).astype(str))
    options = {"sizes": THREE, "seed": 3, "stable": True}
    late = np.random.default_rng(n).permutation(len(label))
    early = np.sort(late[: max(1, n % len(label))])

    def split(rows: np.ndarray) -> np.ndarray:
        held = {"groups": groups[rows]} if grouped else {"ids": ids[rows]}
        return stratified_split(labels[rows], **options, **held)

    assert (split(np.arange(len(label)))[early] == split(early)).all()


def test_stable_shares_are_met_by_chance() -> None:
    labels, ids = np.repeat(["a", "b"], 5000), np.arange(10_000).astype(str)
    parts = stratified_split(labels, sizes=THREE, seed=0, ids=ids, stable=True)
    for label in ("a", "b"):
        for part, share in THREE.items():
            n = ((labels == label) & (parts == part)).sum()
            assert abs(n - 5000 * share) < 4 * np.sqrt(5000 * share * (1 - share))
    assert (parts != stratified_split(labels, sizes=THREE, seed=1, ids=ids, stable=True)).any()
    # The same on every machine, and in every version: changing it would change people's splits.
    assert "".join(part[0] for part in parts[:24]) == "ttttvttttttttvttttvttttt"


@pytest.mark.parametrize(
    "options",
    [
        {"sizes": {"train": 0.8, "test": 0.1}},
        {"sizes": {"train": 1.1, "test": -0.1}},
        {"sizes": {}},
        {"sizes": {"a": np.nan}},
    ],
)
def test_sizes_that_do_not_add_up_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        stratified_split(["a", "b"], seed=0, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": THREE}, "2 images cannot fill 3 parts"),
        ({"groups": [1, 2, 3]}, "2 labels, but 3 groups"),
        ({"groups": [1, None]}, "groups are missing in rows 1"),
        ({"ids": ["x"]}, "2 labels, but 1 ids"),
        ({"ids": ["x", "x"]}, "ids must differ, but these occur more than once: 'x'"),
        ({"labels": ["a", None]}, "labels are missing in rows 1"),
        ({"labels": [1.0, np.nan]}, "labels are missing in rows 1"),
        ({"labels": [["a", "b"]]}, "labels must have the shape"),
        ({"labels": []}, "0 images cannot fill 2 parts"),
        ({"stable": True}, "stable needs ids"),
        ({"stable": True, "ids": ["x", "y"], "min_class_size": 2}, "stable cannot be had with"),
        ({"stable": True, "ids": ["x", "y"], "every_class_in_each_part": True}, "stable cannot be had with"),
    ],
)
def test_what_cannot_be_split_is_one_line(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        stratified_split(**{"labels": ["a", "b"], "sizes": SIZES, "seed": 0, **options})
    assert "\n" not in str(raised.value)


@given(
    st.one_of(
        st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1),
        st.lists(st.integers(-5, 5), min_size=1),
        st.lists(st.floats(allow_nan=False), min_size=1),
        st.lists(st.booleans(), min_size=1),
    ),
    st.booleans(),
)
def test_name_codes_are_those_of_numpy(values: list, as_object: bool) -> None:
    given = np.array(values, dtype=object) if as_object else np.array(values)
    names, codes = name_codes(given, "labels")
    expected, inverse = np.unique(np.array(values), return_inverse=True)
    assert (names == expected).all()
    assert (codes == inverse).all()


def test_settings_do_not_wait_for_scipy() -> None:
    code = "import sys, tasks.split.settings; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
