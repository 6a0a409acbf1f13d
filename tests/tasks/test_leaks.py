"""Planted leaks are found, all of them and nothing else, and moving images ends them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.split.leaks import find_leaks, without_leaks

parts_lists = st.lists(st.sampled_from(["train", "validation", "test", "buffer"]), min_size=1, max_size=40)


@given(parts_lists, st.data())
def test_every_pair_across_parts_is_named(parts: list[str], data: st.DataObject) -> None:
    n = len(parts)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=30))
    i, j = ([pair[side] for pair in pairs] for side in (0, 1))
    found = find_leaks(parts, pairs=(i, j), ignored=("buffer",))
    across = [(a, b) for a, b in pairs if parts[a] != parts[b] and "buffer" not in (parts[a], parts[b])]
    assert list(zip(found.i.tolist(), found.j.tolist(), strict=True)) == across
    assert set(found.why) <= {"pair"}
    moved = np.array(parts)
    while len(leaks := find_leaks(moved, pairs=(i, j), ignored=("buffer",))):
        before, moved = moved, without_leaks(moved, leaks)
        assert (before != moved).any()
    assert all(after in (before, "train") for before, after in zip(parts, moved, strict=True))
    assert len(found) or moved.tolist() == parts


@given(parts_lists, st.data())
def test_every_divided_group_and_cell_is_named(parts: list[str], data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(0, 5), min_size=len(parts), max_size=len(parts)))
    found = find_leaks(parts, groups=groups, cells=groups, ignored=("buffer",))
    divided = {
        group
        for group in groups
        if len({part for part, other in zip(parts, groups, strict=True) if other == group and part != "buffer"}) > 1
    }
    for why in ("group", "cell"):
        named = {groups[row] for row, each in zip(found.i.tolist(), found.why, strict=True) if each == why}
        assert named == divided
    for i, j in zip(found.i.tolist(), found.j.tolist(), strict=True):
        assert groups[i] == groups[j]
        assert parts[i] != parts[j]
    part, n_rounds = np.array(parts), 0
    while len(leaks := find_leaks(part, groups=groups, ignored=("buffer",))):
        part, n_rounds = without_leaks(part, leaks), n_rounds + 1
        assert n_rounds < 50
    if not divided:
        assert part.tolist() == parts


def test_a_clean_split_has_none() -> None:
    parts = ["train"] * 3 + ["test"] * 3
    assert len(find_leaks(parts, pairs=([0, 3], [1, 4]), groups=[1, 1, 1, 2, 2, 2], cells=list("aaabbb"))) == 0
