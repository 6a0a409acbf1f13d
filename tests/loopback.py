"""A real HTTP server on loopback whose answers a test writes, faults and all."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at_s: float


@dataclass(frozen=True)
class Answer:
    """What is answered. `cut` bytes of the body are left out, though promised; `reset` breaks the connection there."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    reset: bool = False
    delay_s: float = 0.0


Route = Callable[[Request], Answer] | Answer | list[Answer]


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **headers})


class Loopback:
    """Serves `routes` (path -> answer, function, or answers one after the other, the last one for ever)."""

    def __init__(self, port: int = 0) -> None:
        self.routes: dict[str, Route] = {}
        self.requests: list[Request] = []
        self.latency_s = 0.0
        self._lock = threading.Lock()
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                loopback._serve(self)

            do_POST = do_GET  # noqa: N815  (the name that http.server calls)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: object) -> None:
                pass  # clients that go away are part of the tests

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def asked(self, path: str) -> list[Request]:
        """Requests of one path."""
        return [request for request in self.requests if request.path == path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        length = int(handler.headers.get("Content-Length", 0))
        request = Request(
            handler.command,
            parts.path,
            dict(parse_qsl(parts.query, keep_blank_values=True)),
            {name.lower(): value for name, value in handler.headers.items()},
            handler.rfile.read(length),
            time.monotonic(),
        )
        with self._lock:
            self.requests.append(request)
            route = self.routes.get(parts.path)
            if isinstance(route, list):
                route = route.pop(0) if len(route) > 1 else route[0]
        answer = route(request) if callable(route) else route or Answer(b"not here", 404)
        time.sleep(self.latency_s + answer.delay_s)
        _send(handler, answer)


def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    handler.send_response(answer.status)
    for name, value in answer.headers.items():
        handler.send_header(name, value)
    if "Content-Length" not in answer.headers and "Transfer-Encoding" not in answer.headers:
        handler.send_header("Content-Length", str(len(answer.body)))
    handler.end_headers()
    handler.wfile.write(answer.body[: len(answer.body) - answer.cut] if answer.cut else answer.body)
    if answer.reset:
        # Zero linger: the kernel sends RST in place of FIN.
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.shutdown(socket.SHUT_RD)
        handler.close_connection = True
        handler.connection.close()
    elif answer.cut:
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)
