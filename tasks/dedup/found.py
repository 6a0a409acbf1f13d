"""The pairs that make groups: searched exactly or through the index, from the threshold that the settings want."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from storage.errors import PlaceprintError
from storage.index_search import SearchIndex
from storage.store import Store, TableVersion
from tasks.dedup.embedded import EmbeddedImages
from tasks.dedup.groups import ALONE, group_numbers
from tasks.dedup.indexed import indexed_pairs
from tasks.dedup.known import known_pairs
from tasks.dedup.pairs import Pairs, TooManyPairsError, near_pairs
from tasks.dedup.settings import DedupSettings
from tasks.dedup.threshold import DuplicateModel

EXACT_UP_TO = 1_000_000
# A threshold at which an image has so many near-duplicates on average is none.
MAX_PAIRS_AN_IMAGE = 50


@dataclass(frozen=True)
class FoundPairs:
    """Pairs from a cosine on, the threshold that makes a group of them, and how they were found."""

    pairs: Pairs
    threshold: float
    removes: str
    searched_from: float | None
    search: str
    recall: float | None
    n_known: int
    warning: str | None


NOTHING = FoundPairs(
    pairs=Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)),
    threshold=math.inf,
    removes="nothing",
    searched_from=None,
    search="exact",
    recall=None,
    n_known=0,
    warning=None,
)


def find_pairs(
    store: Store, settings: DedupSettings, embeddings: TableVersion, images: EmbeddedImages, model: DuplicateModel
) -> FoundPairs:
    """All pairs from `suspected` on, and which of them make groups: those that the settings want, or, where that would remove
    too much, the certain ones. Where there are too many suspected pairs to keep, the certain ones alone.
    """
    found: FoundPairs | None = None
    much = f"an image would have over {MAX_PAIRS_AN_IMAGE} near-duplicates on average"
    with suppress(TooManyPairsError):
        found = _searched(store, settings, embeddings, images, model.suspected)
    if found is not None and settings.remove == "suspected":
        found = replace(found, threshold=model.suspected, removes="suspected")
        share = _removed_share(len(images.image_id), found)
        if share <= settings.max_removed_share:
            return found
        much = f"{100 * share:.0f} % of the images would be removed"
    if found is None:
        try:
            found = _searched(store, settings, embeddings, images, model.certain)
        except TooManyPairsError as error:
            raise PlaceprintError(
                f"dedup: {error}, the threshold of certain duplicates: the labels cannot be right for these images; set dedup=off, or label pairs"
            ) from None
    warning = (
        f"only what is certain is removed: from suspected ({model.suspected:.4f}) on, {much} "
        f"(dedup.max_removed_share is {settings.max_removed_share:g}); label pairs, or take an encoder that tells copies better"
    )
    return replace(
        found, threshold=model.certain, removes="certain", warning=warning if settings.remove == "suspected" else None
    )


def _searched(
    store: Store,
    settings: DedupSettings,
    embeddings: TableVersion,
    images: EmbeddedImages,
    threshold: float,
) -> FoundPairs:
    """All pairs from a little below the threshold on; none of them makes a group yet."""
    if threshold > 1:
        return NOTHING
    # Rounded down, so that a threshold that moves a little finds the pairs of an earlier run.
    start = max(-1.0, math.floor(100 * (threshold - settings.near_threshold)) / 100)
    n = len(images.image_id)
    max_pairs = MAX_PAIRS_AN_IMAGE * n
    if settings.search == "index" or (settings.search == "auto" and n > EXACT_UP_TO and not _has_gpu()):
        index = SearchIndex(store, embeddings)
        through = indexed_pairs(index.search, images.vectors, min_cosine=start, max_pairs=max_pairs, seed=settings.seed)
        return replace(NOTHING, pairs=through.pairs, searched_from=start, search="index", recall=through.recall)
    known = known_pairs(store, images.image_id, images.vectors, str(embeddings.notes["encoder"]), start)
    order = np.concatenate([known.rows, np.setdiff1d(np.arange(n), known.rows)])
    # The order of rows is left alone where all are new: permuting them copies all vectors.
    vectors = images.vectors[order] if len(known.rows) else images.vectors
    max_new = max(0, max_pairs - len(known.pairs.i))
    new = near_pairs(vectors, min_cosine=start, n_known=len(known.rows), max_pairs=max_new)
    ends = np.sort(np.stack([order[new.i], order[new.j]], axis=1), axis=1)
    i, j = np.concatenate([known.pairs.i, ends[:, 0]]), np.concatenate([known.pairs.j, ends[:, 1]])
    cosine = np.concatenate([known.pairs.cosine, new.cosine])
    by_rows = np.lexsort((j, i))
    pairs = Pairs(i[by_rows], j[by_rows], cosine[by_rows])
    return replace(NOTHING, pairs=pairs, searched_from=start, n_known=len(known.rows))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def pairs_that_group(found: FoundPairs) -> npt.NDArray[np.bool_]:
    """Which pairs make groups."""
    return np.asarray(found.pairs.cosine >= np.float32(found.threshold))


def _removed_share(n: int, found: FoundPairs) -> float:
    """Share of images that are removed when one of each connected group is kept."""
    near = pairs_that_group(found)
    numbers = group_numbers(
        n, found.pairs.i[near], found.pairs.j[near], np.empty((0, 0), np.float32), min_cosine=0.0, how="connected"
    )
    grouped = numbers[numbers != ALONE]
    return (len(grouped) - len(np.unique(grouped))) / max(n, 1)
