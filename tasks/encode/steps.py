"""Encode: from ``images`` and the class names to the tables ``embeddings`` and ``prompts``, and the FAISS index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from prefect import task
from prefect.cache_policies import NO_CACHE

from storage import schemas
from storage.errors import PlaceprintError, StoreError
from storage.faiss_index import build_index
from storage.store import Recipe, Shard, Store, TableVersion
from storage.vectors import Vectors, vector_column
from tasks.collect.steps import unique_images
from tasks.encode.settings import EncodeSettings, fill
from tasks.encode.weights import find_weights
from tasks.labels.label_set import load_label_set

STEP_VERSION = 1


def embeddings_recipe(settings: EncodeSettings, images: str) -> Recipe:
    """What makes the embeddings: the weights, the stored type, the images, what is blanked in them.

    Batch size and device are not in it. A preset is in it with its numbers.
    """
    overlays = {
        collection: [list(rectangle) for rectangle in overlay] for collection, overlay in settings.overlays.items()
    }
    return Recipe(
        step="encode",
        step_version=STEP_VERSION,
        settings={
            "dtype": settings.dtype,
            "shard_size": settings.shard_size,
            **({"overlays": overlays} if overlays else {}),
        },
        inputs={"images": images, "encoder": find_weights(settings.encoder).encoder_id},
    )


def prompts_recipe(settings: EncodeSettings, images: str, labels: str) -> Recipe:
    """What makes the prompt embeddings: the weights, the templates, the label set."""
    return Recipe(
        step="encode-prompts",
        step_version=STEP_VERSION,
        settings={"dtype": settings.dtype, "templates": list(settings.templates), "labels": labels},
        inputs={"images": images, "encoder": find_weights(settings.encoder).encoder_id},
    )


@task(name="encode-shard", task_run_name="encode {start}-{stop}", cache_policy=NO_CACHE)
def encode_shard(root: Path, settings: EncodeSettings, recipe: Recipe, start: int, stop: int) -> Shard:
    """Embed images `start` to `stop` (by their order in the table) and write them as one shard."""
    from tasks.encode.encoder import load_encoder

    store = Store(root)
    images = store.version("images", recipe.inputs["images"])
    _check_overlays(settings, images)
    rows = unique_images(images, ["image_id", "file", "source"]).slice(start, stop - start)
    paths = [store.root / file for file in rows["file"].to_pylist()]
    overlays = [settings.overlays.get(source, ()) for source in rows["source"].to_pylist()]
    vectors = load_encoder(settings.encoder).encode_images(paths, settings.batch_size, overlays)
    _check_vectors(vectors, rows.num_rows)
    table = pa.table(
        [rows["image_id"].combine_chunks(), vector_column(vectors, settings.dtype)],
        schema=schemas.embeddings(vectors.shape[1], settings.dtype),
    )
    return store.write_shard("embeddings", recipe.fingerprint, start // settings.shard_size, table)


@task(name="commit-embeddings", cache_policy=NO_CACHE)
def commit_embeddings(root: Path, settings: EncodeSettings, recipe: Recipe, shards: list[Shard], n_images: int) -> None:
    """Commit the embeddings once there is one for every image, and build their index."""
    store = Store(root)
    n_embedded = sum(shard.rows for shard in shards)
    if n_embedded != n_images:
        raise StoreError(f"encode: {n_images} images, but {n_embedded} embeddings")
    notes = {
        "encoder": recipe.inputs["encoder"],
        "model": settings.encoder.model,
        "pretrained": settings.encoder.pretrained,
    }
    version = store.commit(
        "embeddings", recipe, shards, counts={"images": n_images, "embedded": n_embedded}, notes=notes
    )
    build_index(store, version)


@task(name="encode-prompts", cache_policy=NO_CACHE)
def encode_prompts(root: Path, settings: EncodeSettings, recipe: Recipe) -> int:
    """Embed every template of every class and commit the table; returns the number of prompts."""
    from tasks.encode.encoder import load_encoder

    store = Store(root)
    images = store.version("images", recipe.inputs["images"])
    found = [label for label in images.read(["label"])["label"].to_pylist() if label is not None]
    names = load_label_set(str(recipe.settings["labels"]), found).names
    pairs = [(template, name) for template in settings.templates for name in names]
    texts = [fill(template, name) for template, name in pairs]
    vectors = load_encoder(settings.encoder).encode_texts(texts)
    _check_vectors(vectors, len(texts))
    table = pa.table(
        [
            texts,
            [template for template, _ in pairs],
            [name for _, name in pairs],
            vector_column(vectors, settings.dtype),
        ],
        schema=schemas.prompts(vectors.shape[1], settings.dtype),
    )
    notes = {"encoder": recipe.inputs["encoder"]}
    store.commit("prompts", recipe, [store.write_shard("prompts", recipe.fingerprint, 0, table)], notes=notes)
    return len(texts)


def _check_overlays(settings: EncodeSettings, images: TableVersion) -> None:
    if not settings.overlays:
        return
    collections = set(images.read(["source"])["source"].to_pylist())
    unknown = settings.overlays.keys() - collections
    if unknown:
        raise PlaceprintError(
            f"encode.overlays: there are no images of {', '.join(sorted(unknown))}; there are of {', '.join(sorted(collections))}"
        )


def _check_vectors(vectors: Vectors, n_wanted: int) -> None:
    norms = np.linalg.norm(vectors, axis=1)
    if len(vectors) != n_wanted or not np.isfinite(vectors).all() or not np.allclose(norms, 1.0, atol=1e-3):
        raise StoreError(
            "encode: the encoder gave vectors that are not finite or not of unit length: is the checkpoint whole?"
        )
