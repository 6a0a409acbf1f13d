"""The two catalogues of OpenAerialMap: the classic ``/meta`` API, and the STAC API that replaces it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any, Protocol

from storage.schemas import RejectReason
from tasks.collect.interior_box import Box
from tasks.collect.json_values import at, number_at, text_at
from tasks.collect.scene import Scene, bounds, moment, normalised_gsd_m, spdx, valid_area
from tasks.collect.service import FetchError
from tasks.collect.web import Web

PAGE_SIZE = 100


class Catalogue(Protocol):
    """A catalogue that can be asked for the scenes that touch a box."""

    def records(self, web: Web, base_url: str, box: Box) -> Iterator[Any]:
        """Every record whose extent intersects the box, as the service gives it."""
        ...

    def scene(self, record: Any, base_url: str) -> Scene | None:
        """What a record says; None where it has no id."""
        ...


class MetaCatalogue:
    """``GET /meta``. Pages are asked for by `_id`: the default order is not unique, so that its pages overlap."""

    def records(self, web: Web, base_url: str, box: Box) -> Iterator[Any]:
        params: dict[str, str | int] = {"bbox": _text(box), "order_by": "_id", "sort": "asc", "limit": PAGE_SIZE}
        seen: set[str] = set()
        for page in count(1):
            answer = web.json(f"{base_url}/meta", {**params, "page": page}, keep_if=_has_results)
            results = at(answer, "results")
            if not isinstance(results, list):  # an error is HTTP 200 with a text
                raise FetchError(RejectReason.BAD_ANSWER, f"{base_url}/meta: {str(results)[:200]}")
            fresh = _unseen(results, "_id", seen)
            yield from fresh
            # `found` may be that of another request: the pages end where one is not full.
            if len(results) < PAGE_SIZE or not fresh:
                return

    def scene(self, record: Any, base_url: str) -> Scene | None:
        identity = text_at(record, "_id")
        if identity is None:
            return None
        bbox, footprint = bounds(at(record, "bbox")), text_at(record, "footprint")
        properties = at(record, "properties")
        gsd_m = normalised_gsd_m(
            number_at(record, "gsd"),
            number_at(properties, "resolution_in_meters"),
            bbox=bbox,
            is_geographic=(text_at(record, "projection") or "").startswith("GEOGCS"),
        )
        return Scene(
            identity,
            title=text_at(record, "title"),
            provider=text_at(record, "provider"),
            platform=text_at(record, "platform"),
            sensor=text_at(properties, "sensor"),
            licence=spdx(text_at(properties, "license") or text_at(record, "license")),
            bbox=bbox,
            footprint=footprint,
            area=valid_area(at(record, "geojson"), footprint, bbox) if bbox is not None else None,
            gsd_m=gsd_m,
            started_at=moment(at(record, "acquisition_start")),
            ended_at=moment(at(record, "acquisition_end")),
            thumbnail=text_at(properties, "thumbnail") or text_at(record, "thumb_uri"),
            record=f"{base_url}/meta/{identity}",
        )


class StacCatalogue:
    """``GET /search`` of a STAC API, collection ``openaerialmap``."""

    def records(self, web: Web, base_url: str, box: Box) -> Iterator[Any]:
        body: Any = None
        url = f"{base_url}/search?collections=openaerialmap&bbox={_text(box)}&limit={PAGE_SIZE}"
        seen: set[str] = set()
        while True:
            answer = web.json(url, body=body, keep_if=_has_features)
            features = at(answer, "features")
            if not isinstance(features, list):
                raise FetchError(RejectReason.BAD_ANSWER, f"{base_url}/search: the answer has no list `features`")
            fresh = _unseen(features, "id", seen)
            yield from fresh
            links = at(answer, "links")
            following = (
                next((link for link in links if at(link, "rel") == "next"), None) if isinstance(links, list) else None
            )
            target = text_at(following, "href")
            if target is None or not fresh:
                return
            url, body = target, at(following, "body") if text_at(following, "method") == "POST" else None

    def scene(self, record: Any, base_url: str) -> Scene | None:
        identity = text_at(record, "id")
        if identity is None:
            return None
        bbox, properties = bounds(at(record, "bbox")), at(record, "properties")
        instruments = at(properties, "instruments")
        is_geographic = 4326 in (at(properties, "proj:epsg"), at(properties, "proj:code"))
        return Scene(
            identity,
            title=text_at(properties, "title"),
            provider=text_at(properties, "oam:producer_name"),
            platform=text_at(properties, "oam:platform_type"),
            sensor=str(instruments[0]) if isinstance(instruments, list) and instruments else None,
            licence=spdx(text_at(properties, "license")),
            bbox=bbox,
            area=valid_area(at(record, "geometry"), None, bbox) if bbox is not None else None,
            gsd_m=normalised_gsd_m(number_at(properties, "gsd"), bbox=bbox, is_geographic=is_geographic),
            started_at=moment(at(properties, "start_datetime") or at(properties, "datetime")),
            ended_at=moment(at(properties, "end_datetime") or at(properties, "datetime")),
            thumbnail=text_at(record, "assets", "thumbnail", "href"),
            record=f"{base_url}/collections/openaerialmap/items/{identity}",
        )


def _unseen(records: list[Any], id_name: str, seen: set[str]) -> list[Any]:
    """The records that no page had before, noted in `seen`: pages may overlap."""
    fresh = [record for record in records if str(at(record, id_name)) not in seen]
    seen.update(str(at(record, id_name)) for record in fresh)
    return fresh


def _text(box: Box) -> str:
    return f"{box.west:.6f},{box.south:.6f},{box.east:.6f},{box.north:.6f}"


def _has_results(answer: Any) -> bool:
    return isinstance(at(answer, "results"), list)


def _has_features(answer: Any) -> bool:
    return isinstance(at(answer, "features"), list)
