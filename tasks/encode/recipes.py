"""What makes the embeddings and the prompts, and whether they are there: known without Prefect and without torch."""

from __future__ import annotations

from storage.errors import StoreError
from storage.faiss_index import has_index
from storage.store import Recipe, Store
from tasks.encode.precision import choose_precision
from tasks.encode.settings import EncodeSettings
from tasks.encode.weights import find_weights

STEP_VERSION = 3
IMAGE_TABLES = ("embedding_rejects", "embeddings")


def decided(settings: EncodeSettings) -> EncodeSettings:
    """The settings with a precision in place of ``auto``: that of the machine that plans the run, for all that take part in it."""
    encoder = settings.encoder
    if encoder.precision == "auto" and settings.runner == "ray" and settings.ray_gpus_per_shard:
        precision = "bfloat16"
    else:
        precision = choose_precision(encoder.precision, encoder.device)
    return settings.model_copy(update={"encoder": encoder.model_copy(update={"precision": precision})})


def embeddings_recipe(settings: EncodeSettings, images: str) -> Recipe:
    """What makes the embeddings: the encoder with all that its identity says, the stored type, the images, what is blanked in them.

    Batch size and device are not in it; of the precision what is used on this machine. A preset of an overlay is in it with its
    numbers.
    """
    overlays = {
        collection: [list(rectangle) for rectangle in overlay] for collection, overlay in settings.overlays.items()
    }
    weights = find_weights(decided(settings).encoder)
    return Recipe(
        step="encode",
        step_version=STEP_VERSION,
        settings={
            "dtype": settings.dtype,
            "shard_size": settings.shard_size,
            "features": settings.features,
            "exact": settings.exact,
            "encoder": weights.identity.as_json(),
            **({"compiled": True} if settings.encoder.compiled else {}),
            **({"overlays": overlays} if overlays else {}),
        },
        inputs={"images": images, "encoder": weights.encoder_id},
    )


def prompts_recipe(settings: EncodeSettings, images: str, labels: str) -> Recipe:
    """What makes the prompt embeddings: the encoder, the templates, the label set."""
    weights = find_weights(decided(settings).encoder)
    return Recipe(
        step="encode-prompts",
        step_version=STEP_VERSION,
        settings={
            "dtype": settings.dtype,
            "encoder": weights.identity.as_json(),
            "templates": list(settings.templates),
            "labels": labels,
        },
        inputs={"images": images, "encoder": weights.encoder_id},
    )


def already_encoded(store: Store, settings: EncodeSettings, labels: str) -> str | None:
    """The fingerprint of the embeddings of the images collected last, if all that `encode` makes is there; else None.

    What is there becomes selected.
    """
    if settings.fresh:
        return None
    try:
        images = store.version("images").fingerprint
    except StoreError:
        return None
    embeddings = embeddings_recipe(settings, images)
    if not store.reuse(prompts_recipe(settings, images, labels), ["prompts"]):
        return None
    if not store.reuse(embeddings, IMAGE_TABLES):
        return None
    version = store.version("embeddings", embeddings.fingerprint)
    return version.fingerprint if has_index(store, version, settings.index.kind) else None
