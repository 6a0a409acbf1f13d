"""What people said of pairs of images, one small file an answer: ``labels/duplicates/<time>-<token>.json``.

These files are primary data: nothing else in the store can make them again. None is ever changed or deleted; who takes an
answer back adds an ``undo``.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from storage.atomic import write_bytes
from storage.errors import StoreError
from storage.s3_path import StorePath, sorted_glob
from storage.store import Store

Verdict = Literal["duplicate", "different", "skip", "undo"]

FOLDER = "labels/duplicates"
READ_AT_ONCE = 16  # on S3 a file is a request, and most of its time is waiting
TICK = timedelta(microseconds=1)  # the least by which two times differ


@dataclass(frozen=True)
class Answer:
    """What one person said of one pair, and when; `image_id_a` < `image_id_b`, and the time is in UTC."""

    image_id_a: str
    image_id_b: str
    answer: Verdict
    labelled_by: str
    answered_at: datetime

    def __post_init__(self) -> None:
        if not self.image_id_a < self.image_id_b:
            raise ValueError(f"image_id_a must be less than image_id_b, got {self.image_id_a} and {self.image_id_b}")
        if self.answer not in get_args(Verdict):
            raise ValueError(f"answer must be one of {', '.join(get_args(Verdict))}, got {self.answer!r}")
        if not self.labelled_by.strip():
            raise ValueError("labelled_by is empty")
        if self.answered_at.utcoffset() != timedelta(0):
            raise ValueError(f"answered_at must be in UTC, got {self.answered_at.isoformat()}")

    @property
    def pair(self) -> tuple[str, str]:
        return self.image_id_a, self.image_id_b


def add_answer(
    store: Store,
    image_id_a: str,
    image_id_b: str,
    answer: Verdict,
    *,
    labelled_by: str,
    after: Answer | None = None,
) -> Answer:
    """Keep an answer. When this returns, it is on the disk.

    Parameters
    ----------
    image_id_a, image_id_b
        The pair, in either order.
    answer
        ``undo`` takes back what this person said of this pair before.
    after
        An answer that this one must come after, though the clock was set back between the two.

    Raises
    ------
    ValueError
        When the two images are one, the answer is none that there is, or the name is empty.
    StoreError
        When it cannot be written.
    """
    image_id_a, image_id_b = sorted((image_id_a, image_id_b))
    now = datetime.now(UTC)
    if after is not None:
        now = max(now, after.answered_at + TICK)
    added = Answer(image_id_a, image_id_b, answer, labelled_by, now)
    text = json.dumps({**asdict(added), "answered_at": now.isoformat(timespec="microseconds")}, ensure_ascii=False)
    name = f"{now:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}.json"
    write_bytes(store.root / FOLDER / name, text.encode())
    return added


def read_answers(store: Store) -> list[Answer]:
    """All answers of all people, in the order of their times.

    Raises
    ------
    StoreError
        When a file is damaged; the message names it.
    """
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        answers = pool.map(_read, sorted_glob(store.root / FOLDER, "*.json"))
        return sorted(answers, key=lambda answer: answer.answered_at)


def current_answers(answers: Iterable[Answer]) -> dict[tuple[str, str, str], Answer]:
    """What counts of answers in the order of their times: the last of each person for each pair, if it is no undo.

    Returns
    -------
    dict
        By (image_id_a, image_id_b, labelled_by), in the order of the answers' times.
    """
    current: dict[tuple[str, str, str], Answer] = {}
    for answer in answers:
        key = (*answer.pair, answer.labelled_by)
        current.pop(key, None)  # so that a new answer is also the last in order
        if answer.answer != "undo":
            current[key] = answer
    return current


def _read(path: StorePath) -> Answer:
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Answer(**{**fields, "answered_at": datetime.fromisoformat(fields["answered_at"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"{path} is no answer that can be read ({error}): mend it, or move it away and label that pair again"
        ) from error
