"""Encode: from ``images`` and the class names to the tables ``embeddings`` and ``prompts``, and the FAISS index."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import lru_cache
from importlib.metadata import version as package_version
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from storage import schemas
from storage.atomic import remove_folder
from storage.errors import PlaceprintError, StoreError
from storage.faiss_index import SearchIndex, build_index, has_index, index_folder
from storage.leases import Leases
from storage.s3_path import StorePath, read_json
from storage.store import Recipe, Store, TableVersion
from storage.vectors import vector_column
from tasks.collect.steps import unique_images
from tasks.encode.reuse import Plan, known_prompts
from tasks.encode.settings import EncodeSettings, IndexSettings, fill
from tasks.encode.shard_maker import EncodedShard, file_metadata, make_shard, origins_of, shard_reader
from tasks.encode.shards import checked_shard, shard_content
from tasks.encode.weights import find_weights
from tasks.labels.label_set import load_label_set
from tasks.step import run_logger, step
from tasks.stop import end_if_stopped

# How often to look whether another run has finished a shard.
_LOOK_AGAIN_S = 0.5


@step(name="encode-shard", task_run_name="encode {start}-{stop}")
def encode_shard(
    root: StorePath,
    settings: EncodeSettings,
    recipe: Recipe,
    index: int,
    start: int,
    stop: int,
    *,
    wait: bool,
    plan: Plan | None = None,
) -> EncodedShard | None:
    """See that the shard of images `start` to `stop` (by their order in the table) is there and whole.

    Parameters
    ----------
    wait
        What to do while another run makes this shard: wait for it, or return None.
    plan
        What it takes over from other versions; None for nothing.
    """
    store = Store(root)
    images = _images(root, recipe.inputs["images"]).slice(start, stop - start)
    plan = Plan.of_nothing(stop - start) if plan is None else plan
    path = store.shard_path("embeddings", recipe.fingerprint, index)
    leases = Leases(store.folder("embeddings", recipe.fingerprint) / "leases", settings.lease_s)
    while True:
        if (found := _found_shard(store, path, images)) is not None:
            return found
        with leases.held(path.stem) as mine:
            if mine:
                # Another run may have finished it between the two looks.
                return _found_shard(store, path, images) or make_shard(
                    store, settings, recipe, index, images, path, plan
                )
        if not wait:
            return None
        end_if_stopped()
        time.sleep(_LOOK_AGAIN_S)


@lru_cache(maxsize=1)
def _images(root: StorePath, fingerprint: str) -> pa.Table:
    """The images of a version, once for all shards of a process."""
    return unique_images(Store(root).version("images", fingerprint), ["image_id", "file", "source"])


def _found_shard(store: Store, path: StorePath, images: pa.Table) -> EncodedShard | None:
    """A shard that an earlier run, or another one, has made; one that is damaged is made again."""
    if not path.is_file():
        return None
    try:
        rejected = checked_shard(path, images["image_id"].to_pylist())
    except StoreError as error:
        run_logger().warning("encode: %s; it is made again", error)
        return None
    return EncodedShard(replace(store.shard(path), content=shard_content(path)), tuple(rejected), origins_of(path))


@step(name="commit-embeddings", task_run_name="commit embeddings")
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
    shard_reader.cache_clear()
    rejected = [each for shard in shards for each in shard.rejected]
    n_rows = sum(shard.shard.rows for shard in shards)
    n_reused = sum(sum(shard.origins.values()) for shard in shards)
    if n_images != n_rows + len(rejected):
        raise StoreError(f"encode: {n_images} images, but {n_rows} embedded and {len(rejected)} rejected")
    if n_images and not n_rows:
        raise PlaceprintError(f"encode: none of {n_images} images can be read, such as {rejected[0].detail}")
    counts = {"images": n_images, "embedded": n_rows - n_reused, "reused": n_reused, "rejected": len(rejected)}
    rows = pa.Table.from_pylist([asdict(each) for each in rejected], schemas.EMBEDDING_REJECTS)
    store.commit(
        "embedding_rejects",
        recipe,
        [store.write_shard("embedding_rejects", recipe.fingerprint, 0, rows)],
        counts=counts,
    )
    notes = {
        **encoder_notes(settings, recipe),
        "batch_size": settings.batch_size,
        "torch": package_version("torch"),
        "devices": sorted({shard.device for shard in shards if shard.device is not None}),
        "origins": {
            each.shard.file: {"embedded": each.shard.rows - sum(each.origins.values()), **each.origins}
            for each in shards
        },
    }
    version = store.commit("embeddings", recipe, [each.shard for each in shards], counts=counts, notes=notes)
    remove_folder(version.folder / "leases")
    return counts


def encoder_notes(settings: EncodeSettings, recipe: Recipe) -> dict[str, Any]:
    """What the manifest says of the encoder: for programs, and in words."""
    described = find_weights(settings.encoder)
    return {
        "encoder": recipe.inputs["encoder"],
        "encoder_in_words": str(described.identity),
        "identity": described.identity.as_json(),
        "assumed": list(described.assumed),
        "remarks": list(described.remarks),
        "settings": settings.encoder.whole_paths().model_dump(mode="json", exclude={"device", "compiled"}),
        "model": settings.encoder.model,
        "pretrained": settings.encoder.pretrained,
        "precision": described.identity.precision,
    }


class IndexFound(NamedTuple):
    """What an index is, for people; its recall@10, None of a table too small to measure it; whether it was built just now."""

    text: str
    recall: float | None
    is_new: bool


@step(name="index-embeddings", task_run_name="index embeddings")
def index_embeddings(root: StorePath, settings: IndexSettings, fingerprint: str) -> IndexFound:
    """See that the index is there, of the kind that is wanted."""
    store = Store(root)
    version = store.version("embeddings", fingerprint)
    is_new = not has_index(store, version, settings.kind)
    if is_new:
        build_index(store, version, **settings.model_dump())
    manifest = SearchIndex(store, version).manifest
    recall = read_json(index_folder(store, version) / "recall.json")["recall"]["10"]
    text = f"{manifest['kind']}: {manifest['reason']}" + (f"; recall@10 {recall:.3f}" if recall is not None else "")
    return IndexFound(text, recall, is_new)


@step(name="encode-prompts", task_run_name="encode prompts")
def encode_prompts(root: StorePath, settings: EncodeSettings, recipe: Recipe) -> dict[str, int]:
    """Embed every template of every class and commit the table; a text that the store has is not embedded again.

    Returns
    -------
    dict
        ``prompts``; of the texts, each once, ``embedded`` and ``reused``; and ``cut``, of those embedded, which are longer than
        the encoder reads.
    """
    store = Store(root)
    images = store.version("images", recipe.inputs["images"])
    found = [label for label in images.read(["label"])["label"].to_pylist() if label is not None]
    names = load_label_set(str(recipe.settings["labels"]), found).names
    pairs = [(template, name) for template in settings.templates for name in names]
    texts = [fill(template, name) for template, name in pairs]
    vectors = {} if settings.fresh else known_prompts(store, recipe, texts)
    missing = [text for text in dict.fromkeys(texts) if text not in vectors]
    n_cut = 0
    if missing:
        from tasks.encode.encoder import load_encoder

        encoder = load_encoder(settings.encoder, features=settings.features)
        made = encoder.encode_texts(missing)
        if not np.isfinite(made).all():
            raise StoreError(
                "encode: the encoder gave vectors of prompts that are not finite: is the checkpoint whole?"
            )
        vectors |= dict(zip(missing, made, strict=True))
        n_cut = sum(encoder.n_tokens(text) > encoder.context_length for text in missing)
    dimension = int(recipe.settings["encoder"]["dimension"])
    stacked = np.stack([vectors[text] for text in texts]) if texts else np.empty((0, dimension), np.float32)
    schema = schemas.prompts(dimension, settings.dtype)
    table = pa.table(
        [
            texts,
            [template for template, _ in pairs],
            [name for _, name in pairs],
            vector_column(stacked, settings.dtype),
        ],
        schema=schema.with_metadata(file_metadata(recipe, dimension, settings.dtype)),
    )
    counts = {
        "prompts": len(texts),
        "embedded": len(missing),
        "reused": len(set(texts)) - len(missing),
        "cut": n_cut,
    }
    notes = {**encoder_notes(settings, recipe), "image_px": list(recipe.settings["encoder"]["preprocessing"]["size"])}
    shard = store.write_shard("prompts", recipe.fingerprint, 0, table)
    store.commit("prompts", recipe, [shard], counts=counts, notes=notes)
    return counts


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
