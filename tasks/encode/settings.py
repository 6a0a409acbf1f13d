"""Settings of the stage `encode`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from storage.index_kind import Kind
from tasks.encode.encoder_settings import EncoderSettings
from tasks.encode.overlays import Overlay
from tasks.settings import Section

PLACEHOLDERS = ("{label}", "{country}")


class IndexSettings(Section):
    """The FAISS index of the embeddings: docs/index.md."""

    kind: Kind | Literal["auto"] = Field("auto", description="flat (exact), hnsw, ivf_flat, ivf_pq, or chosen by size")
    n_links: int = Field(32, ge=2, description="hnsw: links of a node")
    ef_construction: int = Field(80, ge=1, description="hnsw: candidates looked at for them")
    n_lists: int | None = Field(None, ge=1, description="ivf: lists; by default about 4 times the root of the rows")
    code_bytes: int | None = Field(None, ge=1, description="ivf_pq: of a vector; by default one for four dimensions")
    recall_goal: float = Field(0.99, ge=0, le=1, description="recall@10 up to which a search is made to look harder")
    n_recall_queries: int = Field(1000, ge=1, description="rows that recall is measured with")
    seed: int = Field(0, ge=0, lt=2**31)


class EncodeSettings(Section):
    """The encoder, its batches, and the prompts of each class."""

    encoder: EncoderSettings = EncoderSettings()
    batch_size: int = Field(64, ge=1)
    shard_size: int = Field(2000, ge=1, description="images a task and a Parquet file: what a killed run does again")
    dtype: Literal["float32", "float16"] = Field("float32", description="of the stored vectors; scored in float32")
    features: bool = Field(False, description="keep the pooled features before the encoder's projection, too")
    fresh: bool = Field(False, description="compute every vector, also those that the store has already")
    verify: int = Field(
        0, ge=0, description="images that are also encoded the reference's way before a run begins; 0 for none"
    )
    exact: bool = Field(False, description="use open_clip's own image transform, which is slower: docs/encode.md")
    loader_threads: int | None = Field(
        None, ge=1, description="that read and decode; one a core, shared by the devices"
    )
    batches_ahead: int = Field(3, ge=1, description="that are loaded while the device works on one")
    lease_s: float = Field(
        60.0, gt=0, description="after which a shard that a vanished machine was making is made anew"
    )
    runner: Literal["local", "ray"] = Field(
        "local", description="this machine, or Prefect's Ray task runner (extra `ray`)"
    )
    ray_address: str | None = Field(None, description="of a Ray cluster; by default one is started on this machine")
    ray_cpus_per_shard: int = Field(1, ge=1, description="that Ray reserves for each shard under way")
    ray_gpus_per_shard: int = Field(0, ge=0, description="that Ray reserves for each shard under way")
    index: IndexSettings = IndexSettings()
    templates: tuple[str, ...] = Field(
        ("{country}", "This image shows the country {country}"),
        min_length=1,
        description="prompts of each class; {label} and {country} stand for its name",
    )
    overlays: dict[str, Overlay] = Field(
        {},
        description="by collection, what is blanked in its images: the preset geoguessr, or a list of "
        "[left, top, right, bottom] in shares of width and height",
    )

    @field_validator("templates")
    @classmethod
    def _have_a_placeholder(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if not any(placeholder in template for placeholder in PLACEHOLDERS):
                raise ValueError(f"the template {template!r} has neither {{label}} nor {{country}}")
        return templates


def fill(template: str, label: str) -> str:
    """The prompt of one class."""
    for placeholder in PLACEHOLDERS:
        template = template.replace(placeholder, label)
    return template
