"""Labelling: a page of this machine on which a person says of pairs of images whether they are duplicates."""

from __future__ import annotations

import math
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from typing import Any, Literal

import jinja2
import numpy as np
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.middleware.trustedhost import TrustedHostMiddleware

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
from tasks.images import ImageError, open_rgb

Mode = Literal["random", "stratified"]
Pair = tuple[str, str]

HOST = "127.0.0.1"
N_RESAMPLES = 200  # after every answer: the page has to stay quick
# What browsers show; other formats are converted.
CONTENT_TYPES = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
CONTENT_POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src 'nonce-{nonce}'; "
    "style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


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


class AnsweredPair(BaseModel):
    """Which pair, its ids in order."""

    image_id_a: str
    image_id_b: str

    @property
    def pair(self) -> Pair:
        return self.image_id_a, self.image_id_b


class GivenAnswer(AnsweredPair):
    answer: Literal["duplicate", "different", "skip"]


def _json_only(request: Request) -> None:
    """Refuse what a page of another site can send without asking: forms and plain text."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise HTTPException(415, "send application/json")


def label_app(labelling: Labelling) -> FastAPI:
    """The page and what it asks for."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    template = environment.get_template("label.html")
    style = files("tasks.report").joinpath("templates/style.css").read_text(encoding="utf-8")

    @app.get("/")
    def page() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        policy = {"Content-Security-Policy": CONTENT_POLICY.format(nonce=nonce), **HEADERS}
        return HTMLResponse(template.render(style=style, nonce=nonce), headers=policy)

    @app.get("/state")
    def state() -> JSONResponse:
        return JSONResponse(labelling.state(), headers=HEADERS)

    @app.get("/image/{image_id}")
    def image(image_id: str) -> Response:
        try:
            content, content_type = labelling.image(image_id)
        except KeyError:
            raise HTTPException(404, "no such image") from None
        except (FileNotFoundError, ImageError) as error:
            raise HTTPException(404, f"the file of this image cannot be read: {error}") from None
        return Response(content, media_type=content_type, headers=HEADERS)

    @app.post("/answer", dependencies=[Depends(_json_only)])
    def answer(given: GivenAnswer) -> JSONResponse:
        return JSONResponse(labelling.answer(given.pair, given.answer), headers=HEADERS)

    @app.post("/undo", dependencies=[Depends(_json_only)])
    def undo(taken_back: AnsweredPair) -> JSONResponse:
        return JSONResponse(labelling.undo(taken_back.pair), headers=HEADERS)

    @app.exception_handler(AnotherPairError)
    def another_pair(_: Request, error: AnotherPairError) -> JSONResponse:
        return JSONResponse({"detail": str(error), "state": labelling.state()}, 409, headers=HEADERS)

    @app.exception_handler(PlaceprintError)
    def not_kept(_: Request, error: PlaceprintError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 500, headers=HEADERS)

    # Another site's name that was made to lead here (DNS rebinding) is refused.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)
    return app


def serve(
    store: Store,
    *,
    labelled_by: str,
    mode: Mode,
    port: int,
    announce: Callable[[str], object],
    n_last: int = 20,
    tolerance: float = 0.002,
    probabilities: tuple[float, float] = (0.01, 0.99),
    seed: int = 0,
) -> None:
    """Serve the page to this machine until Ctrl-C.

    Parameters
    ----------
    labelled_by
        Who answers. Each person is shown each pair once; the thresholds are fitted to the answers of all.
    mode
        ``random``: an image drawn at random with its most similar other image. ``stratified``: of these pairs one from
        where the model is unsure and the fewest were answered.
    port
        On the loopback interface; 0 is any free one.
    announce
        Called with the address as soon as the page can be opened.
    n_last, tolerance
        The thresholds have converged when after each of the last `n_last` answers both were within `tolerance` of the
        newest.
    probabilities
        Of the thresholds `suspected` and `certain`.
    seed
        Of the order of the pairs.

    Raises
    ------
    PlaceprintError
        When the port is taken, the name is empty, or there are no embeddings of two images.
    """
    if not labelled_by.strip():
        raise PlaceprintError("label: the name of the person who labels is empty: give --by NAME")
    settings = LabelSettings(labelled_by.strip(), mode, n_last, tolerance, probabilities, seed)
    with closing(_listen(port)) as listener:
        app = label_app(Labelling(store, settings))
        announce(f"http://{HOST}:{listener.getsockname()[1]}")
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=2)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    # A server that was killed leaves connections behind that would keep its port for a minute.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise PlaceprintError(
            f"label: port {port} cannot be used ({error.strerror}): give another with --port"
        ) from error
    return listener
