"""The random order in which images are drawn, from their ids where they have any."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from tasks.split.sizes import Ints, named

HASH_BYTES = 8


def draw_order(n: int, seed: int, ids: npt.ArrayLike | None = None) -> Ints:
    """Rows in a random order.

    Parameters
    ----------
    n
        Number of images.
    seed
        Of the order.
    ids
        (n,) id of each image, as text. With them an image's place in the order follows from the hash of seed and id, so that
        the order of the rows does not matter; without them rows are shuffled.

    Returns
    -------
    ndarray
        (n,) int64, a permutation of the rows.

    Raises
    ------
    ValueError
        When there are not n ids, or two are the same.

    Examples
    --------
    >>> ids = np.array(["x", "y", "z"])
    >>> (ids[draw_order(3, 0, ids)] == ids[::-1][draw_order(3, 0, ids[::-1])]).all()
    np.True_
    """
    if ids is None:
        return np.random.default_rng(np.random.SeedSequence(seed)).permutation(n)
    return np.argsort(hashes(checked_ids(ids, n), seed), kind="stable")


def checked_ids(ids: npt.ArrayLike, n: int) -> list[str]:
    """The ids as text, n of them, each another."""
    texts: list[str] = np.asarray(ids).astype(str).tolist()
    if len(texts) != n:
        raise ValueError(f"{n} labels, but {len(texts)} ids")
    if len(set(texts)) < n:
        seen: set[str] = set()
        # add returns None, so a text is kept only where it was seen before
        again = dict.fromkeys(text for text in texts if text in seen or seen.add(text))  # type: ignore[func-returns-value]
        raise ValueError(f"ids must differ, but these occur more than once: {named(again)}")
    return texts


def hashes(texts: Iterable[str], seed: int) -> npt.NDArray[np.uint64]:
    """BLAKE2b of each text with the seed as its key, (n,) uint64: the same on every machine."""
    key = str(seed).encode()
    digests = b"".join([blake2b(text.encode(), digest_size=HASH_BYTES, key=key).digest() for text in texts])
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
