"""A collection as Croissant 1.0 (JSON-LD): what its Parquet file holds, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.describe.notes import Notes
from tasks.describe.profile import Profile

_RECORDS = "images"
_CROISSANT = "http://mlcommons.org/croissant/1.0"
_RAI = "http://mlcommons.org/croissant/RAI/1.0"
# The context that the specification prescribes.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


@dataclass(frozen=True)
class DataFile:
    """The Parquet file of a collection: its name beside the description, its size, its hash and its columns."""

    name: str
    bytes: int
    sha256: str
    schema: pa.Schema


def croissant(name: str, profile: Profile, notes: Notes, file: DataFile) -> dict[str, Any]:
    """Describe a collection.

    Parameters
    ----------
    name
        The collection's name.
    file
        Its rows of the table ``images``.

    Returns
    -------
    dict
        JSON-LD. What nobody stated is left out, never made up.
    """
    description = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": [_CROISSANT, _RAI],
        "name": notes.title or name,
        "description": notes.summary or _summary(name, profile),
        "url": notes.url,
        "license": notes.licence or _only_licence(profile),
        "creator": [{"@type": "sc:Person", "name": author} for author in notes.authors],
        "maintainer": [{"@type": "sc:Person", "name": maintainer} for maintainer in notes.maintainers],
        "version": notes.version,
        "datePublished": notes.published.isoformat() if notes.published else None,
        "citeAs": notes.citation,
        "inLanguage": list(notes.language),
        "keywords": list(notes.tags),
        "rai:dataCollection": "\n".join(notes.collection_method),
        "rai:dataAnnotationProtocol": list(notes.labelling),
        "rai:dataPreprocessingProtocol": list(notes.processing),
        "rai:dataUseCases": list(notes.intended_use),
        "rai:dataLimitations": [*notes.out_of_scope_use, *notes.known_issues],
        "rai:dataBiases": list(notes.bias_notes),
        "rai:personalSensitiveInformation": list(notes.sensitive_content),
        "rai:dataReleaseMaintenancePlan": "\n".join(notes.maintenance),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file.name,
                "name": file.name,
                "description": f"The table of the images of {name}.",
                "contentUrl": file.name,
                "contentSize": f"{file.bytes} B",
                "encodingFormat": "application/x-parquet",
                "sha256": file.sha256,
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": _RECORDS,
                "name": _RECORDS,
                "description": "One record an image.",
                "field": [_field(column, file.name) for column in file.schema],
            }
        ],
    }
    return {key: value for key, value in description.items() if value}


def _field(column: pa.Field, file: str) -> dict[str, Any]:
    known = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
    parts = [known.get("description", ""), f"in units of {known['unit']}" if "unit" in known else ""]
    described = {
        "@type": "cr:Field",
        "@id": f"{_RECORDS}/{column.name}",
        "name": column.name,
        "description": "; ".join(part for part in parts if part),
        "dataType": _data_type(column.type),
        "source": {"fileObject": {"@id": file}, "extract": {"column": column.name}},
    }
    return {key: value for key, value in described.items() if value}


def _data_type(type_: pa.DataType) -> str:
    if pa.types.is_boolean(type_):
        return "sc:Boolean"
    if pa.types.is_integer(type_):
        return "sc:Integer"
    if pa.types.is_floating(type_):
        return "sc:Float"
    if pa.types.is_timestamp(type_):
        return "sc:DateTime"
    return "sc:Date" if pa.types.is_date(type_) else "sc:Text"


def _summary(name: str, profile: Profile) -> str:
    return f"{name}: {profile.n_kept:,} images, {len(profile.labels):,} labels."


def _only_licence(profile: Profile) -> str | None:
    """The licence that every image has."""
    return next(iter(profile.licences)) if len(profile.licences) == 1 and not profile.n_unlicensed else None
