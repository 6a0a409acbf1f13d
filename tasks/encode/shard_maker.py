"""The vectors of a shard: those that the store has, in their places, and the others from the encoder; written and checked."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version as package_version
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from storage import schemas
from storage.atomic import write_bytes
from storage.errors import StoreError
from storage.s3_path import StorePath, read_json
from storage.store import Recipe, Shard, Store
from storage.vectors import Vectors
from tasks.encode.reuse import Plan, ShardReader
from tasks.encode.settings import EncodeSettings
from tasks.encode.shards import Rejected, checked_shard, shard_content, shard_table
from tasks.encode.telemetry import Times
from tasks.images import ImageError, decode_rgb, read_picture
from tasks.step import run_logger

if TYPE_CHECKING:
    from tasks.encode.encoder import Encoder
    from tasks.encode.loader import Loader, Picture


@dataclass(frozen=True)
class EncodedShard:
    """A shard that is there and whole; `times` is None where nothing was encoded for it in this run.

    `origins` are the vectors that were taken over, by the version that they come from.
    """

    shard: Shard
    rejected: tuple[Rejected, ...]
    origins: Mapping[str, int]
    device: str | None = None
    times: Times | None = None


@lru_cache(maxsize=1)
def shard_reader() -> ShardReader:
    """One for all shards of a process, until the version is committed."""
    return ShardReader()


@dataclass
class _Parts:
    """Vectors of the images of a shard, as they come: by position."""

    rows: list[int]
    embeddings: list[Vectors]
    features: list[Vectors]
    errors: dict[int, ImageError]

    def in_order(self) -> tuple[list[int], Vectors, Vectors | None]:
        """Positions, ascending, with their embeddings and features."""
        order = np.argsort(np.array(self.rows, dtype=np.int64))
        embeddings = np.concatenate(self.embeddings)[order]
        features = np.concatenate(self.features)[order] if self.features else None
        return [self.rows[at] for at in order.tolist()], embeddings, features


def make_shard(
    store: Store, settings: EncodeSettings, recipe: Recipe, index: int, images: pa.Table, path: StorePath, plan: Plan
) -> EncodedShard:
    """Take over what the plan says, encode the rest, and write the shard; it is believed when it was read again."""
    parts = _Parts([], [], [], {})
    origins = _take_over(store, plan, parts)
    missing = sorted(set(range(images.num_rows)) - set(parts.rows))
    # Those that could not be read are looked at first, without torch.
    again = set(plan.unread.tolist())
    files = images["file"].to_pylist()
    parts.errors |= {at: error for at in missing if at in again if (error := _problem_of(store.root / files[at]))}
    missing = [at for at in missing if at not in parts.errors]
    device, times = _encode_missing(store, settings, images, missing, parts)
    started_s = time.perf_counter()
    image_ids = images["image_id"].to_pylist()
    if not parts.rows:
        _add_widths(settings, recipe, parts)
    rows, embeddings, features = parts.in_order()
    metadata = file_metadata(recipe, embeddings.shape[1], settings.dtype)
    table = shard_table(image_ids, rows, embeddings, features, parts.errors, settings.dtype, metadata)
    # Beside the shard, whose bytes do not depend on it; first, so that a shard that is there has it.
    write_bytes(origins_path(path), json.dumps(origins).encode(), durable=False)
    shard = store.write_shard("embeddings", recipe.fingerprint, index, table)
    rejected = checked_shard(path, image_ids)
    written_s = time.perf_counter() - started_s
    return EncodedShard(
        replace(shard, content=shard_content(path)),
        tuple(rejected),
        origins,
        device,
        None if times is None else replace(times, written_s=written_s),
    )


def origins_path(shard: StorePath) -> StorePath:
    """Where it is noted, until the version is committed, which vectors of a shard were taken over from where."""
    return shard.parent / "leases" / f"{shard.stem}.origins.json"


def origins_of(shard: StorePath) -> dict[str, int]:
    """Vectors of a shard that is there that were taken over when it was made, by version."""
    try:
        found: dict[str, int] = read_json(origins_path(shard))
    except (OSError, ValueError):  # the note was not flushed before the machine was switched off
        return {}
    return found


def _add_widths(settings: EncodeSettings, recipe: Recipe, parts: _Parts) -> None:
    """Of a shard of which nothing can be read: a table needs its columns' widths."""
    parts.embeddings.append(np.empty((0, int(recipe.settings["encoder"]["dimension"])), np.float32))
    if settings.features:
        from tasks.encode.encoder import load_encoder

        encoder = load_encoder(settings.encoder, features=True)
        parts.features.append(np.empty((0, encoder.n_features), np.float32))


def _take_over(store: Store, plan: Plan, parts: _Parts) -> dict[str, int]:
    """Add what can be taken over; what turns out to be damaged is left to be encoded. Returns how many, by version."""
    origins: dict[str, int] = {}
    for source in plan.sources:
        try:
            embeddings, features = shard_reader().read(store, source)
        except StoreError as error:
            run_logger().warning("encode: %s; its images are encoded again", error)
            continue
        parts.rows += source.positions.tolist()
        parts.embeddings.append(embeddings)
        parts.features += [] if features is None else [features]
        origins[source.version] = origins.get(source.version, 0) + len(source.rows)
    return origins


def _problem_of(path: StorePath) -> ImageError | None:
    """Why a picture cannot be read; None where it can."""
    try:
        decode_rgb(read_picture(path))
    except ImageError as error:
        return error
    return None


def _encode_missing(
    store: Store, settings: EncodeSettings, images: pa.Table, missing: Sequence[int], parts: _Parts
) -> tuple[str | None, Times | None]:
    """Add the vectors of the images at these positions; returns the device and where the time went."""
    if not missing:
        return None, None
    # Torch is not imported where nothing is encoded.
    from tasks.encode.compute import encode_pictures
    from tasks.encode.device import this_device
    from tasks.encode.encoder import load_encoder
    from tasks.encode.loader import Picture

    wanted = images.take(pa.array(missing))
    pictures = [
        Picture(store.root / file, settings.overlays.get(source, ()))
        for file, source in zip(wanted["file"].to_pylist(), wanted["source"].to_pylist(), strict=True)
    ]
    device = this_device(settings.encoder)
    encoder = load_encoder(settings.encoder, device, features=settings.features)
    encoded = encode_pictures(encoder, picture_loader(settings, encoder, device, pictures))
    parts.rows += [missing[row] for row in encoded.rows]
    parts.embeddings.append(encoded.embeddings)
    parts.features += [] if encoded.features is None else [encoded.features]
    parts.errors |= {missing[row]: error for row, error in encoded.errors.items()}
    return device, encoded.times


def file_metadata(recipe: Recipe, dimension: int, dtype: str) -> dict[bytes, bytes]:
    """What a file of embeddings, of images or of prompts, says of itself."""
    return schemas.embedding_metadata(
        encoder_id=recipe.inputs["encoder"],
        encoder=recipe.settings["encoder"],
        dimension=dimension,
        dtype=dtype,
        fingerprint=recipe.fingerprint,
        images=recipe.inputs["images"],
        placeprint=package_version("placeprint"),
    )


def picture_loader(settings: EncodeSettings, encoder: Encoder, device: str, pictures: Sequence[Picture]) -> Loader:
    """What gives an encoder the pictures in batches, as the settings say."""
    from tasks.encode.loader import Loader

    return Loader(
        pictures,
        encoder.prepare(exact=settings.exact),
        batch_size=settings.batch_size,
        n_threads=loader_threads(settings),
        n_ahead=settings.batches_ahead,
        pin=device.startswith("cuda"),
    )


def loader_threads(settings: EncodeSettings) -> int:
    """Threads that decode for each device."""
    if settings.loader_threads is not None:
        return settings.loader_threads
    return max(1, (os.cpu_count() or 1) // len(settings.encoder.device.split(",")))
