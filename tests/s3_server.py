"""A real S3 server on loopback: moto's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from urllib.request import Request, urlopen

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Response


class Quiet(WSGIRequestHandler):
    def log_request(self, *_: Any) -> None:
        pass


class S3Server:
    """Moto's server. A test may have requests refused or held up, and sees what was asked."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.forget()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def forget(self) -> None:
        self.requests: list[str] = []
        self.fault: Callable[[str], Response | None] = lambda _: None

    def ask(self, method: str, path: str, body: bytes | None = None) -> str:
        request = Request(self.url + path, method=method, data=body, headers={"Content-Type": "text/plain"})  # noqa: S310
        with urlopen(request) as answer:  # noqa: S310
            return answer.read().decode()

    def close(self) -> None:
        self._server.shutdown()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        asked = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ['QUERY_STRING']}"
        self.requests.append(asked)
        response = self.fault(asked)
        if response is None:
            return self._moto(environ, start_response)
        if environ["REQUEST_METHOD"] == "PUT":
            environ["wsgi.input"].read()
        return response(environ, start_response)
