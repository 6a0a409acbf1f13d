"""Labelling by a person: which pair comes next, what was said, and the thresholds after every answer."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np

from storage.answers import Answer, add_answer, current_answers, read_answers
from storage.errors import PlaceprintError
from storage.store import Store, TableVersion
from storage.vectors import read_vectors
from tasks.dedup.pairs import nearest_neighbours, pair_cosines
from tasks.dedup.sampling import (
    ThresholdHistory,
    candidate_pairs,
    converged,
    next_random,
    next_stratified,
    random_order,
    unsure_range,
)
from tasks.dedup.threshold import DuplicateModel, fit_thresholds
from tasks.images import open_rgb

Mode = Literal["random", "stratified"]
Pair = tuple[str, str]

N_RESAMPLES = 200  # after every answer: the page has to stay quick
# What browsers show; other formats are converted.
CONTENT_TYPES = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
}


class AnotherPairError(Exception):
    """The page that asks is behind: its pair is not the one whose turn it is."""


@dataclass(frozen=True)
class LabelSettings:
    """How pairs are chosen, and when the thresholds count as converged: see `serve`."""

    labelled_by: str
    mode: Mode
    n_last: int
    tolerance: float
    probabilities: tuple[float, float]
    seed: int


class Labelling:
    """The pairs of the selected embeddings, what people said of them, and which one a person is asked about next.

    All that it knows beyond the tables follows from the answers in the store, so it can be made again at any time. Several
    threads may use it at once.
    """

    def __init__(self, store: Store, settings: LabelSettings) -> None:
        self._store, self._settings = store, settings
        self._lock = threading.Lock()
        version = store.version("embeddings")
        if version.rows < 2:
            raise PlaceprintError(
                f"label: the embeddings {version.fingerprint} are of {version.rows} image: a pair needs two"
            )
        self._images = _images(store, version)
        self._answers = read_answers(store)
        self._find_pairs(version)
        self._history = ThresholdHistory(n_last=settings.n_last, probabilities=settings.probabilities)
        self._refresh()

    def _find_pairs(self, version: TableVersion) -> None:
        """The candidates, and the cosines of all pairs that are or were shown."""
        image_ids = version.read(["image_id"])["image_id"].to_pylist()
        vectors = read_vectors(version)
        try:
            row, cosine = nearest_neighbours(vectors)
        except ValueError as error:
            raise PlaceprintError(f"label: the embeddings {version.fingerprint} are damaged: {error}") from error
        candidates = candidate_pairs(row, cosine)
        self._order = random_order(candidates, row, seed=self._settings.seed)
        # Rows of float16 are not quite of length 1.
        self._candidate_cosine = np.clip(candidates.cosine, -1.0, 1.0)
        pairs = zip(candidates.i.tolist(), candidates.j.tolist(), strict=True)
        self._candidates = [_ordered(image_ids[i], image_ids[j]) for i, j in pairs]
        # Candidates of other embeddings were answered too; what is left of their images counts here as well.
        row_of = {identity: number for number, identity in enumerate(image_ids)}
        known = [pair for pair in {answer.pair for answer in self._answers} if row_of.keys() >= set(pair)]
        rows = np.array([[row_of[identity] for identity in pair] for pair in known], dtype=np.int64).reshape(-1, 2)
        answered = np.clip(pair_cosines(vectors, rows[:, 0], rows[:, 1]), -1.0, 1.0)
        self._cosine_of: dict[Pair, float] = dict(zip(known, answered.tolist(), strict=True))
        self._cosine_of.update(zip(self._candidates, self._candidate_cosine.tolist(), strict=True))

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        with self._lock:
            return self._state

    def answer(self, pair: Pair, verdict: Literal["duplicate", "different", "skip"]) -> dict[str, Any]:
        """Keep an answer to the pair whose turn it is; gives the state after it.

        Raises
        ------
        AnotherPairError
            When it is another pair's turn: nothing is kept.
        """
        with self._lock:
            if pair != self._next:
                raise AnotherPairError("This pair is answered already, or another's turn came: here is the next.")
            self._keep(pair, verdict)
            return self._state

    def undo(self, pair: Pair) -> dict[str, Any]:
        """Take this person's last answer back, which must be the one on `pair`; gives the state after it."""
        with self._lock:
            if pair != self._last:
                raise AnotherPairError("That was not your last answer: nothing was taken back.")
            self._keep(pair, "undo")
            return self._state

    def image(self, image_id: str) -> tuple[bytes, str]:
        """The file of an image and its content type.

        Raises
        ------
        KeyError
            When the tables name no such image.
        FileNotFoundError, ImageError
            When the store has lost its file, or it has to be converted and cannot be decoded.
        """
        path = self._store.root / self._images[image_id]["file"]
        if path.suffix in CONTENT_TYPES:
            return path.read_bytes(), CONTENT_TYPES[path.suffix]
        converted = BytesIO()
        open_rgb(path).save(converted, "PNG")
        return converted.getvalue(), "image/png"

    def _keep(self, pair: Pair, verdict: Literal["duplicate", "different", "skip", "undo"]) -> None:
        after = self._answers[-1] if self._answers else None
        by = self._settings.labelled_by
        self._answers.append(add_answer(self._store, *pair, verdict, labelled_by=by, after=after))
        self._refresh()

    def _refresh(self) -> None:
        """All that follows from the answers."""
        settings = self._settings
        current = [each for each in current_answers(self._answers).values() if each.pair in self._cosine_of]
        own = [each for each in current if each.labelled_by == settings.labelled_by]
        decided = [each for each in current if each.answer != "skip"]
        cosine = [self._cosine_of[each.pair] for each in decided]
        is_duplicate = [each.answer == "duplicate" for each in decided]
        model, reason = self._fit(cosine, is_duplicate)
        history = self._history.after(cosine, is_duplicate)
        shown = {each.pair for each in own}
        self._last = own[-1].pair if own else None
        self._next = self._next_pair(shown, cosine, model)
        self._state = {
            "pair": None if self._next is None else [self._about(identity) for identity in self._next],
            "last": self._last,
            "labelled_by": settings.labelled_by,
            "mode": settings.mode,
            "counts": self._counts(own, shown),
            "thresholds": _thresholds(model, len({each.labelled_by for each in decided})),
            "reason": reason,
            "converged": converged(history, tolerance=settings.tolerance, n_last=settings.n_last),
            "n_last": settings.n_last,
            "tolerance": settings.tolerance,
        }

    def _fit(self, cosine: list[float], is_duplicate: list[bool]) -> tuple[DuplicateModel | None, str | None]:
        """The model of all people's answers, or why there is none."""
        settings = self._settings
        try:
            model = fit_thresholds(
                cosine,
                is_duplicate,
                probabilities=settings.probabilities,
                n_resamples=N_RESAMPLES,
                seed=settings.seed,
            )
        except (ValueError, ArithmeticError) as error:
            return None, str(error)
        return model, None

    def _next_pair(self, shown: set[Pair], answered: list[float], model: DuplicateModel | None) -> Pair | None:
        mine = [each for each in self._answers if each.labelled_by == self._settings.labelled_by]
        if mine and mine[-1].answer == "undo" and mine[-1].pair in self._cosine_of:
            return mine[-1].pair
        is_shown = np.fromiter((pair in shown for pair in self._candidates), np.bool_, len(self._candidates))
        if self._settings.mode == "random":
            found = next_random(self._order, is_shown)
        else:
            unsure = unsure_range(self._candidate_cosine, model)
            found = next_stratified(self._candidate_cosine, self._order, is_shown, answered, unsure)
        return None if found is None else self._candidates[found]

    def _about(self, image_id: str) -> dict[str, Any]:
        """What the page says of an image; not the cosine of its pair, which would sway the answer."""
        return {name: value for name, value in self._images[image_id].items() if name != "file"}

    def _counts(self, own: list[Answer], shown: set[Pair]) -> dict[str, int]:
        verdicts = [each.answer for each in own]
        return {
            "answered": len(own) - verdicts.count("skip"),
            "duplicates": verdicts.count("duplicate"),
            "different": verdicts.count("different"),
            "skipped": verdicts.count("skip"),
            "left": sum(pair not in shown for pair in self._candidates),
        }


def _images(store: Store, embeddings: TableVersion) -> dict[str, dict[str, Any]]:
    """Rows of the images that were embedded, by their ids; of equal images in several collections the first."""
    images = store.version("images", embeddings.manifest["recipe"]["inputs"]["images"])
    columns = ["image_id", "label", "source", "path", "file", "width", "height"]
    return {row["image_id"]: row for row in reversed(images.read(columns).to_pylist())}


def _ordered(image_id: str, other: str) -> Pair:
    return (image_id, other) if image_id < other else (other, image_id)


def _thresholds(model: DuplicateModel | None, n_people: int) -> dict[str, Any] | None:
    """Thresholds and their intervals for the page; an end that the answers do not bound is None."""
    if model is None:
        return None
    intervals = {
        "suspected": (model.suspected, model.interval_suspected),
        "certain": (model.certain, model.interval_certain),
    }
    said = {
        name: {
            "probability": probability,
            "cosine": cosine,
            "low": low if math.isfinite(low) else None,
            "high": high if math.isfinite(high) else None,
        }
        for (name, (cosine, (low, high))), probability in zip(intervals.items(), model.probabilities, strict=True)
    }
    return {**said, "n": model.n, "n_people": n_people}
