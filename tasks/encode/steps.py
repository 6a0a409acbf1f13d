"""Encode: from ``images`` and the class names to the tables ``embeddings`` and ``prompts``, and the FAISS index."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from storage import schemas
from storage.atomic import remove_folder
from storage.errors import PlaceprintError, StoreError
from storage.faiss_index import SearchIndex, build_index, has_index, index_folder
from storage.leases import Leases
from storage.s3_path import StorePath
from storage.store import Recipe, Shard, Store, TableVersion
from storage.vectors import vector_column
from tasks.collect.steps import unique_images
from tasks.encode.settings import EncodeSettings, IndexSettings, fill
from tasks.encode.shards import Rejected, checked_shard, shard_table
from tasks.encode.telemetry import Times
from tasks.labels.label_set import load_label_set
from tasks.stop import end_if_stopped

if TYPE_CHECKING:
    from tasks.encode.encoder import Encoder
    from tasks.encode.loader import Loader, Picture

# How often to look whether another run has finished a shard.
_LOOK_AGAIN_S = 0.5


@dataclass(frozen=True)
class EncodedShard:
    """A shard that is there and whole; `times` is None where it was there before."""

    shard: Shard
    rejected: tuple[Rejected, ...]
    device: str | None = None
    precision: str | None = None
    times: Times | None = None


@task(name="encode-shard", task_run_name="encode {start}-{stop}", cache_policy=NO_CACHE)
def encode_shard(
    root: StorePath, settings: EncodeSettings, recipe: Recipe, index: int, start: int, stop: int, *, wait: bool
) -> EncodedShard | None:
    """See that the shard of images `start` to `stop` (by their order in the table) is there and whole.

    Parameters
    ----------
    wait
        What to do while another run makes this shard: wait for it, or return None.
    """
    store = Store(root)
    images = _images(root, recipe.inputs["images"]).slice(start, stop - start)
    image_ids = images["image_id"].to_pylist()
    path = store.shard_path("embeddings", recipe.fingerprint, index)
    leases = Leases(store.folder("embeddings", recipe.fingerprint) / "leases", settings.lease_s)
    while True:
        if (found := _found_shard(store, path, image_ids)) is not None:
            return found
        with leases.held(path.stem) as mine:
            if mine:
                # Another run may have finished it between the two looks.
                return _found_shard(store, path, image_ids) or _encoded_shard(
                    store, settings, recipe, index, images, path
                )
        if not wait:
            return None
        end_if_stopped()
        time.sleep(_LOOK_AGAIN_S)


@lru_cache(maxsize=1)
def _images(root: StorePath, fingerprint: str) -> pa.Table:
    """The images of a version, once for all shards of a process."""
    return unique_images(Store(root).version("images", fingerprint), ["image_id", "file", "source"])


def _found_shard(store: Store, path: StorePath, image_ids: list[str]) -> EncodedShard | None:
    """A shard that an earlier run, or another one, has made; one that is damaged is made again."""
    if not path.is_file():
        return None
    try:
        rejected = checked_shard(path, image_ids)
    except StoreError as error:
        get_run_logger().warning("encode: %s; it is made again", error)
        return None
    return EncodedShard(store.shard(path), tuple(rejected))


def _encoded_shard(
    store: Store, settings: EncodeSettings, recipe: Recipe, index: int, images: pa.Table, path: StorePath
) -> EncodedShard:
    # Torch is not imported where nothing is encoded.
    from tasks.encode.compute import encode_pictures
    from tasks.encode.device import this_device
    from tasks.encode.encoder import load_encoder
    from tasks.encode.loader import Picture

    image_ids = images["image_id"].to_pylist()
    pictures = [
        Picture(store.root / file, settings.overlays.get(source, ()))
        for file, source in zip(images["file"].to_pylist(), images["source"].to_pylist(), strict=True)
    ]
    device = this_device(settings.encoder)
    encoder = load_encoder(settings.encoder, device, features=settings.features)
    encoded = encode_pictures(encoder, picture_loader(settings, encoder, device, pictures))
    started_s = time.perf_counter()
    rows = shard_table(image_ids, encoded.rows, encoded.embeddings, encoded.features, encoded.errors, settings.dtype)
    store.write_shard("embeddings", recipe.fingerprint, index, rows)
    rejected = checked_shard(path, image_ids)
    times = replace(encoded.times, written_s=time.perf_counter() - started_s)
    return EncodedShard(store.shard(path), tuple(rejected), device, encoder.precision, times)


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


@task(name="commit-embeddings", task_run_name="commit embeddings", cache_policy=NO_CACHE)
def commit_embeddings(
    root: StorePath, settings: EncodeSettings, recipe: Recipe, shards: list[EncodedShard], n_images: int
) -> dict[str, int]:
    """Commit the embeddings and what was rejected, once every image is accounted for; returns the counts.

    Raises
    ------
    PlaceprintError
        When not one image could be read.
    StoreError
        When images in and rows out do not reconcile: nothing is published.
    """
    store = Store(root)
    rejected = [each for shard in shards for each in shard.rejected]
    n_embedded = sum(shard.shard.rows for shard in shards)
    if n_images != n_embedded + len(rejected):
        raise StoreError(f"encode: {n_images} images, but {n_embedded} embedded and {len(rejected)} rejected")
    if n_images and not n_embedded:
        raise PlaceprintError(f"encode: none of {n_images} images can be read, such as {rejected[0].detail}")
    counts = {"images": n_images, "embedded": n_embedded, "rejected": len(rejected)}
    rows = pa.Table.from_pylist([asdict(each) for each in rejected], schemas.EMBEDDING_REJECTS)
    store.commit(
        "embedding_rejects",
        recipe,
        [store.write_shard("embedding_rejects", recipe.fingerprint, 0, rows)],
        counts=counts,
    )
    notes = {
        "encoder": recipe.inputs["encoder"],
        "model": settings.encoder.model,
        "pretrained": settings.encoder.pretrained,
        "precision": sorted({each.precision for each in shards if each.precision is not None}),
    }
    version = store.commit("embeddings", recipe, [each.shard for each in shards], counts=counts, notes=notes)
    remove_folder(version.folder / "leases")
    return counts


class IndexFound(NamedTuple):
    """What an index is, for people; its recall@10, None of a table too small to measure it; whether it was built just now."""

    text: str
    recall: float | None
    is_new: bool


@task(name="index-embeddings", task_run_name="index embeddings", cache_policy=NO_CACHE)
def index_embeddings(root: StorePath, settings: IndexSettings, fingerprint: str) -> IndexFound:
    """See that the index is there, of the kind that is wanted."""
    store = Store(root)
    version = store.version("embeddings", fingerprint)
    is_new = not has_index(store, version, settings.kind)
    if is_new:
        build_index(store, version, **settings.model_dump())
    manifest = SearchIndex(store, version).manifest
    recall = json.loads((index_folder(store, version) / "recall.json").read_bytes())["recall"]["10"]
    text = f"{manifest['kind']}: {manifest['reason']}" + (f"; recall@10 {recall:.3f}" if recall is not None else "")
    return IndexFound(text, recall, is_new)


def loader_threads(settings: EncodeSettings) -> int:
    """Threads that decode for each device."""
    if settings.loader_threads is not None:
        return settings.loader_threads
    return max(1, (os.cpu_count() or 1) // len(settings.encoder.device.split(",")))


@task(name="encode-prompts", task_run_name="encode prompts", cache_policy=NO_CACHE)
def encode_prompts(root: StorePath, settings: EncodeSettings, recipe: Recipe) -> int:
    """Embed every template of every class and commit the table; returns the number of prompts."""
    from tasks.encode.encoder import load_encoder

    store = Store(root)
    images = store.version("images", recipe.inputs["images"])
    found = [label for label in images.read(["label"])["label"].to_pylist() if label is not None]
    names = load_label_set(str(recipe.settings["labels"]), found).names
    pairs = [(template, name) for template in settings.templates for name in names]
    texts = [fill(template, name) for template, name in pairs]
    encoder = load_encoder(settings.encoder, features=settings.features)
    vectors = encoder.encode_texts(texts)
    if not np.isfinite(vectors).all():
        raise StoreError("encode: the encoder gave vectors of prompts that are not finite: is the checkpoint whole?")
    table = pa.table(
        [
            texts,
            [template for template, _ in pairs],
            [name for _, name in pairs],
            vector_column(vectors, settings.dtype),
        ],
        schema=schemas.prompts(vectors.shape[1], settings.dtype),
    )
    notes = {"encoder": recipe.inputs["encoder"], "image_px": list(encoder.image_px)}
    store.commit("prompts", recipe, [store.write_shard("prompts", recipe.fingerprint, 0, table)], notes=notes)
    return len(texts)


def check_overlays(settings: EncodeSettings, images: TableVersion) -> None:
    """Refuse, before any work, overlays of collections that have no images."""
    if not settings.overlays:
        return
    collections = set(images.read(["source"])["source"].to_pylist())
    unknown = settings.overlays.keys() - collections
    if unknown:
        raise PlaceprintError(
            f"encode.overlays: there are no images of {', '.join(sorted(unknown))}; there are of {', '.join(sorted(collections))}"
        )
