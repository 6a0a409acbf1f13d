"""Labels along a tree: the coarsening operator, and what is no tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.labels.country211 import country_table
from tasks.split.hierarchy import ROOT, Hierarchy, read_hierarchy

ANIMALS = Hierarchy(
    {"cat": "felid", "lion": "felid", "felid": "mammal", "bat": "mammal", "mammal": "life", "ant": "life"}
)


@given(st.sampled_from(["cat", "lion", "bat", "ant"]), st.integers(0, 6), st.integers(0, 6))
def test_steps_add_up_and_end_at_the_root(label: str, k: int, further: int) -> None:
    once = ANIMALS.coarsen([label], k)
    assert ANIMALS.coarsen(once, further) == ANIMALS.coarsen([label], k + further)
    assert ANIMALS.depth(once[0]) == max(0, ANIMALS.depth(label) - k)
    assert ANIMALS.coarsen([label], 0) == [label]
    assert ANIMALS.coarsen([label], 9) == ["life"]


def test_each_label_its_own_steps_but_no_node_below_another() -> None:
    steps = {"cat": 1, "lion": 1, "bat": 0, "ant": 0}
    assert ANIMALS.coarsen(["cat", "bat", "lion"], steps) == ["felid", "bat", "felid"]
    with pytest.raises(ValueError, match="1 nodes are descendants of others that are used: 'lion'"):
        ANIMALS.coarsen(["cat", "lion"], {"cat": 1, "lion": 0})
    # One step from leaves of unequal depth: a node and its ancestor.
    with pytest.raises(ValueError, match="descendants of others that are used: 'felid'"):
        ANIMALS.coarsen(["cat", "bat"], 1)
    assert not ANIMALS.is_consistent
    assert ANIMALS.leaves == ["ant", "bat", "cat", "lion"]


def test_countries_regions_continents() -> None:
    table = country_table()
    levels = {level: [getattr(country, level) for country in table] for level in ("region", "continent")}
    tree = Hierarchy.from_levels([country.name for country in table], levels)
    assert tree.is_consistent
    assert len(tree.leaves) == 211
    regions = set(tree.coarsen(tree.leaves, 1))
    assert len(regions) == 23 + 1
    assert tree.path("South Georgia and South Sandwich Is.")[1:3] == [
        "region: South America (Antarctica)",
        "continent: Antarctica",
    ]
    assert tree.path("Peru")[1:3] == ["region: South America", "continent: Americas"]
    assert len(set(tree.coarsen(tree.leaves, 2))) == 6
    assert set(tree.coarsen(tree.leaves, 3)) == {ROOT}
    assert tree.coarsen(["Antarctica"], 2) == ["continent: Antarctica"]


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        ({"a": "b", "b": "a"}, "one root, this one has 0"),
        ({"a": "x", "b": "y"}, "one root, this one has 2: 'x', 'y'"),
        ({"a": "b", "b": "a", "c": "d"}, "is its own ancestor"),
    ],
)
def test_what_is_no_tree(parent: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hierarchy(parent)


def test_labels_outside_the_tree_are_named() -> None:
    with pytest.raises(ValueError, match="2 labels are not in the hierarchy: 'dog', 'eel'"):
        ANIMALS.coarsen(["cat", "eel", "dog"], 1)
    with pytest.raises(ValueError, match="'Georgia' has two parents"):
        Hierarchy.from_levels(["Georgia", "Georgia"], {"region": ["Caucasus", "South"]})


def test_a_tree_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tree.csv"
    path.write_text("name,parent\ncat,felid\nfelid,life\nant,life\n")
    assert read_hierarchy(path).coarsen(["cat"], 2) == ["life"]
    path.write_text("name,parent\ncat,felid\ncat,life\n")
    with pytest.raises(ValueError, match="'cat' has two parents"):
        read_hierarchy(path)
    path.write_text("label,above\ncat,felid\n")
    with pytest.raises(ValueError, match="needs the columns name and parent"):
        read_hierarchy(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_hierarchy(tmp_path / "none.csv")
