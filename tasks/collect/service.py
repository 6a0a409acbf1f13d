"""Settings of sources that ask a service over the network, and the addresses that they may ask."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, field_validator

from storage.schemas import RejectReason
from tasks.collect.source import CollectionSettings
from tasks.images import ImageError


class FetchError(ImageError):
    """Something that a service did not give, with its `reason`; ``unreachable`` may be mended by asking later."""


@dataclass(frozen=True)
class Credentials:
    """What is sent along with a request, and kept out of every table, log and message."""

    params: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class ServiceSettings(CollectionSettings):
    """Of any collection that comes from a service."""

    base_url: str = Field(description="address of the service's API")
    hosts: tuple[str, ...] = Field(
        (),
        description="what else may be asked: hosts (*.osf.io: all below it; host/start: addresses that begin so), by "
        "https and at public addresses only, or whole origins (http://localhost:8080), which are not looked at",
    )
    suffixes: tuple[str, ...] = Field(
        (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif"),
        description="files whose names end otherwise are refused without being fetched",
    )
    requests_per_second: float | None = Field(
        1.0, gt=0, description="to each host, over all runs of one Prefect server; null: no limit"
    )
    connections: int = Field(4, ge=1, le=64, description="requests at once, in each task")
    attempts: int = Field(5, ge=1, description="of one request, before it counts as unreachable")
    backoff_s: float = Field(1.0, ge=0, description="before the second attempt; doubles, with jitter, up to a minute")
    timeout_s: float = Field(30.0, gt=0, description="without one byte from the service")
    deadline_s: float = Field(600.0, gt=0, description="for one whole answer")
    max_wait_s: float = Field(120.0, ge=0, description="a service that asks to wait longer is left alone until later")
    max_pages: int = Field(10_000, ge=1, description="of one listing")
    contact: str | None = Field(None, description="address or page that a service can complain to; sent in User-Agent")

    # Tried against "host/path" of every address, before the allow-list.
    DENIED: ClassVar[re.Pattern[str] | None] = None
    # Members of answers that say who people are: they are not kept.
    PRIVATE: ClassVar[tuple[str, ...]] = ()

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError(f"{url!r} is not an http(s) address without a query")
        return url.rstrip("/")

    def credentials(self, url: str) -> Credentials:  # noqa: ARG002  (a source's own may depend on the host)
        """What to send along to this address; nothing, unless a source says so."""
        return Credentials()


def plain(url: str) -> str:
    """An address without query, user and fragment: what may be shown."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return "an address that cannot be parsed"


def checked_address(url: str, settings: ServiceSettings) -> str:
    """The address to ask, if it may be asked; ``http`` is raised to ``https``.

    Allowed are the service itself and its `hosts`. A host name must be asked by https at its usual port, and must lead
    to public addresses only; an origin that the settings spell out, or a `base_url` with a port or without https, is
    taken as it is.

    Raises
    ------
    FetchError
        With the reason ``forbidden_address``.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise _forbidden(url, "it cannot be parsed") from None
    if parts.scheme not in ("http", "https") or not host:
        raise _forbidden(url, f"{parts.scheme or 'no scheme'} is not asked")
    if parts.username is not None or parts.password is not None:
        raise _forbidden(url, "it names a user")
    if settings.DENIED is not None and settings.DENIED.search(host + parts.path):
        raise _forbidden(url, "this place is no longer its owner's")
    names, origins = _allowed(settings.base_url, settings.hosts)
    if f"{parts.scheme}://{parts.netloc.lower()}" in origins:
        return url
    if not any(_fits(host, parts.path, entry) for entry in names):
        raise _forbidden(url, f"{host} is none of the hosts of this source")
    if port not in (None, 443) and not (parts.scheme == "http" and port == 80):
        raise _forbidden(url, f"port {port} is not asked")
    if not _leads_to_public_addresses(host):
        raise _forbidden(url, "it leads to an internal address")
    return urlunsplit(("https", host, parts.path, parts.query, ""))


def _fits(host: str, path: str, entry: str) -> bool:
    name, _, start = entry.partition("/")
    return (host == name or (name.startswith("*.") and host.endswith(name[1:]))) and path.startswith(f"/{start}")


def _forbidden(url: str, why: str) -> FetchError:
    return FetchError(RejectReason.FORBIDDEN_ADDRESS, f"{plain(url)}: {why}")


@lru_cache(maxsize=64)
def _allowed(base_url: str, hosts: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    base = urlsplit(base_url)
    spelled_out = base.scheme == "http" or base.port is not None
    entries = [*hosts, f"{base.scheme}://{base.netloc}" if spelled_out else str(base.hostname)]
    origins = {entry.lower().rstrip("/") for entry in entries if "://" in entry}
    return frozenset(entry for entry in entries if "://" not in entry), frozenset(origins)


@lru_cache(maxsize=256)
def _leads_to_public_addresses(host: str) -> bool:
    """Whether no address of the host is internal. A name that is not found is left to the request itself."""
    try:
        found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return True
    for *_, address in found:
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None)
        if not (mapped or ip).is_global:
            return False
    return True
