"""Pairs that nobody has to label: an image and an edit of it, and an image and the most similar one from another place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from storage.errors import PlaceprintError
from storage.image_files import image_id
from storage.store import Store
from storage.vectors import Vectors
from tasks.dedup.edits import edited
from tasks.dedup.elsewhere import UNKNOWN, Places, nearest_elsewhere
from tasks.dedup.labelled import SYNTHETIC, Label, Labels, NoThresholdError
from tasks.dedup.pairs import pair_cosines
from tasks.dedup.settings import SyntheticSettings
from tasks.encode.settings import EncodeSettings
from tasks.images import ImageError, open_rgb
from tasks.split.draw import draw_order, hashes

if TYPE_CHECKING:
    from tasks.encode.loader import Picture


def synthetic_labels(
    store: Store,
    settings: SyntheticSettings,
    encode: EncodeSettings,
    images: pa.Table,
    vectors: Vectors,
    seed: int,
    known: Mapping[str, Label] | None = None,
) -> Labels:
    """A duplicate and another pair of each of some images drawn at random.

    Which images, which edit of each, and how much of it follow from the seed and the image's id: an image that is added takes the
    place of one at most, and changes nothing else.

    Parameters
    ----------
    images
        Columns image_id, file, source, label, latitude, longitude, in the order of the vectors.
    vectors
        (n, d) float32, L2-normalised.
    known
        Duplicates of an earlier run with these settings, by the id of the image: they are not made again.

    Raises
    ------
    NoThresholdError
        When no two images are known to be of different places.
    """
    image_ids = images["image_id"].to_pylist()
    chosen = np.sort(draw_order(len(vectors), seed, image_ids)[: settings.n_images])
    places = _places(images)
    others, cosines = nearest_elsewhere(vectors, chosen, places, min_distance_km=settings.different_place_km)
    if (others == UNKNOWN).all():
        raise NoThresholdError(
            "dedup.labels: synthetic pairs need images from different places, and these have neither coordinates "
            f"{settings.different_place_km:g} km apart nor two labels: label pairs (`placeprint dedup label`), or set dedup=off"
        )
    labels: dict[tuple[str, str, str | None], Label] = {}
    for row, other, cosine in zip(chosen.tolist(), others.tolist(), cosines.tolist(), strict=True):
        if other != UNKNOWN:
            label = replace(Label.of(image_ids[row], image_ids[other], False, SYNTHETIC), cosine=cosine)
            labels[label.image_id_a, label.image_id_b, None] = label
    for label in _duplicates(store, settings, encode, images.take(chosen), vectors[chosen], seed, known or {}):
        labels[label.image_id_a, label.image_id_b, label.edit] = label
    return Labels(tuple(labels.values()), {"given": len(labels), "used": len(labels)})


def _duplicates(
    store: Store,
    settings: SyntheticSettings,
    encode: EncodeSettings,
    images: pa.Table,
    vectors: Vectors,
    seed: int,
    known: Mapping[str, Label],
) -> list[Label]:
    """Each image with an edit of it; an image whose file an edit leaves as it was has none."""
    columns = [images[name].to_pylist() for name in ("image_id", "file", "source")]
    made = _made_copies(
        store,
        settings,
        encode,
        [(number, *row) for number, row in enumerate(zip(*columns, strict=True)) if row[0] not in known],
        vectors,
        seed,
    )
    return [label for identity in columns[0] if (label := known.get(identity) or made.get(identity))]


def _made_copies(
    store: Store,
    settings: SyntheticSettings,
    encode: EncodeSettings,
    wanted: Sequence[tuple[int, str, str, str]],
    vectors: Vectors,
    seed: int,
) -> dict[str, Label]:
    """Labels of these images (row of the vectors, id, file, source) with an edit of each, by id."""
    if not wanted:
        return {}
    from tasks.encode.loader import Picture

    draws = hashes((f"edit {identity}" for _, identity, _, _ in wanted), seed).tolist()
    rows: list[int] = []
    said: list[tuple[str, str, str]] = []
    pictures: list[Picture] = []
    with TemporaryDirectory(prefix="placeprint-") as folder:
        for draw, (row, identity, file, source) in zip(draws, wanted, strict=True):
            try:
                image = open_rgb(store.root / file)
            except (ImageError, OSError) as error:
                raise PlaceprintError(f"dedup: {store.root / file} cannot be read any more: {error}") from None
            generator = np.random.default_rng(np.random.SeedSequence([seed, draw]))
            try:
                data, what = edited(image, settings.edits[draw % len(settings.edits)], generator)
            except (OSError, ValueError):  # too long a side for a JPEG
                continue
            copy = image_id(data)
            if copy == identity:
                continue
            path = Path(folder) / f"{row}.jpg"
            path.write_bytes(data)
            pictures.append(Picture(path, encode.overlays.get(source, ())))
            rows.append(row)
            said.append((identity, copy, what))
        copies = _encoded(encode, pictures)
    both = np.concatenate([vectors[rows], copies])
    n = len(rows)
    cosines = pair_cosines(both, np.arange(n), np.arange(n) + n).tolist()
    return {
        identity: replace(Label.of(identity, copy, True, SYNTHETIC), edit=what, cosine=cosine)
        for (identity, copy, what), cosine in zip(said, cosines, strict=True)
    }


def _encoded(settings: EncodeSettings, pictures: Sequence[Picture]) -> Vectors:
    """Embeddings of the pictures, (n, d) float32, made and rounded as those of the table."""
    from tasks.encode.compute import encode_pictures
    from tasks.encode.encoder import devices, load_encoder
    from tasks.encode.shard_maker import picture_loader

    device = devices(settings.encoder)[0]
    encoder = load_encoder(settings.encoder, device, features=settings.features)
    encoded = encode_pictures(encoder, picture_loader(settings, encoder, device, pictures))
    for error in encoded.errors.values():
        raise PlaceprintError(f"dedup: an edited image cannot be read: {error}")
    return encoded.embeddings.astype(settings.dtype).astype(np.float32)


def _places(images: pa.Table) -> Places:
    labels = images["label"].to_pylist()
    number_of = {label: number for number, label in enumerate(sorted({each for each in labels if each is not None}))}
    latitude, longitude = (
        np.array([np.nan if each is None else each for each in images[name].to_pylist()], dtype=np.float64)
        for name in ("latitude", "longitude")
    )
    return Places(latitude, longitude, np.array([number_of.get(label, UNKNOWN) for label in labels], dtype=np.int64))
