"""The sidecar of an index: what was built, from which shards, and whether it is what lies there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import faiss

from storage.errors import StoreError
from storage.index_kind import KINDS, IndexParameters
from storage.s3_path import StorePath, read_json, sorted_glob
from storage.store import Store, TableVersion

FORMAT = 2
CURE = "run `placeprint encode`"


def index_folder(store: Store, version: TableVersion) -> StorePath:
    """Where the index of an embeddings version lies."""
    return store.root / "indexes" / version.fingerprint


def describe_index(
    version: TableVersion,
    dimension: int,
    path: StorePath,
    parameters: Mapping[str, Any],
    reason: str,
    search: Mapping[str, int],
    built: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of the sidecar. The same table and settings give the same content on the same machine."""
    return {
        "format": FORMAT,
        "table": version.table,
        "fingerprint": version.fingerprint,
        "rows": version.rows,
        "dimension": dimension,
        "shards": list(version.manifest["shards"]),
        "kind": parameters["kind"],
        "reason": reason,
        "parameters": {name: value for name, value in parameters.items() if name != "kind"},
        "search": dict(search),
        "metric": "inner product of L2-normalised vectors = cosine",
        "ids": "row number in the order of `shards`",
        "file": {"name": path.name, "bytes": path.stat().st_size, "blake2b": file_hash(path)},
        **built,
        "faiss": faiss.__version__,
    }


def read_sidecar(store: Store, version: TableVersion) -> dict[str, Any]:
    """The sidecar of a version's index, once it is seen to be of this table and of the file that lies beside it.

    Raises
    ------
    StoreError
        When there is no index, or it is damaged, or was built from other shards than the table has.
    """
    folder = index_folder(store, version)
    sidecar = _sidecar_in(folder)
    if sidecar is None or not _is_whole(folder, sidecar):
        raise missing(version)
    own = {"table": version.table, "fingerprint": version.fingerprint, "rows": version.rows}
    if any(sidecar[name] != value for name, value in own.items()) or _hashes(sidecar) != _hashes(version.manifest):
        raise StoreError(f"the index in {folder} was built from another table: {CURE}")
    return sidecar


def missing(version: TableVersion) -> StoreError:
    """The error of an index that is not there, or not as it was written."""
    return StoreError(f"the index of embeddings {version.fingerprint} is missing or damaged: {CURE}")


def find_extensible(
    store: Store, version: TableVersion, dimension: int, wanted: IndexParameters
) -> tuple[StorePath, dict[str, Any]] | None:
    """The largest index, with its sidecar, that holds the first shards of this version and was built as `wanted`."""
    found = []
    for manifest in sorted_glob(store.root / "indexes", "*/manifest.json"):
        sidecar = _sidecar_in(manifest.parent)
        if sidecar is None or (sidecar["table"], sidecar["dimension"]) != (version.table, dimension):
            continue
        hashes = _hashes(sidecar)
        is_first_part = 0 < len(hashes) < len(version.manifest["shards"])
        is_first_part = is_first_part and hashes == _hashes(version.manifest)[: len(hashes)]
        if is_first_part and wanted.can_extend({"kind": sidecar["kind"], **sidecar["parameters"]}):
            found.append((manifest.parent, sidecar))
    for folder, sidecar in sorted(found, key=lambda each: -int(each[1]["rows"])):
        path = folder / sidecar["file"]["name"]
        if _is_whole(folder, sidecar) and file_hash(path) == sidecar["file"]["blake2b"]:
            return path, sidecar
    return None


def file_hash(path: StorePath) -> str:
    """blake2b-128 of a file's content, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sidecar_in(folder: StorePath) -> dict[str, Any] | None:
    """What the sidecar says; None where there is none, or it is not one of ours."""
    try:
        sidecar = read_json(folder / "manifest.json")
        # The parts that are used before anything else could tell that they are not there.
        complete = (
            sidecar["format"] == FORMAT
            and sidecar["kind"] in KINDS
            and sidecar["file"].keys() >= {"name", "bytes", "blake2b"}
            and sidecar.keys() >= {"table", "fingerprint", "rows", "dimension", "parameters", "search"}
            and isinstance(_hashes(sidecar), list)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return sidecar if complete else None


def _is_whole(folder: StorePath, sidecar: Mapping[str, Any]) -> bool:
    # Of a file that is too short the memory map would end the process when it is read past its end.
    path = folder / str(sidecar["file"]["name"])
    return path.is_file() and path.stat().st_size == sidecar["file"]["bytes"]


def _hashes(manifest: Mapping[str, Any]) -> list[tuple[str, int]]:
    """What each shard holds: of its rows where they have a hash of their own, so that an index outlives another metadata."""
    return [(str(shard.get("content") or shard["blake2b"]), int(shard["rows"])) for shard in manifest["shards"]]
