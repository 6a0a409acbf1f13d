"""Image datasets of Kaggle, through `kagglehub`: its credentials, its service, its resuming download."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field

from storage.errors import PlaceprintError
from storage.schemas import RejectReason
from tasks.collect.archive import Archive, NotAnArchiveError, open_archive, unfold_gzip
from tasks.collect.json_values import at, text_at
from tasks.collect.service import FetchError, ServiceSettings
from tasks.collect.source import Item
from tasks.collect.web import TRY_AGAIN, TryAgainError, Web

CREDENTIALS = (
    "if it is private or asks for consent, accept its rules on its page, and give a token: either the variable "
    "KAGGLE_API_TOKEN, or the file ~/.kaggle/kaggle.json (both from kaggle.com/settings, `Create new token`)"
)
_downloading = threading.Lock()


class KaggleSettings(ServiceSettings):
    """Settings of the source `kaggle`. Rates and hosts are kagglehub's own."""

    kind: Literal["kaggle"] = "kaggle"
    dataset: str = Field(pattern=r"^[\w-]+/[\w-]+$", description="owner/name, as in the address of its page")
    version: int | None = Field(None, ge=1, description="by default the newest when it is listed; recorded")
    base_url: str = Field("https://www.kaggle.com", description="of its pages, for attribution")

    def sources(self) -> list[KaggleSource]:
        """The one collection that this section describes."""
        return [KaggleSource(self)]


class KaggleSource:
    """Files of one dataset's archive; the label is the folder that a file lies in."""

    def __init__(self, settings: KaggleSettings) -> None:
        self.settings = settings
        self.name = settings.name or settings.dataset.partition("/")[2]

    def identity(self) -> str:
        """Dataset and version."""
        return self.settings.model_dump_json(include={"kind", "dataset", "version"})

    def items(self, web: Web) -> Iterator[Item]:
        about = self._about(web)
        version = self._version(about)
        page = f"{self.settings.base_url}/datasets/{self.settings.dataset}"
        for member in self._archive(web).members:
            yield Item(
                member.path,
                label=PurePosixPath(member.path).parent.name or None,
                licence=text_at(about, "licenseName"),
                attribution=f"Kaggle {self.settings.dataset}, version {version}",
                url=f"{page}/versions/{version}",
                bytes=member.bytes,
                problem=member.problem,
                reason=RejectReason.UNSAFE_NAME,
            )

    def fetch(self, item: Item, web: Web) -> bytes:
        return self._archive(web).read(item.path, web.max_bytes)

    def _about(self, web: Web) -> Any:
        """What Kaggle says of the dataset."""

        def ask() -> bytes:
            from kagglehub.clients import build_kaggle_client
            from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

            request = ApiGetDatasetRequest()
            request.owner_slug, request.dataset_slug = self.settings.dataset.split("/")
            with build_kaggle_client() as client:
                return str(client.datasets.dataset_api_client.get_dataset(request).to_json()).encode()

        return web.kept(self.settings.dataset, lambda: web.retried(self.settings.dataset, lambda: self._asked(ask)))

    def _version(self, about: Any) -> int:
        version = self.settings.version or at(about, "currentVersionNumber")
        if not isinstance(version, int):
            raise FetchError(RejectReason.BAD_ANSWER, f"{self.settings.dataset}: Kaggle names no version")
        return version

    def _archive(self, web: Web) -> Archive:
        """The dataset's archive, which is downloaded where it is missing."""
        version = self._version(self._about(web))
        path = web.downloads / f"{self.settings.dataset.replace('/', '-')}-{version}.archive"
        with _downloading:
            if not path.is_file():
                web.retried(self.settings.dataset, lambda: self._asked(lambda: self._download(path, version)))
            return open_archive(path)

    def _download(self, path: Path, version: int) -> None:
        from kagglehub.clients import build_kaggle_client, download_file
        from kagglehub.handle import DatasetHandle
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = self.settings.dataset.split("/")
        request.dataset_version_number = version
        part = path.with_suffix(".part")  # kagglehub goes on where it ends
        part.parent.mkdir(parents=True, exist_ok=True)
        with build_kaggle_client() as client:
            response = client.datasets.dataset_api_client.download_dataset(request)
            download_file(response, str(part), DatasetHandle(request.owner_slug, request.dataset_slug, version))
        try:
            unfold_gzip(part)
            if not Archive(part).members:
                raise NotAnArchiveError("it holds no file")
        except NotAnArchiveError as error:
            part.unlink()  # kagglehub would take it for complete
            raise TryAgainError(f"Kaggle sent no usable archive: {error}") from None
        part.replace(path)

    def _asked(self, ask: Any) -> Any:
        """What `ask` returns, with kagglehub's errors as ours."""
        try:
            import requests
            from kagglehub.exceptions import DataCorruptionError
        except ImportError:
            raise PlaceprintError(
                "collect: the source `kaggle` needs an extra: pip install 'placeprint[kaggle]'"
            ) from None
        try:
            return ask()
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            detail = f"{self.settings.dataset}: HTTP {status}"
            if status in TRY_AGAIN:
                raise TryAgainError(detail) from None
            if status == 404:
                raise FetchError(RejectReason.NOT_FOUND, f"{detail}: no such dataset, or no such version") from None
            raise FetchError(RejectReason.REFUSED_BY_SERVICE, f"{detail}: {CREDENTIALS}") from None
        except (requests.RequestException, DataCorruptionError) as error:
            raise TryAgainError((str(error).splitlines() or [""])[0] or type(error).__name__) from None
        except ValueError as error:  # a kaggle.json that cannot be read
            raise PlaceprintError(f"collect: {self.name}: {error}") from None
