"""Flow `encode`: images and class names -> embeddings, embedding_rejects, prompts, index."""

from __future__ import annotations

from prefect import flow

from flows.encoding import encode_images
from flows.settings import Settings
from flows.shortfalls import see_if_it_fell_short


@flow(
    name="encode",
    flow_run_name="encode {settings.collect.title} with {settings.encode.encoder.title}",
    on_completion=[see_if_it_fell_short],
)
def encode(settings: Settings, images: str | None = None) -> dict[str, str]:
    """Embed the images (by default those collected last) and the prompts; returns the fingerprints by table."""
    return encode_images(settings, images)
