from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix

from tasks.labels.label_set import load_label_set
from tasks.metrics.confusion import (
    ConfusionView,
    confusion_counts,
    confusion_views,
    cropped,
    row_shares,
    within_group,
)

NAMES = ["Peru", "Chad", "Mali", "Chile", "Iran"]
REGIONS = ["South America", "Africa", "Africa", "South America", "Asia"]
CONTINENTS = ["Americas", "Old World", "Old World", "Americas", "Old World"]
# Peru 2 + 1 as Chile, Chad 1, Mali 1 + 2 as Chad, Chile 3 as Iran; no Iran in the truth.
COUNTS = np.array(
    [
        [2, 0, 0, 1, 0],
        [0, 1, 0, 0, 0],
        [0, 2, 1, 0, 0],
        [0, 0, 0, 0, 3],
        [0, 0, 0, 0, 0],
    ]
)

cases = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(*[st.integers(0, n - 1)] * 2), max_size=40),
        st.lists(st.sampled_from("xyz"), min_size=n, max_size=n),
        st.lists(st.sampled_from("st"), min_size=n, max_size=n),
    )
)
Case = tuple[int, list[tuple[int, int]], list[str], list[str]]


@given(cases)
def test_counts_agree_with_scikit_learn(case: Case) -> None:
    n, pairs, _, _ = case
    truth, predicted = [t for t, _ in pairs], [p for _, p in pairs]
    counts = confusion_counts(truth, predicted, n)
    assert counts.dtype == np.int64
    assert counts.shape == (n, n)
    if pairs:
        assert counts.tolist() == confusion_matrix(truth, predicted, labels=np.arange(n)).tolist()
    else:
        assert not counts.any()


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        ([0, 1], [0], "equally long"),
        ([[0]], [[0]], "equally long"),
        ([0, 2], [0, 0], "y_true reaches from 0 to 2, not within 0 to 1"),
        ([0, 0], [0, -1], "y_pred reaches from -1"),
        ([0.5], [0], "class indices"),
    ],
)
def test_wrong_classes_are_refused(truth: list[int], predicted: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_counts(truth, predicted, 2)


def test_countries_by_hand() -> None:
    views = confusion_views(COUNTS, NAMES, REGIONS, CONTINENTS)
    by_name = views["countries"]
    assert by_name.names == ("Chad", "Chile", "Iran", "Mali", "Peru")
    assert by_name.groups is None
    assert by_name.matrix.tolist() == [
        [1, 0, 0, 0, 0],
        [0, 0, 3, 0, 0],
        [0, 0, 0, 0, 0],
        [2, 0, 0, 1, 0],
        [0, 1, 0, 0, 2],
    ]
    assert views["countries-by-diagonal"].names == ("Peru", "Chad", "Mali", "Chile", "Iran")
    by_region = views["countries-by-region"]
    assert by_region.names == ("Chile", "Peru", "Chad", "Mali", "Iran")
    assert by_region.groups == ("South America", "South America", "Africa", "Africa", "Asia")


def test_regions_by_hand() -> None:
    views = confusion_views(COUNTS, NAMES, REGIONS, CONTINENTS)
    assert views["regions"].names == ("Africa", "Asia", "South America")
    assert views["regions"].matrix.tolist() == [[4, 0, 0], [0, 0, 0], [0, 3, 3]]
    assert views["regions-by-diagonal"].names == ("Africa", "South America", "Asia")
    by_continent = views["regions-by-continent"]
    assert by_continent.names == ("South America", "Africa", "Asia")
    assert by_continent.groups == ("Americas", "Old World", "Old World")


def test_views_need_their_names() -> None:
    countries = ["countries", "countries-by-diagonal"]
    assert list(confusion_views(COUNTS, NAMES, None, None)) == countries
    assert list(confusion_views(COUNTS, NAMES, None, CONTINENTS)) == countries
    without_continents = confusion_views(COUNTS, NAMES, REGIONS, None)
    assert list(without_continents) == [*countries, "countries-by-region", "regions", "regions-by-diagonal"]
    assert without_continents["countries-by-region"].names == ("Chad", "Mali", "Iran", "Chile", "Peru")
    assert list(confusion_views(COUNTS, NAMES, REGIONS, CONTINENTS)) == [
        *without_continents,
        "regions-by-continent",
    ]


def test_classes_without_truth_and_prediction_are_left_out_unless_wanted() -> None:
    counts = COUNTS.copy()
    counts[3, 4] = 0
    views = confusion_views(counts, NAMES, REGIONS, CONTINENTS)
    assert views["countries"].names == ("Chad", "Chile", "Mali", "Peru")  # Chile was predicted
    assert views["regions"].names == ("Africa", "South America")
    kept = confusion_views(counts, NAMES, REGIONS, CONTINENTS, keep_empty=True)
    assert kept["countries"].names == ("Chad", "Chile", "Iran", "Mali", "Peru")
    assert kept["regions-by-continent"].names == ("South America", "Africa", "Asia")
    assert confusion_views(np.zeros((5, 5)), NAMES, REGIONS, CONTINENTS)["regions"].names == ()


def test_a_region_counts_to_the_continent_of_most_of_its_classes() -> None:
    names, regions = ["a", "b", "c", "d"], ["r", "r", "r", "s"]
    most = confusion_views(np.eye(4), names, regions, ["Z", "A", "Z", "M"])["regions-by-continent"]
    assert (most.names, most.groups) == (("s", "r"), ("M", "Z"))
    tie = confusion_views(np.eye(4), names, ["r", "r", "s", "s"], ["Z", "A", "M", "M"])["regions-by-continent"]
    assert (tie.names, tie.groups) == (("r", "s"), ("A", "M"))


@given(cases)
def test_views_reorder_and_lose_nothing(case: Case) -> None:
    n, pairs, regions, continents = case
    counts = confusion_counts([t for t, _ in pairs], [p for _, p in pairs], n)
    names = [f"c{number}" for number in range(n)]
    right = sum(t == p for t, p in pairs)
    right_region = sum(regions[t] == regions[p] for t, p in pairs)
    for key, view in confusion_views(counts, names, regions, continents).items():
        assert view.matrix.dtype == np.int64
        assert view.matrix.shape == (len(view.names),) * 2
        assert view.matrix.sum() == len(pairs)
        assert np.trace(view.matrix) == (right if key.startswith("countries") else right_region)
        if view.groups is not None:
            runs = [group for at, group in enumerate(view.groups) if at == 0 or view.groups[at - 1] != group]
            assert len(runs) == len(set(runs))
        if key.startswith("countries"):
            own = [names.index(name) for name in view.names]
            assert np.array_equal(view.matrix, counts[np.ix_(own, own)])


def test_country211() -> None:
    labels = load_label_set("country211", [])
    views = confusion_views(np.eye(211), labels.names, labels.regions, labels.continents)
    assert {key: len(view.names) for key, view in views.items()} == {
        "countries": 211,
        "countries-by-diagonal": 211,
        "countries-by-region": 211,
        "regions": 23,
        "regions-by-diagonal": 23,
        "regions-by-continent": 23,
    }
    of_region = dict(zip(views["regions-by-continent"].names, views["regions-by-continent"].groups or (), strict=True))
    assert of_region["South America"] == "Americas"  # South Georgia of that region lies in Antarctica
    south = within_group(views["countries-by-region"], "South America")
    assert "South Georgia and South Sandwich Is." in south.names
    assert list(south.names) == sorted(south.names)
    runs = list(of_region.values())
    assert runs == sorted(runs)


def test_row_shares() -> None:
    shares = row_shares([[1, 3], [0, 0]])
    assert shares.tolist() == [[0.25, 0.75], [0.0, 0.0]]
    assert shares.dtype == np.float64


def test_cuts() -> None:
    views = confusion_views(COUNTS, NAMES, REGIONS, CONTINENTS)
    top = cropped(views["countries-by-diagonal"], 2)
    assert (top.names, top.matrix.tolist(), top.groups) == (("Peru", "Chad"), [[2, 0], [0, 1]], None)
    assert cropped(top, 25).names == top.names
    africa = within_group(views["countries-by-region"], "Africa")
    assert (africa.names, africa.matrix.tolist()) == (("Chad", "Mali"), [[1, 0], [2, 1]])
    assert africa.groups == ("Africa", "Africa")
    assert cropped(views["countries-by-region"], 3).groups == ("South America", "South America", "Africa")


def test_wrong_views_are_refused() -> None:
    with pytest.raises(ValueError, match="square"):
        confusion_views([[1, 2]], ["a"], None, None)
    with pytest.raises(ValueError, match="regions must be one a class, got 1 for 2"):
        confusion_views(np.eye(2), ["a", "b"], ["r"], None)
    view = ConfusionView(np.eye(2, dtype=np.int64), ("a", "b"))
    with pytest.raises(ValueError, match="no group 'Asia'"):
        within_group(view, "Asia")
    with pytest.raises(ValueError, match="positive"):
        cropped(view, 0)
