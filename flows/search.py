"""Search: the images nearest to a text or to another image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from storage.atomic import write_bytes
from storage.errors import PlaceprintError
from storage.faiss_index import SearchIndex
from storage.s3_path import StorePath
from storage.store import Store, TableVersion
from storage.vectors import Vectors
from tasks.dedup.kept import removed_images
from tasks.encode.weights import EncoderSettings, find_weights
from tasks.images import ImageError, decode_rgb
from tasks.report.thumbnails import thumbnail

if TYPE_CHECKING:
    from tasks.encode.encoder import Encoder


@dataclass(frozen=True)
class Hit:
    """One neighbour: its cosine to the query and its row of ``images``."""

    cosine: float
    image_id: str
    label: str | None
    source: str
    path: str
    file: StorePath


def search(store: Store, query: str, *, k: int = 10, device: str = "auto", duplicates: bool = False) -> list[Hit]:
    """The k images nearest to `query`: a text, or the path of an image file.

    Near-duplicates that were removed are left out, unless `duplicates` asks for them.

    Raises
    ------
    PlaceprintError
        When the query looks like a file that is not there or is no image, or the encoder is not that of the table.
    """
    embeddings = store.version("embeddings")
    index = SearchIndex(store, embeddings)
    path = _as_image_path(query)
    vector = embed_image(embeddings, path, device) if path else embed_text(embeddings, query, device)
    image_ids = embeddings.read(["image_id"])["image_id"].to_pylist()
    images = store.version("images", embeddings.manifest["recipe"]["inputs"]["images"])
    removed = set() if duplicates else removed_images(store, images.fingerprint)
    found = _nearest(index, vector, image_ids, removed, k)
    columns = ["image_id", "label", "source", "path", "file"]
    by_id = {row["image_id"]: row for row in reversed(images.read(columns).to_pylist())}
    hits = [(cosine, by_id[identity]) for cosine, identity in found]
    return [
        Hit(cosine, row["image_id"], row["label"], row["source"], row["path"], store.root / row["file"])
        for cosine, row in hits
    ]


def embed_text(embeddings: TableVersion, text: str, device: str = "auto") -> Vectors:
    """The vector of a text, (1, d) float32, made by the encoder of these embeddings."""
    return _encoder_of(embeddings, device).encode_texts([text])


def embed_image(embeddings: TableVersion, path: Path, device: str = "auto") -> Vectors:
    """The vector of an image file, (1, d) float32, made by the encoder of these embeddings.

    Raises
    ------
    PlaceprintError
        When it is not there or is no image.
    """
    if not path.expanduser().is_file():
        raise PlaceprintError(f"the image {path} does not exist")
    _check_image(path.expanduser())
    return _encoder_of(embeddings, device).encode_images([path.expanduser()], batch_size=1)


def _encoder_of(embeddings: TableVersion, device: str) -> Encoder:
    settings = EncoderSettings(
        model=str(embeddings.notes["model"]), pretrained=embeddings.notes["pretrained"], device=device
    )
    encoder_id = find_weights(settings).encoder_id
    if encoder_id != embeddings.notes["encoder"]:
        raise PlaceprintError(
            f"the embeddings were made by {embeddings.notes['encoder']}, here is {encoder_id}: encode again, or bring those weights"
        )
    from tasks.encode.encoder import load_encoder

    return load_encoder(settings)


def _nearest(
    index: SearchIndex, vector: Vectors, image_ids: Sequence[str], removed: set[str], k: int
) -> list[tuple[float, str]]:
    """Cosines and ids of the k nearest images that were not removed."""
    wanted = k
    while True:
        wanted = min(wanted, len(image_ids))
        cosines, rows = index.search(vector, wanted)
        found = [(float(cosine), image_ids[row]) for cosine, row in zip(cosines[0], rows[0], strict=True)]
        kept = [(cosine, identity) for cosine, identity in found if identity not in removed]
        if len(kept) >= k or wanted == len(image_ids):
            return kept[:k]
        wanted *= 4


def write_page(store: Store, query: str, hits: Sequence[Hit]) -> StorePath:
    """Write the hits as a self-contained page in the store; returns its path."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("search.html").render(
        query=query,
        style=files("tasks.report").joinpath("templates/style.css").read_text(encoding="utf-8"),
        hits=[(hit, thumbnail(hit.file)) for hit in hits],
    )
    name = re.sub(r"[^a-z0-9]+", "-", query.lower()).strip("-")[:60] or "query"
    path = store.root / "searches" / f"{name}.html"
    write_bytes(path, page.encode())
    return path


def _as_image_path(query: str) -> Path | None:
    """The query as a path, if it is one; a name that ends like an image but is not there is a mistake, not a text."""
    path = Path(query).expanduser()
    try:
        is_file = path.is_file()
    except OSError:  # too long for a file name: a text
        return None
    if not is_file:
        if re.fullmatch(r"\.(jpe?g|png|webp|gif|tiff?|bmp)", path.suffix.lower()):
            raise PlaceprintError(f"the image {path} does not exist")
        return None
    return path


def _check_image(path: Path) -> None:
    try:
        decode_rgb(path.read_bytes())
    except ImageError as error:
        raise PlaceprintError(f"{path} is not a usable image: {error.detail}") from None
