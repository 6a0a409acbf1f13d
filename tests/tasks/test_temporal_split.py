from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.split.temporal import time_split

BOUNDARIES = {
    "train": (None, "2020-01-01"),
    "validation": ("2020-01-01", "2021-01-01"),
    "test": ("2021-06-01", None),
}


def times(*values: str) -> np.ndarray:
    return np.array(values, dtype="datetime64[us]")


def test_intervals_are_half_open_and_gaps_are_unused() -> None:
    captured = times(
        "1901-01-01",
        "2019-12-31T23:59:59.999999",
        "2020-01-01",
        "2020-12-31T23:59:59.999999",
        "2021-01-01",
        "2021-05-31T23:59:59.999999",
        "2021-06-01",
        "2099-01-01",
    )
    assert time_split(captured, boundaries=BOUNDARIES).tolist() == [
        *["train"] * 2,
        *["validation"] * 2,
        *["unused"] * 2,
        *["test"] * 2,
    ]


@given(st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)), min_size=4, max_size=40, unique=True))
def test_each_image_is_in_the_interval_that_holds_it(moments: list[datetime]) -> None:
    first, second, third = sorted(moments)[:3]
    boundaries = {"c": (third, None), "a": (first, second), "b": (second, third)}  # order does not matter
    parts = time_split(np.array(moments, dtype="datetime64[us]"), boundaries=boundaries)
    for moment, part in zip(moments, parts, strict=True):
        assert part == ("unused" if moment < first else "a" if moment < second else "b" if moment < third else "c")


@pytest.mark.parametrize(
    "instant",
    [
        "2020-01-01",
        "2020-01-01T00:00Z",
        "2020-01-01T02:00+02:00",
        date(2020, 1, 1),
        datetime(2020, 1, 1),
        datetime(2020, 1, 1, tzinfo=UTC),
        datetime(2020, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))),
        np.datetime64("2020-01-01"),
        np.datetime64("2020-01-01T00:00:00.000", "ms"),
    ],
)
def test_every_way_to_say_when_is_the_same_instant(instant: object, recwarn: pytest.WarningsRecorder) -> None:
    captured = times("2019-12-31T23:59:59.999999", "2020-01-01")
    boundaries = {"train": (None, instant), "test": (instant, None)}
    assert time_split(captured, boundaries=boundaries).tolist() == ["train", "test"]  # type: ignore[arg-type]
    assert not recwarn.list


def test_images_of_other_units_and_none_at_all() -> None:
    for unit in ("D", "s", "ns"):
        captured = np.array(["2019-12-31", "2020-01-01"], dtype=f"datetime64[{unit}]")
        assert time_split(captured, boundaries=BOUNDARIES).tolist() == ["train", "validation"]
    assert time_split(times(), boundaries=BOUNDARIES).shape == (0,)
    assert time_split(times("2000-01-01"), boundaries={"all": (None, None)}).tolist() == ["all"]


def test_undated_images_are_an_error_or_a_part() -> None:
    captured = times("2000-01-01", "NaT", "NaT")
    with pytest.raises(ValueError, match=r"^2 of 3 images have no time, the first in row 1: undated_part"):
        time_split(captured, boundaries=BOUNDARIES)
    with pytest.raises(ValueError, match="2 of 3 images have no time"):
        time_split(captured, boundaries={"all": (None, None)})
    for boundaries in (BOUNDARIES, {"train": (None, None)}):
        assert time_split(captured, boundaries=boundaries, undated_part="zero_shot").tolist() == [
            "train",
            "zero_shot",
            "zero_shot",
        ]


@pytest.mark.parametrize(
    ("boundaries", "message"),
    [
        ({}, "boundaries name no part"),
        ({"a": (None, "2020-01-02"), "b": ("2020-01-01", None)}, r"overlap, 1 time\(s\): a and b$"),
        ({"a": (None, "2020-01-01T00:00:00.000001"), "b": ("2020-01-01", None)}, "a and b$"),
        ({"b": ("2020-01-01", "2020-01-02"), "a": ("2019-01-01", "2022-01-01")}, r"1 time\(s\): a and b$"),
        ({"a": (None, None), "b": (None, None), "c": (None, None)}, r"2 time\(s\): a and b; b and c$"),
        ({"a": ("2020-01-01", "2020-01-01")}, "part a is empty: from 2020-01-01 to 2020-01-01"),
        ({"a": ("2021-01-01", "2020-01-01")}, "part a is empty"),
        ({"a": (None, "tomorrow")}, "of the part a: 'tomorrow' is no time, such as"),
        ({"a": (None, 2020)}, "of the part a: 2020 is no time"),
        ({"a": (np.datetime64("NaT"), None)}, "of the part a: .* is no time"),
    ],
)
def test_boundaries_that_are_refused(boundaries: dict[str, tuple[object, object]], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        time_split(times("2020-01-01"), boundaries=boundaries)  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("captured", [np.array([1.5]), np.array(["2020"]), times("2020-01-01")[None]])
def test_times_that_are_refused(captured: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"captured_at must be datetime64 of the shape \(n,\), got"):
        time_split(captured, boundaries=BOUNDARIES)
