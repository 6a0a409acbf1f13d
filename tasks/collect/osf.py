"""The Open Science Framework, by its API v2: files of a project or registration, public or behind a view-only link."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from storage.schemas import RejectReason
from tasks.collect.json_values import at, text_at
from tasks.collect.service import Credentials, FetchError, ServiceSettings, plain
from tasks.collect.source import Item
from tasks.collect.web import Web

API_VERSION = "2.20"
# OSF's own buckets: files.osf.io leads to signed addresses there.
STORAGE = "storage.googleapis.com/cos-osf-"
NUMBERED = re.compile(r"[-_ ]*\d*\.[^.]*$")


class OsfSettings(ServiceSettings):
    """Settings of the source `osf`. A personal access token is taken from the environment variable OSF_TOKEN."""

    kind: Literal["osf"] = "osf"
    project: str = Field(pattern=r"^[a-z0-9]{3,12}$", description="id in the address: pe453 of osf.io/pe453")
    view_only: SecretStr | None = Field(None, description="token of a view-only link, or OSF_VIEW_ONLY")
    provider: str = Field("osfstorage", pattern=r"^[a-z0-9]+$", description="storage within the project")
    folder: str = Field("", description="only files below this path, such as images/train")
    labels_from: Literal["folder", "name"] = Field(
        "folder", description="folder: the file's own folder; name: australia-37.png is australia"
    )
    base_url: str = "https://api.osf.io/v2"
    hosts: tuple[str, ...] = ("osf.io", "*.osf.io", STORAGE)

    def sources(self) -> list[OsfSource]:
        """The one collection that this section describes."""
        return [OsfSource(self)]

    def credentials(self, url: str) -> Credentials:
        """Tokens, for OSF's own hosts alone: never for the storage behind them."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if not (host == "osf.io" or host.endswith(".osf.io") or parts.netloc == urlsplit(self.base_url).netloc):
            return Credentials()
        view_only = self.view_only.get_secret_value() if self.view_only else os.environ.get("OSF_VIEW_ONLY")
        token = os.environ.get("OSF_TOKEN")
        return Credentials(
            {"view_only": view_only} if view_only else {}, {"Authorization": f"Bearer {token}"} if token else {}
        )


class OsfSource:
    """Files of one project."""

    def __init__(self, settings: OsfSettings) -> None:
        self.settings = settings
        self.name = settings.name or f"osf-{settings.project}"

    def identity(self) -> str:
        """Project and place in it."""
        wanted = {"kind", "base_url", "project", "provider", "folder", "labels_from"}
        return self.settings.model_dump_json(include=wanted)

    def items(self, web: Web) -> Iterator[Item]:
        seen: set[str] = set()  # pages overlap where files are added meanwhile
        folders = [self._root(web)]
        while folders:
            address = folders.pop()
            n_entries, n_promised = 0, None
            try:
                for page in web.pages(address, lambda answer: at(answer, "links", "next")):
                    n_promised = at(page, "meta", "total") or at(page, "links", "meta", "total")
                    for entry in _entries(page, address):
                        identity = str(at(entry, "id"))
                        if identity in seen:
                            continue
                        seen.add(identity)
                        n_entries += 1
                        deeper = self._deeper(entry)
                        if deeper is not None:
                            folders.append(deeper)
                        elif (item := self._item(entry, address)) is not None:
                            yield item
            except FetchError as error:
                if error.reason is RejectReason.UNREACHABLE or not seen:
                    raise
                yield Item(plain(address), problem=f"a folder cannot be listed: {error.detail}", reason=error.reason)
            if isinstance(n_promised, int) and n_entries < n_promised:
                problem = f"the folder says that it has {n_promised} entries, its pages name {n_entries}"
                yield Item(plain(address), problem=problem, reason=RejectReason.BAD_ANSWER)

    def fetch(self, item: Item, web: Web) -> bytes:
        return web.download(str(item.url))

    def _root(self, web: Web) -> str:
        """The address that lists the storage; a registration has the same files elsewhere."""
        end = f"{self.settings.project}/files/{self.settings.provider}/?page[size]=100&version={API_VERSION}"
        try:
            web.json(f"{self.settings.base_url}/nodes/{end}")
        except FetchError as error:
            if error.reason is RejectReason.REFUSED_BY_SERVICE:
                hint = "if it is private, give view_only (the token of a view-only link) or the variable OSF_TOKEN"
                raise FetchError(error.reason, f"{error.detail}: {hint}") from None
            if error.reason is not RejectReason.NOT_FOUND:
                raise
            return f"{self.settings.base_url}/registrations/{end}"
        return f"{self.settings.base_url}/nodes/{end}"

    def _deeper(self, entry: Any) -> str | None:
        """Where a folder's content is listed; None for a file."""
        if at(entry, "attributes", "kind") != "folder":
            return None
        address = text_at(entry, "relationships", "files", "links", "related", "href") or ""
        return f"{address}{'&' if '?' in address else '?'}page[size]=100&version={API_VERSION}" if address else None

    def _item(self, entry: Any, address: str) -> Item | None:
        """The item of a file; None where it lies outside of the wanted folder."""
        attributes = at(entry, "attributes")
        path = (text_at(attributes, "materialized_path") or text_at(attributes, "name") or "").lstrip("/")
        wanted = self.settings.folder.strip("/")
        if wanted and not path.startswith(f"{wanted}/"):
            return None
        link, size = text_at(entry, "links", "download"), at(attributes, "size")
        if not path or link is None:
            shown = path or f"{plain(address)}: {at(entry, 'id')}"
            return Item(shown, problem="the listing names no path or no download", reason=RejectReason.BAD_ANSWER)
        hashes = at(attributes, "extra", "hashes")
        folder, _, name = path.rpartition("/")
        label = folder.rpartition("/")[2] if self.settings.labels_from == "folder" else NUMBERED.sub("", name)
        return Item(
            path,
            label=label or None,
            url=plain(link),
            checksum=next((f"{name}:{value}" for name in ("sha256", "md5") if (value := text_at(hashes, name))), None),
            bytes=size if isinstance(size, int) and size >= 0 else None,
            attribution=f"OSF project {self.settings.project}",
        )


def _entries(page: Any, address: str) -> list[Any]:
    data = at(page, "data")
    if not isinstance(data, list):
        raise FetchError(RejectReason.BAD_ANSWER, f"{plain(address)}: the answer has no list `data`")
    return data
