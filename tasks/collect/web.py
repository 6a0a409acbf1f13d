"""Asking services: politely, with retries, and believing nothing that they send. Done here once, for all sources."""

from __future__ import annotations

import json
import os
import random
import ssl
import threading
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt

from storage.local_copies import local_place
from storage.s3_path import StorePath
from storage.schemas import RejectReason
from tasks.collect.kept_answers import KeptAnswers
from tasks.collect.service import FetchError, ServiceSettings, checked_address, plain

Result = TypeVar("Result")

MAX_REDIRECTS = 5
MAX_ANSWER_BYTES = 64_000_000
TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_BACKOFF_S = 60.0


class TryAgainError(Exception):
    """An attempt failed; another may not."""

    def __init__(self, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class Pace:
    """When each host may be asked next, over all threads of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next_s: dict[str, float] = defaultdict(float)

    def wait(self, host: str, requests_per_second: float | None) -> None:
        """Sleep until it is this request's turn."""
        with self._lock:
            turn_s = max(time.monotonic(), self._next_s[host])
            if requests_per_second is not None:
                self._next_s[host] = turn_s + 1.0 / requests_per_second
        time.sleep(max(0.0, turn_s - time.monotonic()))

    def pause(self, host: str, seconds: float) -> None:
        """Nobody asks the host before."""
        with self._lock:
            self._next_s[host] = max(self._next_s[host], time.monotonic() + seconds)


_pace = Pace()


class Web:
    """Asks one service, and the hosts that it may send us to.

    Parameters
    ----------
    settings
        Rates, limits and allowed hosts; None for a source that asks nobody.
    folder
        That of the listing: JSON answers are kept in its ``answers``, and found again by the next run; ``downloads`` is
        for what a source itself needs, such as an archive, until all is fetched.
    max_bytes
        Of one download.
    turn
        Called with the host before each request: a limit that other processes share.
    """

    def __init__(
        self,
        settings: ServiceSettings | None,
        folder: StorePath,
        *,
        max_bytes: int = MAX_ANSWER_BYTES,
        turn: Callable[[str], None] | None = None,
    ) -> None:
        self._given = settings
        self.max_bytes = max_bytes
        self._n_asked = 0
        self._answers = KeptAnswers(folder / "answers")
        self.downloads = local_place(folder) / "downloads"
        self._turn = turn

    def json(
        self,
        url: str,
        params: Mapping[str, str | int] | None = None,
        *,
        body: Any = None,
        keep_if: Callable[[Any], bool] = lambda _: True,
    ) -> Any:
        """The JSON answer to GET, or to POST where there is a `body`: kept as it came, and not asked for twice.

        Parameters
        ----------
        keep_if
            Whether an answer is worth keeping: a service may answer an error with HTTP 200.

        Raises
        ------
        FetchError
            ``unreachable`` when there is no answer, or none in JSON, after all attempts; ``bad_answer`` once more than
            `max_pages` were asked for; else why it is refused.
        """
        self._n_asked += 1
        if self._n_asked > self._settings.max_pages:
            raise FetchError(
                RejectReason.BAD_ANSWER, f"{plain(url)}: the listing has more than {self._settings.max_pages} pages"
            )
        url = _with_params(checked_address(url, self._settings), params or {})
        secrets = self._secrets(url)
        kept = self._answers.find(url, body, secrets)
        if kept is not None:
            return kept
        data = self._bytes(url, MAX_ANSWER_BYTES, body=body, is_good=_is_json)
        if not keep_if(json.loads(data)):
            return json.loads(data)
        return self._answers.keep(url, body, secrets, data, self._settings.PRIVATE)

    def pages(self, url: str, next_of: Callable[[Any], str | None]) -> Iterator[Any]:
        """The answer to `url`, and those to the addresses that each answer names as the next.

        Raises
        ------
        FetchError
            ``bad_answer`` when the pages lead in a circle; what they held until then has been given.
        """
        seen: set[str] = set()
        following: str | None = url
        while following is not None:
            if following in seen:
                raise FetchError(RejectReason.BAD_ANSWER, f"{plain(url)}: its pages lead in a circle")
            seen.add(following)
            answer = self.json(following)
            yield answer
            target = next_of(answer)
            following = _joined(following, target) if target else None

    def download(self, url: str) -> bytes:
        """The file at an address.

        Raises
        ------
        FetchError
            With its reason; ``too_many_bytes`` is known before the file is there whole.
        """
        return self._bytes(url, self.max_bytes)

    @property
    def _settings(self) -> ServiceSettings:
        if self._given is None:
            raise TypeError("this source has no ServiceSettings, so it cannot ask a service")
        return self._given

    def _secrets(self, url: str) -> list[str]:
        credentials = self._settings.credentials(url)
        return [*credentials.params.values(), *credentials.headers.values()]

    def kept(self, name: str, ask: Callable[[], bytes]) -> Any:
        """The JSON answer that is kept under `name`, or the one that `ask` gets: for services with a client of their own."""
        found = self._answers.find(name, None, ())
        return found if found is not None else self._answers.keep(name, None, (), ask(), self._settings.PRIVATE)

    def retried(self, what: str, attempt: Callable[[], Result]) -> Result:
        """What `attempt` returns, which may raise `TryAgainError` some times.

        Raises
        ------
        FetchError
            ``unreachable`` when it did so each time.
        """
        n_attempts = self._settings.attempts
        retrying = Retrying(
            stop=stop_after_attempt(n_attempts),
            wait=self._wait_s,
            retry=retry_if_exception_type(TryAgainError),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except TryAgainError as error:
            tried = f"{n_attempts} attempts" if n_attempts > 1 else "one attempt"
            raise FetchError(RejectReason.UNREACHABLE, f"{what}: {error} ({tried})") from None

    def _bytes(
        self, url: str, max_bytes: int, *, body: Any = None, is_good: Callable[[bytes], bool] = lambda _: True
    ) -> bytes:
        def attempt() -> bytes:
            data = self._attempt(url, max_bytes, body)
            if not is_good(data):
                raise TryAgainError("the answer is not JSON")
            return data

        return self.retried(plain(url), attempt)

    def _wait_s(self, state: RetryCallState) -> float:
        """Exponential backoff with full jitter (Brooker 2015); none where the service itself said how long."""
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, TryAgainError) and error.retry_after_s is not None:
            return 0.0  # the host is paused
        longest_s = min(LONGEST_BACKOFF_S, self._settings.backoff_s * 2.0 ** (state.attempt_number - 1))
        return random.uniform(0.5, 1.0) * longest_s  # noqa: S311  (not a secret)  # nosec B311

    def _attempt(self, url: str, max_bytes: int, body: Any) -> bytes:
        """One attempt, along its redirects."""
        started_s = time.monotonic()
        for _ in range(MAX_REDIRECTS + 1):
            url = checked_address(url, self._settings)
            host = urlsplit(url).netloc
            if self._turn is not None:
                self._turn(host)
            _pace.wait(host, self._settings.requests_per_second)
            try:
                with self._open(url, body) as response:
                    target = response.headers.get("location")
                    if response.is_redirect and target and body is None:
                        url = _joined(url, target)
                        continue
                    self._raise_for_status(response, url, host)
                    return _read(response, url, max_bytes, started_s + self._settings.deadline_s)
            except (httpx.TransportError, httpx.DecodingError, zlib.error) as error:
                raise TryAgainError(_why(error)) from None
            except (httpx.InvalidURL, UnicodeError) as error:
                raise FetchError(RejectReason.FORBIDDEN_ADDRESS, f"{plain(url)}: {error}") from None
        raise FetchError(RejectReason.FORBIDDEN_ADDRESS, f"{plain(url)}: more than {MAX_REDIRECTS} redirects")

    def _open(self, url: str, body: Any) -> Any:
        credentials = self._settings.credentials(url)
        headers = {"User-Agent": _user_agent(self._settings.contact), **credentials.headers}
        return _client(self._settings.timeout_s).stream(
            "GET" if body is None else "POST", _with_params(url, credentials.params), headers=headers, json=body
        )

    def _raise_for_status(self, response: httpx.Response, url: str, host: str) -> None:
        status = response.status_code
        if status == 200:
            return
        detail = f"HTTP {status} {response.reason_phrase}".strip()
        if status in TRY_AGAIN:
            retry_after_s = _retry_after_s(response.headers.get("retry-after"))
            if retry_after_s is not None and retry_after_s > self._settings.max_wait_s:
                raise FetchError(
                    RejectReason.UNREACHABLE,
                    f"{plain(url)}: {detail}, and asks to wait {retry_after_s:.0f} s (max_wait_s is {self._settings.max_wait_s:g})",
                )
            if retry_after_s is not None:
                _pace.pause(host, retry_after_s)
            raise TryAgainError(detail, retry_after_s)
        reason = RejectReason.NOT_FOUND if status in (404, 410) else RejectReason.REFUSED_BY_SERVICE
        raise FetchError(reason, f"{plain(url)}: {detail}")


# For sources that ask nobody.
OFFLINE = Web(None, Path(os.devnull))


def _read(response: httpx.Response, url: str, max_bytes: int, deadline_s: float) -> bytes:
    """The body, at most `max_bytes` of it, however far it would unfold."""
    promised = response.headers.get("content-length", "")
    if promised.isdecimal() and int(promised) > max_bytes:
        raise FetchError(RejectReason.TOO_MANY_BYTES, f"{plain(url)}: {promised} bytes, allowed are {max_bytes}")
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "deflate"):
        raise FetchError(RejectReason.BAD_ANSWER, f"{plain(url)}: compressed with {encoding}, which was not asked for")
    unfold = None if encoding in ("identity", "") else zlib.decompressobj(wbits=47)
    body = bytearray()
    for chunk in response.iter_raw():
        # One byte more than allowed is enough to know.
        body += chunk if unfold is None else unfold.decompress(chunk, max_bytes + 1 - len(body))
        if len(body) > max_bytes:
            raise FetchError(RejectReason.TOO_MANY_BYTES, f"{plain(url)}: more than {max_bytes} bytes")
        if time.monotonic() > deadline_s:
            raise TryAgainError("the answer takes too long")
    if unfold is not None and not unfold.eof:
        raise TryAgainError("the compressed answer is cut off")
    return bytes(body)


class _Clients(threading.local):
    """One client a thread: threads that share httpx's pool of connections wait for its lock most of the time."""

    def __init__(self) -> None:
        self.by_timeout_s: dict[float, httpx.Client] = {}


_clients = _Clients()


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """Certificates, which take longer to load than most requests."""
    return httpx.create_ssl_context()


def _client(timeout_s: float) -> httpx.Client:
    """The client of this thread. Nothing is asked to be compressed, so that sizes can be trusted."""
    if timeout_s not in _clients.by_timeout_s:
        _clients.by_timeout_s[timeout_s] = httpx.Client(
            timeout=timeout_s, follow_redirects=False, headers={"Accept-Encoding": "identity"}, verify=_tls()
        )
    return _clients.by_timeout_s[timeout_s]


@lru_cache(maxsize=16)
def _user_agent(contact: str | None) -> str:
    return f"placeprint/{version('placeprint')}" + (f" ({contact})" if contact else "")


def _joined(base: str, target: str) -> str:
    """The address that another one names, perhaps relative to itself."""
    try:
        return urljoin(base, target)
    except ValueError:
        raise FetchError(RejectReason.FORBIDDEN_ADDRESS, f"{plain(base)} leads to no address") from None


def _with_params(url: str, params: Mapping[str, str | int]) -> str:
    """The address with these parameters, in place of those of the same name."""
    if not params:
        return url  # as it came: a signed address must not be written anew
    parts = urlsplit(url)
    others = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in params]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode([*others, *params.items()]), ""))


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def _retry_after_s(value: str | None) -> float | None:
    """Seconds, from a number of seconds or an HTTP date (RFC 9110, 10.2.3); None where it says neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _why(error: Exception) -> str:
    """An error of the connection in words; httpx leaves some without."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return (str(error).splitlines() or [""])[0] or type(error).__name__
