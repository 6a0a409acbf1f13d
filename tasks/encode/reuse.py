"""Vectors that a store has already: an image is embedded once under an encoder, in whatever version of the table.

A vector belongs to the id of an image (the hash of its bytes) and to the identity of an encoder. A new version takes over every
vector that a complete version holds, wherever the image stands now, whatever its label or its path, and computes the others.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.errors import StoreError
from storage.s3_path import StorePath, read_parquet
from storage.store import Recipe, Store, TableVersion
from storage.vectors import Rows, Vectors, column_vectors

# Shards that are held in memory at a time, because the next one to be made may want other rows of them.
_HELD_BYTES = 256_000_000


@dataclass(frozen=True)
class Source:
    """Rows of one shard of a complete version that are taken over.

    Parameters
    ----------
    version
        Fingerprint of the version.
    path, blake2b
        The shard's file, and its hash as the manifest says it.
    rows, positions
        (k,) int64: which rows of it, and where they go among the images of the shard that is made.
    """

    version: str
    path: StorePath
    blake2b: str
    rows: Rows
    positions: Rows


@dataclass(frozen=True)
class Plan:
    """What a shard takes over; and the positions of images that no version could read, so that they need not wait for a device."""

    sources: tuple[Source, ...]
    unread: Rows
    n_images: int

    @classmethod
    def of_nothing(cls, n_images: int) -> Plan:
        """A plan that takes nothing over."""
        return cls((), np.empty(0, dtype=np.int64), n_images)

    @property
    def n_reused(self) -> int:
        """Images whose vector is taken over."""
        return sum(len(source.rows) for source in self.sources)

    @property
    def n_missing(self) -> int:
        """Images that must be encoded, as far as is known before they are read."""
        return self.n_images - self.n_reused - len(self.unread)


def plan_reuse(store: Store, recipe: Recipe, images: pa.Table, shard_size: int) -> list[Plan]:
    """What each shard of a version that is to be made can take over.

    Parameters
    ----------
    recipe
        Of the version that is to be made.
    images
        Its images in order, with the columns image_id and source.
    shard_size
        Images a shard.
    """
    n = images.num_rows
    place = np.full(n, -1, dtype=np.int64)  # number of the shard, in `shards`, that holds the image
    row_there = np.full(n, -1, dtype=np.int64)
    unread = np.zeros(n, dtype=np.bool_)
    shards: list[tuple[str, StorePath, str]] = []
    identities = images["image_id"].combine_chunks()
    for version in _usable(store, recipe):
        missing = np.flatnonzero(place < 0)
        if not len(missing):
            break
        wanted = missing[_same_overlay(store, version, recipe, images.take(missing))]
        unread[wanted] |= _is_rejected(store, version, identities.take(pa.array(wanted)))
        for path, entry in _shards(version):
            left = wanted[place[wanted] < 0]
            if not len(left):
                break
            held = read_parquet(path, columns=["image_id"])["image_id"].combine_chunks()
            found = pc.index_in(identities.take(pa.array(left)), held)
            rows = found.fill_null(-1).to_numpy(zero_copy_only=False)
            there = rows >= 0
            place[left[there]], row_there[left[there]] = len(shards), rows[there]
            shards.append((version.fingerprint, path, entry))
    unread &= place < 0
    return [
        _plan(
            shards,
            place[start : start + shard_size],
            row_there[start : start + shard_size],
            unread[start : start + shard_size],
        )
        for start in range(0, n, shard_size)
    ]


def known_prompts(store: Store, recipe: Recipe, texts: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Vectors of those texts that a complete version of ``prompts`` has under this encoder, by text."""
    known: dict[str, npt.NDArray[np.float32]] = {}
    wanted = set(texts)
    for version in reversed(store.readable_versions("prompts")):
        other = version.manifest["recipe"]
        if not wanted or not _is_same_encoder(other, recipe):
            continue
        if other["step_version"] != recipe.step_version or not _is_as_fine(other["settings"], recipe.settings):
            continue
        try:
            table = version.read(["prompt", "embedding"])
        except StoreError:
            continue
        vectors = column_vectors(table["embedding"])
        for row, text in enumerate(table["prompt"].to_pylist()):
            if text in wanted:
                known[text] = vectors[row]
                wanted.discard(text)
    return known


class ShardReader:
    """Reads rows of shards whose hash is still what their manifest says; the last ones stay in memory."""

    def __init__(self) -> None:
        self._held: OrderedDict[StorePath, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, store: Store, source: Source) -> tuple[Vectors, Vectors | None]:
        """Embeddings (k, d) and features (k, w) or None, of the rows of a source.

        Raises
        ------
        StoreError
            When the file is gone, damaged or changed.
        """
        with self._lock:
            table = self._held.pop(source.path, None)
            if table is None:
                table = _checked(store, source)
            self._held[source.path] = table
            while len(self._held) > 1 and sum(each.nbytes for each in self._held.values()) > _HELD_BYTES:
                self._held.popitem(last=False)
        rows = table.take(pa.array(source.rows))
        features = column_vectors(rows["features"]) if "features" in rows.column_names else None
        return column_vectors(rows["embedding"]), features


def _checked(store: Store, source: Source) -> pa.Table:
    try:
        if store.shard(source.path).blake2b != source.blake2b:
            raise StoreError(f"{source.path} is not what its manifest says")
        return read_parquet(source.path, page_checksum_verification=True).drop_columns("image_id").combine_chunks()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{source.path} cannot be read: {error}") from error


def _plan(
    shards: Sequence[tuple[str, StorePath, str]], place: Rows, row_there: Rows, unread: npt.NDArray[np.bool_]
) -> Plan:
    sources = []
    for number in np.unique(place[place >= 0]).tolist():
        positions = np.flatnonzero(place == number)
        version, path, digest = shards[number]
        sources.append(Source(version, path, digest, row_there[positions], positions))
    return Plan(tuple(sources), np.flatnonzero(unread), len(place))


def _usable(store: Store, recipe: Recipe) -> list[TableVersion]:
    """Complete versions whose vectors are those that this recipe would make, newest first."""

    def is_usable(version: TableVersion) -> bool:
        other = version.manifest["recipe"]
        return (
            other["step"] == recipe.step
            and other["step_version"] == recipe.step_version
            and _is_same_encoder(other, recipe)
            and _is_as_fine(other["settings"], recipe.settings)
            and version.fingerprint != recipe.fingerprint
        )

    return [version for version in reversed(store.readable_versions("embeddings")) if is_usable(version)]


def _is_same_encoder(other: Mapping[str, Any], recipe: Recipe) -> bool:
    """By the digest of its identity: its name may be another."""
    digests = [inputs.get("encoder", "").rpartition("@")[2] for inputs in (other["inputs"], recipe.inputs)]
    return digests[0] == digests[1]


# What may differ: the encoder's name (its digest is compared), how shards are cut, and where something is blanked, which is looked
# at image by image.
_MAY_DIFFER = ("encoder", "shard_size", "overlays", "dtype", "templates", "labels")


def _is_as_fine(other: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether vectors of other settings are those of the wanted ones: stored in float32, or in the same type."""
    rest = [{name: value for name, value in each.items() if name not in _MAY_DIFFER} for each in (other, wanted)]
    return rest[0] == rest[1] and other["dtype"] in ("float32", wanted["dtype"])


def _shards(version: TableVersion) -> list[tuple[StorePath, str]]:
    """Files of a version that are there, with their hashes; a damaged version gives what it still has."""
    entries = [(version.folder / shard["file"], str(shard["blake2b"])) for shard in version.manifest["shards"]]
    return [(path, digest) for path, digest in entries if path.is_file()]


def _same_overlay(store: Store, version: TableVersion, recipe: Recipe, images: pa.Table) -> npt.NDArray[np.bool_]:
    """Which images were blanked there as they are to be blanked now, as far as their collections tell."""
    before, now = version.manifest["recipe"]["settings"].get("overlays", {}), recipe.settings.get("overlays", {})
    if not before and not now:
        return np.ones(images.num_rows, dtype=np.bool_)
    try:
        known = store.version("images", version.manifest["recipe"]["inputs"]["images"]).read(["image_id", "source"])
    except StoreError:  # removed since: nobody knows
        return np.zeros(images.num_rows, dtype=np.bool_)
    # The first row of an image is the one that is encoded.
    source_of = dict(reversed(list(zip(known["image_id"].to_pylist(), known["source"].to_pylist(), strict=True))))
    pairs = zip(images["image_id"].to_pylist(), images["source"].to_pylist(), strict=True)
    return np.array(
        [before.get(source_of.get(identity)) == now.get(source) for identity, source in pairs], dtype=np.bool_
    )


def _is_rejected(store: Store, version: TableVersion, identities: pa.Array) -> npt.NDArray[np.bool_]:
    """Which images that version could not read."""
    try:
        rejects = (
            store.version("embedding_rejects", version.fingerprint).read(["image_id"])["image_id"].combine_chunks()
        )
    except StoreError:
        return np.zeros(len(identities), dtype=np.bool_)
    return np.asarray(pc.is_in(identities, rejects).to_numpy(zero_copy_only=False), dtype=np.bool_)
