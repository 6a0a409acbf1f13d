"""A reference set for geolocation by nearest neighbours, in which every kind of view of every cell is represented."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tasks.dedup.pairs import checked_embeddings
from tasks.split.draw import hashes

Rows = npt.NDArray[np.int64]

# Lowest sizes of the published table's rows; the last has no end.
SIZES = (1, 2, 4, 11, 21, 51, 101, 151)
N_NAMED = 3  # ids that an error names


@dataclass(frozen=True)
class ReferenceSet:
    """Images that stand for all.

    Parameters
    ----------
    rows
        (m,) int64, the rows chosen, ascending.
    group
        (n,) int64, group of every image, chosen or not, numbered from 0.
    sizes
        As of `group_size_table`, of all images.
    """

    rows: Rows
    group: Rows
    sizes: list[tuple[str, int]]


def reference_set(
    embeddings: npt.ArrayLike,
    cells: npt.ArrayLike,
    features: Sequence[npt.ArrayLike],
    *,
    n: int,
    seed: int,
    ids: Sequence[str],
    max_group: int = 50,
) -> ReferenceSet:
    """Choose `n` images that cover all groups of images, each as evenly as its size allows.

    Images of one cell that agree in all features are a group; one of more than `max_group` images is cut into clusters of its
    embeddings, size / `max_group` rounded up, by bisecting k-means [2]_: the largest cluster is cut in two until there are as many.
    That gives clusters of more even sizes than k-means at once, and in far less time. Then the groups take turns, in an order drawn at random: in every
    round each gives one image, the one whose hash with the seed is lowest, until there are `n`. So a set is part of any larger
    one of the same seed.

    Neither the chosen images nor the numbers of the groups depend on the order of the rows.

    Parameters
    ----------
    embeddings
        (n_images, d) float32 or float16, L2-normalised.
    cells
        (n_images,) cell of each image, such as of `tasks.split.spatial.equal_area_cells`.
    features
        Columns of labels, each (n_images,), such as the season or whether it was taken indoors; none is allowed.
    n
        Images to choose; all, if there are no more.
    seed
        Of the clusters, the order of the groups and the order within each.
    ids
        (n_images,) names of the images, each once.
    max_group
        Images a group may have before it is cut. Clusters may be larger, since they are not of equal size.

    Returns
    -------
    ReferenceSet
        The rows chosen, and the groups they were chosen from.

    Raises
    ------
    ValueError
        When lengths differ, an id is there twice, `n` or `max_group` is less than 1, or the embeddings are not as said.

    References
    ----------
    .. [1] The round robin over cells, features and clusters is that of the reference set of geosolver.
    .. [2] M. Steinbach, G. Karypis, V. Kumar, A comparison of document clustering techniques, KDD Workshop on Text Mining, 2000.

    Examples
    --------
    >>> vectors = np.eye(5, dtype=np.float32)
    >>> chosen = reference_set(vectors, [7, 7, 7, 7, 9], [["a", "a", "a", "b", "b"]], n=3, seed=0, ids=list("vwxyz"))
    >>> chosen.group.tolist(), len(chosen.rows), {3, 4} <= set(chosen.rows.tolist())
    ([0, 0, 0, 1, 2], 3, True)
    """
    if n < 1 or max_group < 1:
        raise ValueError(f"n and max_group must be at least 1, got {n} and {max_group}")
    vectors = checked_embeddings(embeddings)
    names = _unique_ids(ids, len(vectors))
    columns = [_codes(column, len(vectors), what) for what, column in _named_columns(cells, features)]
    by_id = np.argsort(names, kind="stable")
    group = np.empty(len(vectors), dtype=np.int64)
    group[by_id] = _groups(vectors, np.stack(columns)[:, by_id], by_id, max_group, seed)
    rows = _round_robin(group, names, seed)[:n]
    return ReferenceSet(np.sort(rows), group, group_size_table(group))


def group_size_table(group: npt.ArrayLike) -> list[tuple[str, int]]:
    """How many groups there are of each size.

    Parameters
    ----------
    group
        (n,) group of each image.

    Returns
    -------
    list
        (sizes, number of groups), for 1, 2–3, 4–10, 11–20, 21–50, 51–100, 101–150 and more than 150 images.

    Examples
    --------
    >>> group_size_table([0, 0, 1, 2, 2, 2])[:3]
    [('1', 1), ('2–3', 2), ('4–10', 0)]
    """
    size = np.unique(np.asarray(group), return_counts=True)[1]
    labels = [str(low) if high == low + 1 else f"{low}–{high - 1}" for low, high in pairwise(SIZES)]
    counts = np.histogram(size, bins=[*SIZES, np.inf])[0].tolist()
    return list(zip([*labels, f"more than {SIZES[-1] - 1}"], counts, strict=True))


def _named_columns(cells: npt.ArrayLike, features: Sequence[npt.ArrayLike]) -> list[tuple[str, npt.ArrayLike]]:
    return [("cells", cells), *((f"features[{at}]", column) for at, column in enumerate(features))]


def _codes(column: npt.ArrayLike, n: int, what: str) -> Rows:
    """Numbers of a column's labels, in the order of the labels."""
    label = np.asarray(column)
    if label.shape != (n,):
        raise ValueError(f"{what} must have the shape ({n},), as many as there are embeddings, got {label.shape}")
    if label.dtype == object:
        label = label.astype(np.str_)  # missing labels among text cannot be sorted
    return np.unique(label, return_inverse=True)[1].astype(np.int64)


def _unique_ids(ids: Sequence[str], n: int) -> npt.NDArray[np.str_]:
    names = np.asarray(ids, dtype=np.str_)
    if names.shape != (n,):
        raise ValueError(f"ids must have the shape ({n},), as many as there are embeddings, got {names.shape}")
    each, count = np.unique(names, return_counts=True)
    twice = each[count > 1].tolist()
    if twice:
        raise ValueError(f"{len(twice)} ids are there more than once: {', '.join(twice[:N_NAMED])}")
    return names


def _groups(vectors: npt.NDArray[np.float32], columns: Rows, by_id: Rows, max_group: int, seed: int) -> Rows:
    """Group of each image in the order of the ids; columns, (k, n), are in that order."""
    coarse = np.unique(columns, axis=1, return_inverse=True)[1].ravel()
    cluster = np.zeros(len(by_id), dtype=np.int64)
    members = np.split(np.argsort(coarse, kind="stable"), np.cumsum(np.bincount(coarse))[:-1]) if len(coarse) else []
    for at in members:
        if len(at) > max_group:
            cluster[at] = _clusters(vectors[by_id[at]], -(-len(at) // max_group), seed)
    return np.unique(np.stack([coarse, cluster]), axis=1, return_inverse=True)[1].ravel().astype(np.int64)


def _clusters(vectors: npt.NDArray[np.float32], n_clusters: int, seed: int) -> Rows:
    from sklearn.cluster import BisectingKMeans
    from sklearn.exceptions import ConvergenceWarning

    state = int(np.random.SeedSequence(seed).generate_state(1)[0])
    model = BisectingKMeans(n_clusters, random_state=state, bisecting_strategy="largest_cluster")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal embeddings make fewer clusters, which is fine
        return np.asarray(model.fit_predict(vectors), dtype=np.int64)


def _round_robin(group: Rows, names: npt.NDArray[np.str_], seed: int) -> Rows:
    """All rows, in the order in which the groups give them."""
    n_groups = int(group.max(initial=-1)) + 1
    turn = np.random.default_rng(np.random.SeedSequence(seed)).permutation(n_groups)[group]
    draw = hashes(names.tolist(), seed)
    in_turn = np.lexsort((names, draw, turn))
    first = np.searchsorted(turn[in_turn], np.arange(n_groups))
    round_ = np.arange(len(group)) - first[turn[in_turn]]
    return np.asarray(in_turn[np.argsort(round_, kind="stable")], dtype=np.int64)
