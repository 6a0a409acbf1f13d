"""Edits make what they say: decodable copies, a little different, the same for the same seed."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.dedup.edits import EDITS, edited


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.format == "JPEG"
    return image


@pytest.mark.parametrize("edit", EDITS)
@given(width=st.integers(2, 60), height=st.integers(2, 60), seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_any_size_gives_a_picture(edit: str, width: int, height: int, seed: int) -> None:
    data, what = edited(picture(1, (width, height)), edit, np.random.default_rng(seed))  # type: ignore[arg-type]
    copy = decoded(data)
    assert what.startswith(edit)
    assert copy.mode == "RGB"
    assert max(copy.size) <= max(width, height) * 1.12 + 2


@pytest.mark.parametrize("edit", EDITS)
def test_the_same_seed_gives_the_same_bytes_and_another_one_others(edit: str) -> None:
    one, other, third = (edited(picture(2, (90, 60)), edit, np.random.default_rng(seed))[0] for seed in (5, 5, 6))  # type: ignore[arg-type]
    assert one == other != third


def test_amounts_are_those_of_the_table() -> None:
    image = picture(3, (200, 100))
    seen: dict[str, list[float]] = {edit: [] for edit in EDITS}
    for seed in range(60):
        for edit in EDITS:
            data, what = edited(image, edit, np.random.default_rng(seed))
            copy = decoded(data)
            numbers = [float(each) for each in re.findall(r"\d+(?:\.\d+)?", what)]
            if edit == "resize":
                assert copy.size == (pytest.approx(200 * numbers[0], abs=1.5), pytest.approx(100 * numbers[0], abs=1))
            elif edit == "crop":
                assert copy.width == pytest.approx(200 * (1 - numbers[0] / 100), abs=1.6)
                assert copy.height == pytest.approx(100 * (1 - numbers[1] / 100), abs=1.1)
            elif edit == "border":
                assert copy.size == (200 + 2 * numbers[0], 100 + 2 * numbers[0])
            elif edit == "brightness":
                means = [np.asarray(each, dtype=float).mean() for each in (image, copy)]
                assert means[1] / means[0] == pytest.approx(numbers[0], abs=0.03)
            seen[edit] += numbers[:1]
    assert 30 <= min(seen["recompress"]) < 40 < 70 < max(seen["recompress"]) <= 80
    assert 0.5 <= min(seen["resize"]) < 0.6 < 0.8 < max(seen["resize"]) <= 0.9
    assert 2 <= min(seen["crop"]) < 3 < 7 < max(seen["crop"]) <= 8
    assert 0.85 <= min(seen["brightness"]) < 0.9 < 1.1 < max(seen["brightness"]) <= 1.15
    assert 2 <= min(seen["border"]) <= 3 < 5 <= max(seen["border"]) <= 6


def test_a_watermark_changes_a_part_of_the_picture_only() -> None:
    image = picture(4, (200, 100))
    plain, marked = (
        np.asarray(each, dtype=int)
        for each in (image, decoded(edited(image, "watermark", np.random.default_rng(0))[0]))
    )
    changed = (np.abs(plain - marked).max(axis=2) > 30).mean()
    assert 0.002 < changed < 0.3
