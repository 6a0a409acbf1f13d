"""Answers: kept whole, in the order of their times, whoever writes at once and whatever the clock does."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from storage import answers as module
from storage.answers import Answer, add_answer, current_answers, read_answers
from storage.errors import StoreError
from storage.s3_path import S3Path
from storage.store import Store

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def said(verdict: str, pair: str = "ab", by: str = "ada", second: int = 0) -> Answer:
    return Answer(pair[0], pair[1], verdict, by, NOON + timedelta(seconds=second))


def files(store: Path) -> list[Path]:
    return sorted(store.glob("labels/duplicates/*"))


def test_an_answer_is_one_file_that_says_it_all(store: Path) -> None:
    added = add_answer(Store(store), "b" * 32, "a" * 32, "duplicate", labelled_by="Ada Lovelace")
    assert added.pair == ("a" * 32, "b" * 32)
    assert abs(added.answered_at - datetime.now(UTC)) < timedelta(minutes=1)
    (path,) = files(store)
    assert json.loads(path.read_text()) == {
        "image_id_a": "a" * 32,
        "image_id_b": "b" * 32,
        "answer": "duplicate",
        "labelled_by": "Ada Lovelace",
        "answered_at": added.answered_at.isoformat(timespec="microseconds"),
    }
    assert path.name.startswith(f"{added.answered_at:%Y%m%dT%H%M%S.%f}Z-")
    assert read_answers(Store(store)) == [added]


def test_no_answers_yet(store: Path) -> None:
    assert read_answers(Store(store)) == []


def test_answers_come_in_the_order_of_their_times(store: Path) -> None:
    added = []
    for number in range(30):
        last = added[-1] if added else None
        added.append(add_answer(Store(store), "a", str(number), "skip", labelled_by="ada", after=last))
    assert read_answers(Store(store)) == added
    assert len({answer.answered_at for answer in added}) == 30


def test_a_clock_that_is_set_back_does_not_move_an_undo_before_its_answer(store: Path) -> None:
    ahead = Answer("a", "b", "duplicate", "ada", datetime.now(UTC) + timedelta(hours=1))
    undo = add_answer(Store(store), "a", "b", "undo", labelled_by="ada", after=ahead)
    assert undo.answered_at == ahead.answered_at + timedelta(microseconds=1)
    (path,) = files(store)
    assert path.name.startswith(f"{undo.answered_at:%Y%m%dT%H%M%S.%f}Z-")


@pytest.mark.parametrize(
    ("arguments", "by", "message"),
    [
        (("a", "a", "skip"), "ada", "image_id_a must be less"),
        (("a", "b", "perhaps"), "ada", "must be one of duplicate, different, skip, undo, got 'perhaps'"),
        (("a", "b", "skip"), " ", "labelled_by is empty"),
    ],
)
def test_what_is_no_answer_is_refused_and_leaves_no_file(
    arguments: tuple[str, str, str], by: str, message: str, store: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        add_answer(Store(store), *arguments, labelled_by=by)
    assert files(store) == []


def test_pairs_in_the_wrong_order_and_local_times_are_refused() -> None:
    with pytest.raises(ValueError, match="image_id_a must be less"):
        Answer("b", "a", "skip", "ada", NOON)
    for time in (NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=2)))):
        with pytest.raises(ValueError, match="must be in UTC"):
            Answer("a", "b", "skip", "ada", time)


def damaged(**changes: object) -> str:
    whole = {"image_id_a": "a", "image_id_b": "b", "answer": "skip", "labelled_by": "ada"}
    kept = {**whole, "answered_at": NOON.isoformat(), **changes}
    return json.dumps({name: value for name, value in kept.items() if value is not None})


@pytest.mark.parametrize(
    "content",
    [
        "",
        damaged()[:-9],
        "[]",
        "3",
        "\N{REPLACEMENT CHARACTER}",
        damaged(answer="yes"),
        damaged(labelled_by=None),
        damaged(answered_at=None),
        damaged(answered_at="yesterday"),
        damaged(answered_at=3),
        damaged(image_id_a="c"),
        damaged(image_id_a=1),
        damaged(labelled_by=["ada"]),
        damaged(mood="good"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(content: str, store: Path) -> None:
    add_answer(Store(store), "a", "b", "skip", labelled_by="ada")
    path = store / "labels" / "duplicates" / "20240501T120000.000000Z-00000000.json"
    path.write_text(content)
    with pytest.raises(StoreError) as caught:
        read_answers(Store(store))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    path.write_text(damaged())  # the same file, whole
    assert len(read_answers(Store(store))) == 2


def test_bytes_that_are_no_text_are_a_damaged_file(store: Path) -> None:
    (store / "labels" / "duplicates").mkdir(parents=True)
    (store / "labels" / "duplicates" / "1.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(StoreError, match=r"1\.json"):
        read_answers(Store(store))


def test_the_last_answer_of_each_person_for_each_pair_counts() -> None:
    first, other = said("duplicate"), said("duplicate", by="bob", second=1)
    changed, elsewhere = said("different", second=2), said("skip", "ac", second=3)
    assert current_answers([first, other, changed, elsewhere]) == {
        ("a", "b", "bob"): other,
        ("a", "b", "ada"): changed,
        ("a", "c", "ada"): elsewhere,
    }


def test_answers_that_count_are_in_the_order_of_their_times() -> None:
    answers = [said("duplicate"), said("skip", "ac", second=1), said("different", second=2)]
    assert list(current_answers(answers).values()) == answers[1:]


def test_an_undo_takes_one_persons_answer_for_one_pair_back() -> None:
    mine, others, elsewhere = said("duplicate"), said("duplicate", by="bob"), said("different", "ac")
    current = current_answers([mine, others, elsewhere, said("undo", second=1)])
    assert list(current.values()) == [others, elsewhere]
    # Unanswered, and not what was said before the answer that is taken back.
    assert not current_answers([mine, said("different", second=1), said("undo", second=2)])
    again = said("skip", second=3)
    assert list(current_answers([mine, said("undo", second=1), again]).values()) == [again]
    assert not current_answers([said("undo")])


WRITER = """
import sys
from storage.answers import add_answer
from storage.store import Store
for number in range(40):
    add_answer(Store(sys.argv[1]), "a", f"{number:02d}", "duplicate", labelled_by=sys.argv[2])
"""


def test_two_people_at_once_lose_nothing(store: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(store), name]) for name in ("ada", "bob")]
    while any(writer.poll() is None for writer in writers):
        read_answers(Store(store))  # never a half-written one
    assert [writer.returncode for writer in writers] == [0, 0]
    keys = current_answers(read_answers(Store(store))).keys()
    assert keys == {(f"{number:02d}", "a", name) for number in range(40) for name in ("ada", "bob")}
    assert len(files(store)) == 80


def test_an_answer_is_flushed_to_the_disk(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    monkeypatch.setattr("storage.atomic._flush", lambda path: flushed.append(path.name))
    add_answer(Store(store), "a", "b", "skip", labelled_by="ada")
    assert len(flushed) == 2
    assert flushed[1] == "duplicates"


def test_what_cannot_be_written_is_told(store: Path) -> None:
    store.mkdir()
    (store / "labels").write_text("a file")
    with pytest.raises(StoreError, match="cannot"):
        add_answer(Store(store), "a", "b", "skip", labelled_by="ada")


def test_answers_on_s3(bucket: S3Path) -> None:
    store = Store(bucket / "store")
    assert read_answers(store) == []
    added = add_answer(store, "a", "b", "duplicate", labelled_by="ada")
    undo = add_answer(store, "a", "b", "undo", labelled_by="ada", after=added)
    assert read_answers(store) == [added, undo]
    assert len(list((bucket / "store" / module.FOLDER).glob("*.json"))) == 2
