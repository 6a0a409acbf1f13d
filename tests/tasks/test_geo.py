"""A place is where an image was taken, written in one way, whatever it shows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tasks.geo import normal_points, place_names
from tasks.split.leaks import find_leaks
from tasks.split.steps import place_groups
from tasks.split.stratified import stratified_split


def test_one_point_has_one_name() -> None:
    same = [
        ([0.0, -0.0], [0.0, -0.0]),
        ([10.0, 10.0], [180.0, -180.0]),
        ([90.0, 90.0], [12.0, -170.0]),
        ([-90.0, -90.0], [0.0, 180.0]),
    ]
    for latitude, longitude in same:
        assert len(set(place_names(latitude, longitude, ["a", "b"]))) == 1
    other = place_names([1.0, 1.0, -1.0], [2.0, 2.0000001, 2.0], ["a", "b", "c"])
    assert len(set(other)) == 3


def test_images_without_a_place_are_their_own() -> None:
    names = place_names([np.nan, 1.0, np.nan], [2.0, np.nan, np.nan], ["a", "b", "c"])
    assert names.tolist() == ["a", "b", "c"]
    assert np.isnan(normal_points([np.nan, 1.0], [2.0, np.nan])).all()


def test_the_label_is_no_part_of_a_place() -> None:
    """`forest` and `forest;river` at one point lay in train and test: 14 of 24 places."""
    n = 24
    rows = pa.table(
        {
            "image_id": [f"{number:02d}" for number in range(2 * n)],
            "label": ["forest", "forest;river"] * n,
            "latitude": [float(number // 2) for number in range(2 * n)],
            "longitude": [1.0] * (2 * n),
        }
    )
    groups = np.array(place_groups(rows))
    assert len(set(groups.tolist())) == n
    labels = np.array(rows["label"].to_pylist())
    parts = stratified_split(labels, sizes={"train": 0.7, "test": 0.3}, seed=0, groups=groups)
    for place in set(groups.tolist()):
        assert len(set(np.asarray(parts)[groups == place].tolist())) == 1


def test_the_gate_sees_a_place_in_two_parts() -> None:
    rows = pa.table(
        {"image_id": ["a", "b"], "label": ["x", "y"], "latitude": [0.0, -0.0], "longitude": [180.0, -180.0]}
    )
    assert find_leaks(["train", "test"], groups=place_groups(rows)).why == ("group",)
