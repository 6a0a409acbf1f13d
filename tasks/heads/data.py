"""What heads learn from and are judged on: images, embeddings and splits of the store, joined row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.schemas import Part
from storage.store import Recipe, Store
from storage.vectors import Vectors, read_vectors
from tasks.dedup.kept import kept_images
from tasks.labels.label_set import LabelSet, load_label_set
from tasks.split.steps import duplicates_of, place_groups

# Parts whose labels no head has seen.
JUDGED_PARTS = (Part.TEST.value, Part.ZERO_SHOT.value)


@dataclass(frozen=True)
class LabelledImages:
    """Images with a label and an embedding, (n,) each, and vectors (n, d); coordinates are NaN where they are not known.

    `place` numbers their places: label and coordinates, or the image itself where it has none.
    """

    image_id: list[str]
    source: npt.NDArray[np.str_]
    place: npt.NDArray[np.int64]
    latitude: npt.NDArray[np.float64]
    longitude: npt.NDArray[np.float64]
    label: npt.NDArray[np.int64]
    vectors: Vectors
    classes: LabelSet


@dataclass(frozen=True)
class SplitData(LabelledImages):
    """The images of one split, and their parts."""

    part: npt.NDArray[np.str_]
    split: str


def read_labelled(store: Store, recipe: Recipe) -> LabelledImages:
    """All labelled images that dedup keeps and that could be embedded, in the order of the table."""
    joined = _Joined(store, recipe)
    return LabelledImages(**joined.columns(joined.labelled()))


def read_splits(store: Store, recipe: Recipe) -> Iterator[SplitData]:
    """The images of each split; those that could not be embedded are left out.

    Splits without a part to learn from and one to be judged on are passed over.
    """
    joined = _Joined(store, recipe)
    splits = store.version("splits", recipe.inputs["splits"]).read()
    splits = splits.filter(pc.is_in(splits["image_id"], pa.array(joined.row_of_vector, pa.string())))
    for name in pc.unique(splits["split"]).to_pylist():
        rows = splits.filter(pc.equal(splits["split"], name))
        parts = set(rows["part"].to_pylist())
        if Part.TRAIN.value not in parts or not parts.intersection(JUDGED_PARTS):
            continue
        yield SplitData(
            **joined.columns(rows["image_id"].to_pylist()), part=np.array(rows["part"].to_pylist()), split=name
        )


class _Joined:
    """Images and embeddings of a recipe."""

    def __init__(self, store: Store, recipe: Recipe) -> None:
        source = store.version("images", recipe.inputs["images"])
        columns = ["image_id", "source", "label", "latitude", "longitude"]
        self._images = kept_images(source, duplicates_of(store, recipe), columns)
        self._row_of_image = {identity: row for row, identity in enumerate(self._images["image_id"].to_pylist())}
        embeddings = store.version("embeddings", recipe.inputs["embeddings"])
        identities = embeddings.read(["image_id"])["image_id"].to_pylist()
        self.row_of_vector = {identity: row for row, identity in enumerate(identities)}
        self._vectors = read_vectors(embeddings)
        # Of all images, as the prompts are: a class whose images were all removed keeps its prompt.
        found = source.read(["label"])["label"].drop_null().to_pylist()
        self._classes = load_label_set(str(recipe.settings["labels"]), found)

    def labelled(self) -> list[str]:
        """Ids of the images that have a label and an embedding."""
        known = self._images.filter(self._images["label"].is_valid())["image_id"].to_pylist()
        return [identity for identity in known if identity in self.row_of_vector]

    def columns(self, image_ids: list[str]) -> dict[str, Any]:
        """The fields of `LabelledImages` for some images."""
        known = self._images.take([self._row_of_image[identity] for identity in image_ids])
        return {
            "image_id": image_ids,
            "source": np.array(known["source"].to_pylist()),
            "place": np.unique(place_groups(known), return_inverse=True)[1],
            "latitude": _floats(known["latitude"]),
            "longitude": _floats(known["longitude"]),
            "label": np.array([self._classes.index[label] for label in known["label"].to_pylist()]),
            "vectors": self._vectors[[self.row_of_vector[identity] for identity in image_ids]],
            "classes": self._classes,
        }


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.array([np.nan if each is None else each for each in column.to_pylist()], dtype=np.float64)
