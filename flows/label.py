"""Labelling: a page of this machine on which a person says of pairs of images whether they are duplicates."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from importlib.resources import files
from typing import Literal

import jinja2
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.middleware.trustedhost import TrustedHostMiddleware

from storage.errors import PlaceprintError
from storage.store import Store
from tasks.dedup.labelling import AnotherPairError, Labelling, LabelSettings, Mode, Pair
from tasks.images import ImageError

HOST = "127.0.0.1"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
CONTENT_POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src 'nonce-{nonce}'; "
    "style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


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
