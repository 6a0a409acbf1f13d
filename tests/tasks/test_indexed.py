"""Pairs through an index: with an exact one all of them, with a worse one as many as it says."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from tasks.dedup.indexed import FIRST_NEIGHBOURS, indexed_pairs
from tasks.dedup.pairs import TooManyPairsError, near_pairs


def clustered(n: int, size: int, d: int = 32) -> np.ndarray:
    """Clusters of `size` with cosines of about 0.9."""
    generator = np.random.default_rng(0)
    centres = np.repeat(generator.standard_normal((n // size + 1, d)), size, axis=0)[:n]
    vectors = centres + 0.33 * generator.standard_normal((n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def flat(vectors: np.ndarray) -> faiss.Index:
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


@pytest.mark.parametrize("size", [2, 5, FIRST_NEIGHBOURS + 1, 3 * FIRST_NEIGHBOURS])
def test_an_exact_index_finds_the_pairs_of_the_exact_search(size: int) -> None:
    vectors = clustered(700, size)
    found = indexed_pairs(flat(vectors).search, vectors, min_cosine=0.85, max_pairs=10**6)
    exact = near_pairs(vectors, min_cosine=0.85)
    assert len(exact.i) > 200
    assert found.pairs.i.tolist() == exact.i.tolist()
    assert found.pairs.j.tolist() == exact.j.tolist()
    assert found.pairs.cosine.tobytes() == exact.cosine.tobytes()
    assert found.recall == 1


def test_a_worse_index_says_what_share_it_finds() -> None:
    vectors = clustered(2000, 5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(32), 32, 50, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    found = indexed_pairs(index.search, vectors, min_cosine=0.85, max_pairs=10**6, n_checked=2000)
    exact = near_pairs(vectors, min_cosine=0.85)
    pairs = set(zip(found.pairs.i.tolist(), found.pairs.j.tolist(), strict=True))
    there = set(zip(exact.i.tolist(), exact.j.tolist(), strict=True))
    assert pairs < there
    assert found.n_checked_pairs == len(there)
    assert found.recall == pytest.approx(len(pairs) / len(there), abs=1e-12)
    assert 0.3 < found.recall < 0.999
    sample = indexed_pairs(index.search, vectors, min_cosine=0.85, max_pairs=10**6, n_checked=500, seed=3)
    assert sample.recall == pytest.approx(found.recall, abs=0.1)


def test_more_pairs_than_allowed_and_none() -> None:
    vectors = clustered(300, 5)
    with pytest.raises(TooManyPairsError, match="more than 10 pairs"):
        indexed_pairs(flat(vectors).search, vectors, min_cosine=0.85, max_pairs=10)
    nothing = indexed_pairs(flat(vectors).search, vectors, min_cosine=1.0, max_pairs=10)
    assert len(nothing.pairs.i) == 0
    assert nothing.recall == 1
