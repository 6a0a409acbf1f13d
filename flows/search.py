"""Search: the images nearest to a text or to another image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
import pyarrow as pa
import pyarrow.compute as pc

from storage.atomic import write_bytes
from storage.errors import PlaceprintError
from storage.faiss_index import SearchIndex
from storage.s3_path import StorePath
from storage.store import Store, TableVersion
from storage.vectors import Vectors
from tasks.dedup.kept import removed_images
from tasks.encode.queries import QueryEncoder
from tasks.images import ImageError, decode_rgb
from tasks.report.thumbnails import thumbnail

# Also those that cannot be read: who types one means a file.
_IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "tif", "tiff", "bmp", "ico", "svg"),
        *("heic", "heif", "avif", "jxl", "jp2", "j2k", "psd", "tga", "ppm", "pgm"),
        *("raw", "dng", "cr2", "cr3", "nef", "arw", "orf", "rw2", "raf"),
    )
)


@dataclass(frozen=True)
class Hit:
    """One neighbour: its cosine to the query and its row of ``images``."""

    cosine: float
    image_id: str
    label: str | None
    source: str
    path: str
    file: StorePath


@dataclass(frozen=True)
class Answer:
    """The hits of a query, best first; `cut` is how many tokens its text has and how many the encoder reads, if those are fewer."""

    query: str
    hits: list[Hit]
    cut: tuple[int, int] | None = None


class Searcher:
    """Answers one query after another on the embeddings that are selected; the encoder and the index stay loaded.

    Parameters
    ----------
    device
        Where images are encoded.
    duplicates
        Whether near-duplicates that were removed are found, too.

    Raises
    ------
    PlaceprintError
        When there are no embeddings or no index, or the encoder is not that of the table.
    """

    def __init__(self, store: Store, *, device: str = "auto", duplicates: bool = False) -> None:
        self._store = store
        embeddings = store.version("embeddings")
        self._index = SearchIndex(store, embeddings)
        self._encoder = QueryEncoder(embeddings.notes, device)
        self._image_ids = embeddings.read(["image_id"])["image_id"].combine_chunks()
        images = store.version("images", embeddings.manifest["recipe"]["inputs"]["images"])
        self._rows = images.read(["image_id", "label", "source", "path", "file"])
        self._removed = set() if duplicates else removed_images(store, images.fingerprint)

    def search(self, query: str, k: int = 10, *, is_text: bool = False) -> Answer:
        """The k images nearest to `query`: a text, or the path of an image file.

        Parameters
        ----------
        is_text
            Take the query for a text, whatever files are there.

        Raises
        ------
        PlaceprintError
            When the query is empty or a folder, or looks like a file that is not there or is no image.
        """
        if not query.strip():
            raise PlaceprintError("search: the query is empty: give a text or the path of an image")
        path = None if is_text else _as_image_path(query)
        cut = None
        if path is None:
            cut, vector = self._encoder.n_cut(query), self._encoder.text(query)
        else:
            vector = self._encoder.image(usable_image(path))
        return Answer(query, [self._hit(*found) for found in self._nearest(vector, k)], cut)

    def _nearest(self, vector: Vectors, k: int) -> list[tuple[float, str]]:
        """Cosines and ids of the k nearest images that were not removed."""
        wanted, n = k, len(self._image_ids)
        while True:
            wanted = min(wanted, n)
            cosines, rows = self._index.search(vector, wanted)
            identities = self._image_ids.take(pa.array(rows[0])).to_pylist()
            found = zip(cosines[0].tolist(), identities, strict=True)
            kept = [(cosine, identity) for cosine, identity in found if identity not in self._removed]
            if len(kept) >= k or wanted == n:
                return kept[:k]
            wanted *= 4

    def _hit(self, cosine: float, identity: str) -> Hit:
        # Of an image in several collections the first, which is the one that was encoded.
        at = pc.index(self._rows["image_id"], identity).as_py()
        (row,) = self._rows.slice(at, 1).to_pylist()
        return Hit(cosine, identity, row["label"], row["source"], row["path"], self._store.root / row["file"])


def search(store: Store, query: str, *, k: int = 10, device: str = "auto", duplicates: bool = False) -> list[Hit]:
    """The k images nearest to `query`, as `Searcher.search` finds them."""
    return Searcher(store, device=device, duplicates=duplicates).search(query, k).hits


def embed_text(embeddings: TableVersion, text: str, device: str = "auto") -> Vectors:
    """The vector of a text, (1, d) float32, made by the encoder of these embeddings."""
    return QueryEncoder(embeddings.notes, device).text(text)


def embed_image(embeddings: TableVersion, path: Path, device: str = "auto") -> Vectors:
    """The vector of an image file, (1, d) float32, made by the encoder of these embeddings.

    Raises
    ------
    PlaceprintError
        When it is not there or is no image.
    """
    return QueryEncoder(embeddings.notes, device).image(usable_image(path))


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
    # What is no Unicode came from bytes of the terminal.
    query = query.encode(errors="replace").decode()
    name = re.sub(r"\W+", "-", query.lower()).strip("-")[:60] or "query"
    path = store.root / "searches" / f"{name}.html"
    write_bytes(path, page.encode(errors="replace"))
    return path


def _as_image_path(query: str) -> Path | None:
    """The query as a path, if it is one; what looks like a path but is not there is a mistake, not a text."""
    path = Path(query).expanduser()
    try:
        if path.is_file():
            return path
        is_folder = path.is_dir()
    except (OSError, ValueError):  # too long for a file name, or with a NUL in it: a text
        return None
    if is_folder:
        raise PlaceprintError(f"search: {query} is a folder: give an image file, or --text to search for the word")
    if path.suffix.lower() in _IMAGE_SUFFIXES or re.match(r"(/|\.{1,2}/|~)", query):
        raise PlaceprintError(f"search: the image {query} does not exist (--text searches for the words)")
    return None


def usable_image(path: Path) -> Path:
    """The path of an image file that can be decoded, with ``~`` read as the user's home; else raises PlaceprintError."""
    path = path.expanduser()
    try:
        decode_rgb(path.read_bytes())
    except ImageError as error:
        raise PlaceprintError(f"search: {path} is not a usable image: {error.detail}") from None
    except FileNotFoundError:
        raise PlaceprintError(f"search: the image {path} does not exist") from None
    except OSError as error:
        raise PlaceprintError(f"search: {path} cannot be read: {error.strerror or error}") from None
    return path
