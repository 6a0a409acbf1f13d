"""Asking services that misbehave, over real connections on loopback."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import islice
from pathlib import Path

import pytest
from loopback import Answer, Loopback, Request, json_answer

from storage.schemas import RejectReason
from tasks.collect import service
from tasks.collect.service import Credentials, FetchError, ServiceSettings, checked_address, plain
from tasks.collect.web import Web

BODY = bytes(range(256)) * 40


def settings(base_url: str, **given: object) -> ServiceSettings:
    quick = {"requests_per_second": None, "backoff_s": 0.01, "attempts": 3, "timeout_s": 5.0}
    return ServiceSettings.model_validate({"base_url": base_url, **quick, **given})


def web(loopback: Loopback, folder: Path, **given: object) -> Web:
    return Web(settings(loopback.url, **given), folder, max_bytes=1_000_000)


@pytest.fixture
def asked(loopback: Loopback, tmp_path: Path) -> Web:
    return web(loopback, tmp_path)


def refusal(web: Web, url: str) -> RejectReason:
    with pytest.raises(FetchError) as caught:
        web.download(url)
    assert "\n" not in caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize(
    "fault",
    [
        Answer(status=500),
        Answer(status=503),
        Answer(status=429),
        Answer(b"x", 429, {"Retry-After": "soon"}),
        Answer(BODY, cut=5000),
        Answer(BODY, cut=5000, reset=True),
        Answer(BODY, cut=len(BODY)),
        Answer(gzip.compress(BODY)[:-9], headers={"Content-Encoding": "gzip"}),
        Answer(b"this is not gzip", headers={"Content-Encoding": "gzip"}),
    ],
    ids=["500", "503", "429", "429 soon", "short", "reset", "no body", "gzip cut", "no gzip"],
)
def test_fault_then_success(loopback: Loopback, asked: Web, fault: Answer) -> None:
    loopback.routes["/a"] = [fault, Answer(BODY)]
    assert asked.download(f"{loopback.url}/a") == BODY
    assert len(loopback.requests) == 2


@pytest.mark.parametrize("fault", [Answer(status=500), Answer(BODY, cut=1), Answer(BODY, cut=1, reset=True)])
def test_fault_that_stays_is_unreachable(loopback: Loopback, asked: Web, fault: Answer) -> None:
    loopback.routes["/a"] = fault
    assert refusal(asked, f"{loopback.url}/a") is RejectReason.UNREACHABLE
    assert len(loopback.requests) == 3


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert refusal(Web(settings(url), tmp_path), f"{url}/a") is RejectReason.UNREACHABLE


def test_silent_service_is_left_after_the_timeout(loopback: Loopback, tmp_path: Path) -> None:
    loopback.routes["/a"] = Answer(BODY, delay_s=3)
    assert refusal(web(loopback, tmp_path, timeout_s=0.2, attempts=2), f"{loopback.url}/a") is RejectReason.UNREACHABLE
    assert len(loopback.requests) == 2


def test_dripping_service_is_left_after_the_deadline(loopback: Loopback, tmp_path: Path) -> None:
    page = Answer(b"", 302, {"Location": "/a"}, delay_s=0.15)
    loopback.routes["/start"] = page
    loopback.routes["/a"] = Answer(BODY)
    drip = web(loopback, tmp_path, deadline_s=0.1, attempts=1)
    assert refusal(drip, f"{loopback.url}/start") is RejectReason.UNREACHABLE


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_heeded(loopback: Loopback, asked: Web, form: str) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    loopback.routes["/a"] = [
        Answer(status=429, headers={"Retry-After": "1" if form == "seconds" else later}),
        Answer(BODY),
    ]
    assert asked.download(f"{loopback.url}/a") == BODY
    first, second = loopback.requests
    assert second.at_s - first.at_s >= 0.9  # a date has whole seconds


def test_too_long_a_wait_is_not_waited_for(loopback: Loopback, asked: Web) -> None:
    loopback.routes["/a"] = Answer(status=429, headers={"Retry-After": "86400"})
    assert refusal(asked, f"{loopback.url}/a") is RejectReason.UNREACHABLE
    assert len(loopback.requests) == 1


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, "not_found"),
        (410, "not_found"),
        (401, "refused_by_service"),
        (403, "refused_by_service"),
        (204, "refused_by_service"),
    ],
)
def test_final_answers_are_not_asked_again(loopback: Loopback, asked: Web, status: int, reason: str) -> None:
    loopback.routes["/a"] = Answer(status=status)
    assert refusal(asked, f"{loopback.url}/a") == reason
    assert len(loopback.requests) == 1


def test_size_cap_holds_with_and_without_a_promise(loopback: Loopback, asked: Web) -> None:
    loopback.routes["/promised"] = Answer(b"", headers={"Content-Length": "1000001"})
    loopback.routes["/unsaid"] = Answer(
        b"%x\r\n" % 2_000_000 + bytes(2_000_000) + b"\r\n0\r\n\r\n", headers={"Transfer-Encoding": "chunked"}
    )
    for path in ("/promised", "/unsaid"):
        assert refusal(asked, loopback.url + path) is RejectReason.TOO_MANY_BYTES


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bomb_is_refused_and_a_small_one_read(loopback: Loopback, asked: Web, encoding: str) -> None:
    compress = gzip.compress if encoding == "gzip" else zlib.compress
    loopback.routes["/bomb"] = Answer(compress(bytes(200_000_000)), headers={"Content-Encoding": encoding})
    loopback.routes["/fine"] = Answer(compress(BODY), headers={"Content-Encoding": encoding})
    assert refusal(asked, f"{loopback.url}/bomb") is RejectReason.TOO_MANY_BYTES
    assert asked.download(f"{loopback.url}/fine") == BODY


def test_compression_of_unknown_kind_is_refused(loopback: Loopback, asked: Web) -> None:
    loopback.routes["/a"] = Answer(BODY, headers={"Content-Encoding": "br"})
    assert refusal(asked, f"{loopback.url}/a") is RejectReason.BAD_ANSWER


def test_redirects_are_followed_and_loops_are_not(loopback: Loopback, asked: Web) -> None:
    loopback.routes |= {
        "/a": Answer(status=302, headers={"Location": "/b?x=1"}),
        "/b": Answer(BODY),
        "/loop": Answer(status=302, headers={"Location": "/loop"}),
    }
    assert asked.download(f"{loopback.url}/a") == BODY
    assert refusal(asked, f"{loopback.url}/loop") is RejectReason.FORBIDDEN_ADDRESS
    assert len(loopback.asked("/loop")) == 6


def test_redirect_to_another_server_is_refused_and_never_asked(loopback: Loopback, asked: Web) -> None:
    other = Loopback()
    other.routes["/secret"] = Answer(BODY)
    for target in (
        f"{other.url}/secret",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "//[::1]/a",
        "http://[bad",
    ):
        loopback.routes["/a"] = Answer(status=302, headers={"Location": target})
        assert refusal(asked, f"{loopback.url}/a") is RejectReason.FORBIDDEN_ADDRESS, target
    assert other.requests == []
    other.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.org/a", "none of the hosts"),
        ("https://osf.io.example.org/a", "none of the hosts"),
        ("https://evilosf.io/a", "none of the hosts"),
        ("https://user:pass@osf.io/a", "names a user"),
        ("https://osf.io:8443/a", "port 8443"),
        ("ftp://osf.io/a", "ftp is not asked"),
        ("s3://bucket/key", "s3 is not asked"),
        ("https://storage.example.org/other-bucket/a", "none of the hosts"),
        ("https://127.0.0.1/a", "none of the hosts"),
        ("https://localhost/a", "internal address"),
        ("nonsense", "no scheme"),
    ],
)
def test_addresses_that_are_never_asked(url: str, why: str) -> None:
    hosts = ("osf.io", "*.osf.io", "storage.example.org/ours-", "localhost")
    with pytest.raises(FetchError, match=why):
        checked_address(url, settings("https://api.osf.io", hosts=hosts))


def test_addresses_that_may_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_leads_to_public_addresses", lambda _: True)
    given = settings("https://api.osf.io/v2", hosts=("*.osf.io", "storage.example.org/ours-", "http://10.0.0.1:80"))
    for url, asked in {
        "http://files.osf.io/a?b=1": "https://files.osf.io/a?b=1",
        "https://api.osf.io:443/v2": "https://api.osf.io/v2",
        "https://storage.example.org/ours-1/a": "https://storage.example.org/ours-1/a",
        "http://10.0.0.1:80/a": "http://10.0.0.1:80/a",
    }.items():
        assert checked_address(url, given) == asked


@pytest.mark.parametrize("address", ["10.1.2.3", "127.0.0.1", "169.254.169.254", "::1", "fd00::1", "::ffff:10.0.0.1"])
def test_allowed_name_that_leads_inside_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    found = [(2, 1, 6, "", ("93.184.215.14", 443)), (2, 1, 6, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    service._leads_to_public_addresses.cache_clear()
    with pytest.raises(FetchError, match="internal address"):
        checked_address("https://api.osf.io/a", settings("https://api.osf.io"))
    service._leads_to_public_addresses.cache_clear()


def test_json_is_kept_and_not_asked_for_twice(loopback: Loopback, tmp_path: Path) -> None:
    loopback.routes["/a"] = json_answer({"found": 1, "numbers": [1.0, None]})
    for _ in range(2):
        assert web(loopback, tmp_path).json(f"{loopback.url}/a", {"page": 1}) == {"found": 1, "numbers": [1.0, None]}
    assert len(loopback.requests) == 1
    (kept,) = (tmp_path / "answers").iterdir()
    content = json.loads(gzip.decompress(kept.read_bytes()))
    assert content["url"] == f"{loopback.url}/a?page=1"
    assert content["answer"]["found"] == 1
    kept.write_bytes(kept.read_bytes()[:20])
    assert web(loopback, tmp_path).json(f"{loopback.url}/a", {"page": 1})["found"] == 1
    assert len(loopback.requests) == 2


def test_html_in_place_of_json_is_asked_for_again(loopback: Loopback, asked: Web) -> None:
    loopback.routes["/a"] = [Answer(b"<html>busy</html>"), json_answer([1])]
    assert asked.json(f"{loopback.url}/a") == [1]


class SecretSettings(ServiceSettings):
    """A service that wants a token in the query and one in a header."""

    def credentials(self, url: str) -> Credentials:
        own = url.startswith(self.base_url)
        return Credentials({"key": "s3cret"}, {"Authorization": "Bearer t0ken"}) if own else Credentials()


def test_secrets_are_sent_to_the_service_alone_and_kept_nowhere(loopback: Loopback, tmp_path: Path) -> None:
    other = Loopback()
    other.routes["/b"] = Answer(BODY)
    loopback.routes |= {
        "/a": json_answer({"next": f"{loopback.url}/c?key=s3cret&page=2", "echo": "Bearer t0ken"}),
        "/c": json_answer({"next": None}),
        "/away": Answer(status=302, headers={"Location": f"{other.url}/b"}),
        "/denied": Answer(status=403),
    }
    given = SecretSettings.model_validate({**settings(loopback.url, hosts=(other.url,)).model_dump()})
    asked = Web(given, tmp_path)
    pages = list(asked.pages(f"{loopback.url}/a", lambda answer: answer["next"]))
    assert len(pages) == 2
    assert asked.download(f"{loopback.url}/away") == BODY
    for request in loopback.requests:
        assert (request.query["key"], request.headers["authorization"]) == ("s3cret", "Bearer t0ken")
    assert loopback.requests[1].query["page"] == "2"
    assert "key" not in other.requests[0].query
    assert "authorization" not in other.requests[0].headers
    with pytest.raises(FetchError) as caught:
        asked.download(f"{loopback.url}/denied?key=s3cret")
    kept = b"".join(gzip.decompress(path.read_bytes()) for path in (tmp_path / "answers").iterdir())
    assert b"s3cret" not in kept + caught.value.detail.encode()
    assert b"t0ken" not in kept
    other.close()


def test_pages_that_do_not_end(loopback: Loopback, tmp_path: Path) -> None:
    def ever_new(request: Request) -> Answer:
        number = int(request.query.get("page", 1))
        return json_answer({"number": number, "next": f"/new?page={number + 1}"})

    loopback.routes |= {"/circle": json_answer({"next": "/circle"}), "/new": ever_new}
    for path, n_pages in (("/circle", 1), ("/new", 7)):
        pages = web(loopback, tmp_path, max_pages=7).pages(loopback.url + path, lambda answer: answer["next"])
        assert len(list(islice(pages, n_pages))) == n_pages
        with pytest.raises(FetchError) as caught:
            next(pages)
        assert caught.value.reason is RejectReason.BAD_ANSWER


def test_rate_is_kept_over_threads(loopback: Loopback, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    loopback.routes["/a"] = Answer(BODY)
    slow = web(loopback, tmp_path, requests_per_second=20)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(slow.download, [f"{loopback.url}/a"] * 9))
    times = sorted(request.at_s for request in loopback.requests)
    assert times[-1] - times[0] >= 8 / 20 * 0.9


def test_plain_shows_no_query_and_no_user() -> None:
    assert plain("https://u:p@osf.io/a/b?view_only=x#y") == "https://osf.io/a/b"
    assert plain("http://[bad") == "an address that cannot be parsed"
