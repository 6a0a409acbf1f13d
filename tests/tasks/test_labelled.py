"""Labelled pairs from files: what is read, what is counted, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from storage.errors import PlaceprintError
from tasks.dedup.labelled import Label, enough_answers, labels_of_file, with_cosines

IDS = {"Egypt/0.jpg": {"a"}, "Egypt/1.jpg": {"b"}, "twice.jpg": {"c", "d"}}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_pairs_by_id_in_any_order(tmp_path: Path, suffix: str) -> None:
    rows = pl.DataFrame(
        {
            "image_id_a": ["b", "c", "a", "b"],
            "image_id_b": ["a", "d", "c", "a"],
            "is_duplicate": [True, False, True, True],
            "labelled_by": ["ann", "ann", None, "bob"],
        }
    )
    path = tmp_path / f"pairs.{suffix}"
    rows.write_csv(path) if suffix == "csv" else rows.write_parquet(path)
    found = labels_of_file(path, IDS)
    assert found.labels == (
        Label("a", "b", True, "ann"),
        Label("c", "d", False, "ann"),
        Label("a", "c", True, path.name),
        Label("a", "b", True, "bob"),
    )
    assert found.counts == {"given": 4, "unknown_path": 0, "repeated": 0}


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    text = "path_a,path_b,is_duplicate\nEgypt/0.jpg,Egypt/1.jpg,yes\nEgypt/1.jpg,Egypt/0.jpg,TRUE\ngone.jpg,Egypt/0.jpg,no\nEgypt/0.jpg,Egypt/0.jpg,1\n"
    given = labels_of_file(written(tmp_path, text), IDS)
    vectors = np.eye(2, dtype=np.float32)
    found = with_cosines(given, {"a": 0, "b": 1}, vectors)
    assert found.counts == {
        "given": 4,
        "unknown_path": 1,
        "repeated": 1,
        "no_embedding": 0,
        "of_one_image": 1,
        "used": 1,
    }
    assert found.labels[0].cosine == 0
    lost = with_cosines(given, {"a": 0}, vectors)
    assert lost.counts["given"] == sum(count for name, count in lost.counts.items() if name != "given") == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id_a,image_id_b\na,b\n", "has no column is_duplicate"),
        ("path_a,is_duplicate\na,true\n", "has no column path_b"),
        ("image_id_a,image_id_b,is_duplicate\na,b,true\na,c,maybe\n", "row 2: is_duplicate is 'maybe'"),
        ("image_id_a,image_id_b,is_duplicate\na,,true\n", "row 1: image_id_a or image_id_b is empty"),
        (
            "image_id_a,image_id_b,is_duplicate\na,b,true\nb,a,false\n",
            "row 2 contradicts row 1: the same pair, labelled by pairs.csv",
        ),
        ("path_a,path_b,is_duplicate\ntwice.jpg,Egypt/0.jpg,true\n", "twice.jpg is in several collections"),
        ("", "cannot be read"),
        ('image_id_a,image_id_b,is_duplicate\n"a,b,true\n', "cannot be read|is_duplicate is None"),
    ],
)
def test_files_that_are_refused_name_the_row(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PlaceprintError, match=message) as caught:
        labels_of_file(written(tmp_path, text), IDS)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_and_one_that_is_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(PlaceprintError, match="does not exist: give auto, person, synthetic"):
        labels_of_file(tmp_path / "none.csv", IDS)
    (tmp_path / "pairs.parquet").write_text("no")
    with pytest.raises(PlaceprintError, match="cannot be read"):
        labels_of_file(tmp_path / "pairs.parquet", IDS)


def test_few_answers_are_not_enough() -> None:
    assert not enough_answers([])
