"""The three services as their clients see them, on a loopback server: shapes from their own source code."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from typing import Any

from conftest import picture
from image_corpus import encoded
from loopback import Answer, Loopback, Request, json_answer
from shapely.geometry import box, mapping
from shapely.geometry.base import BaseGeometry


def jpeg(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    return encoded(picture(seed, size), "JPEG")


class FakeOsf:
    """OSF API v2 with one project: folders, pages, hashes, and downloads that lead to another address."""

    def __init__(
        self, loopback: Loopback, files: dict[str, bytes], *, page_size: int = 100, token: str | None = None
    ) -> None:
        self.loopback = loopback
        self.files = dict(files)
        self.page_size = page_size
        self.token = token
        self.changes: dict[str, dict[str, Any]] = {}
        for folder in {"", *(parent for path in files for parent in _parents(path))}:
            loopback.routes[f"/v2/nodes/pe453/files/osfstorage/{folder}"] = lambda request, at=folder: self._page(
                request, at
            )
        for path in files:
            identity = _id(path)
            loopback.routes[f"/download/{identity}/"] = Answer(status=302, headers={"Location": f"/storage/{identity}"})
            loopback.routes[f"/storage/{identity}"] = lambda _, path=path: Answer(self.files[path])

    def settings(self, **given: Any) -> dict[str, Any]:
        quick = {"requests_per_second": None, "backoff_s": 0.01, "attempts": 3, "timeout_s": 10}
        return {"kind": "osf", "project": "pe453", "base_url": f"{self.loopback.url}/v2", **quick, **given}

    def storage(self, path: str) -> str:
        """Where the bytes of a file are served."""
        return f"/storage/{_id(path)}"

    def _page(self, request: Request, folder: str) -> Answer:
        if self.token is not None and request.query.get("view_only") != self.token:
            return json_answer({"errors": [{"detail": "Authentication credentials were not provided."}]}, 401)
        names = sorted({path[len(folder) :].partition("/")[0] for path in self.files if path.startswith(folder)})
        number = int(request.query.get("page", 1))
        shown = names[(number - 1) * self.page_size : number * self.page_size]
        more = number * self.page_size < len(names)
        following = f"{self.loopback.url}{request.path}?page={number + 1}" + (
            f"&view_only={self.token}" if self.token else ""
        )
        return json_answer(
            {
                "data": [self._entry(folder + name) for name in shown],
                "meta": {"total": len(names), "per_page": self.page_size, "version": "2.20"},
                "links": {"first": None, "last": None, "prev": None, "next": following if more else None},
            }
        )

    def _entry(self, path: str) -> dict[str, Any]:
        identity, name = _id(path), path.rpartition("/")[2]
        if path not in self.files:
            href = f"{self.loopback.url}/v2/nodes/pe453/files/osfstorage/{path}/"
            return {
                "id": identity,
                "type": "files",
                "attributes": {"kind": "folder", "name": name, "materialized_path": f"/{path}/", "size": None},
                "relationships": {"files": {"links": {"related": {"href": href, "meta": {}}}}},
                "links": {"info": f"{self.loopback.url}/v2/files/{identity}/"},
            }
        data = self.files[path]
        hashes = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}  # noqa: S324  (OSF's)
        attributes = {
            "kind": "file",
            "name": name,
            "materialized_path": f"/{path}",
            "size": len(data),
            "extra": {"hashes": hashes},
            **self.changes.get(path, {}),
        }
        links = {"download": f"{self.loopback.url}/download/{identity}/?view_only={self.token or ''}"}
        return {"id": identity, "type": "files", "attributes": attributes, "links": links}


def thumbnail(seed: int, share: float = 1.0) -> bytes:
    """A PNG of 60 x 40 whose left part of this share has content; the rest is transparent."""
    image = picture(seed, (60, 40)).convert("RGBA")
    image.paste((0, 0, 0, 0), (round(60 * share), 0, 60, 40))
    return encoded(image, "PNG")


def meta_record(number: int, area: BaseGeometry, thumbnail_url: str, **given: Any) -> dict[str, Any]:
    """A record of the classic catalogue."""
    west, south, east, north = area.bounds
    return {
        "_id": f"{number:024x}",
        "uuid": f"https://oin-hotosm-temp.s3.us-east-1.amazonaws.com/{number}.tif",
        "title": f"tacloban_part_{number}.tif",
        "provider": "Example Provider",
        "contact": "Example Person,person@example.org",
        "user": {"_id": "1", "name": "Example Person"},
        "projection": 'PROJCS["WGS 84 / UTM zone 40S"]',
        "bbox": [west, south, east, north],
        "footprint": box(*area.bounds).wkt,
        "geojson": mapping(area),
        "gsd": 0.03,
        "acquisition_start": "2018-04-20T04:00:00.000Z",
        "acquisition_end": "2018-04-21T13:00:00.000Z",
        "platform": "uav",
        "properties": {"sensor": "DJI Mavic Pro", "license": "CC-BY 4.0", "thumbnail": thumbnail_url},
        **given,
    }


def stac_item(record: dict[str, Any]) -> dict[str, Any]:
    """The same record as the STAC catalogue gives it."""
    properties = record.get("properties") or {}
    return {
        "type": "Feature",
        "id": record["_id"],
        "bbox": record["bbox"],
        "geometry": record["geojson"],
        "properties": {
            "title": record["title"],
            "gsd": record["gsd"],
            "license": "CC-BY-4.0",
            "oam:producer_name": record["provider"],
            "oam:platform_type": record["platform"],
            "instruments": [properties.get("sensor")],
            "start_datetime": record["acquisition_start"],
            "end_datetime": record["acquisition_end"],
            "datetime": None,
        },
        "assets": {"thumbnail": {"href": properties.get("thumbnail"), "type": "image/png"}},
    }


class FakeOpenAerialMap:
    """Both catalogues over the same records, and their thumbnails."""

    def __init__(self, loopback: Loopback, records: list[dict[str, Any]], thumbnails: dict[str, bytes]) -> None:
        self.loopback = loopback
        self.records = records
        loopback.routes |= {"/meta": self._meta, "/stac/search": self._stac}
        loopback.routes |= {f"/thumbs/{name}": Answer(data) for name, data in thumbnails.items()}

    def settings(self, backend: str = "meta", **given: Any) -> dict[str, Any]:
        quick = {"requests_per_second": None, "backoff_s": 0.01, "attempts": 3, "timeout_s": 10}
        base_url = self.loopback.url + ("/stac" if backend == "stac" else "")
        return {"kind": "openaerialmap", "backend": backend, "base_url": base_url, **quick, **given}

    def _found(self, bbox: str) -> list[dict[str, Any]]:
        wanted = box(*(float(each) for each in bbox.split(",")))
        found = [each for each in self.records if not _has_bbox(each) or box(*each["bbox"]).intersects(wanted)]
        return sorted(found, key=lambda each: str(each.get("_id")))

    def _meta(self, request: Request) -> Answer:
        assert (request.query["order_by"], request.query["sort"]) == ("_id", "asc")
        limit, page = int(request.query["limit"]), int(request.query["page"])
        results = self._found(request.query["bbox"])[limit * (page - 1) : limit * page]
        # `found` may be that of another request, as in the real one.
        return json_answer({"meta": {"license": "CC-BY 4.0", "page": 1, "limit": 10, "found": 3}, "results": results})

    def _stac(self, request: Request) -> Answer:
        assert request.query["collections"] == "openaerialmap"
        limit, token = int(request.query["limit"]), int(request.query.get("token", 0))
        found = self._found(request.query["bbox"])
        shown = found[token : token + limit]
        following = f"{self.loopback.url}/stac/search?token={token + limit}&" + "&".join(
            f"{name}={request.query[name]}" for name in ("collections", "bbox", "limit")
        )
        links = [{"rel": "next", "method": "GET", "href": following}] if token + limit < len(found) else []
        return json_answer(
            {"type": "FeatureCollection", "features": [stac_item(each) for each in shown], "links": links}
        )


def zipped(members: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    """A zip with members of any name, and symbolic links."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, target)
    return buffer.getvalue()


class FakeKaggle:
    """Kaggle's API as kagglehub asks it where KAGGLE_API_ENVIRONMENT is TEST: at port 7777."""

    PORT = 7777
    SERVICE = "/api/v1/datasets.DatasetApiService"

    def __init__(self, loopback: Loopback, archive: bytes) -> None:
        self.archive = archive
        loopback.routes |= {
            f"{self.SERVICE}/GetDataset": json_answer(
                {"currentVersionNumber": 3, "title": "Fifty thousand", "licenseName": "CC0: Public Domain"}
            ),
            f"{self.SERVICE}/DownloadDataset": Answer(status=302, headers={"Location": "/bucket/archive.zip"}),
            "/bucket/archive.zip": self._bucket,
        }

    def _bucket(self, request: Request) -> Answer:
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        md5 = base64.b64encode(hashlib.md5(self.archive).digest()).decode()  # noqa: S324  (Google's)
        headers = {"Accept-Ranges": "bytes", "x-goog-hash": f"md5={md5}", "Content-Type": "application/zip"}
        return Answer(self.archive[start:], 206 if start else 200, headers)


def _has_bbox(record: dict[str, Any]) -> bool:
    bbox = record.get("bbox")
    return isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(each, int | float) for each in bbox)


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) + "/" for n in range(len(parts))]


def _id(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:24]
