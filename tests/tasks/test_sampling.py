"""Which pair is shown next: each once, spread where the model is unsure; and when the thresholds have come to rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from tasks.dedup import sampling as module
from tasks.dedup.pairs import Pairs, near_pairs, nearest_neighbours, pair_cosines
from tasks.dedup.sampling import (
    N_BINS,
    ThresholdHistory,
    candidate_pairs,
    converged,
    next_random,
    next_stratified,
    random_order,
    unsure_range,
)
from tasks.dedup.threshold import fit_thresholds


def embeddings(n: int, seed: int = 0, d: int = 4) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def candidates(n: int, seed: int = 0) -> tuple[Pairs, np.ndarray]:
    row, cosine = nearest_neighbours(embeddings(n, seed))
    return candidate_pairs(row, cosine), row


@given(n=st.integers(2, 40), seed=st.integers(0, 100))
@settings(max_examples=40)
def test_candidates_are_each_image_with_its_nearest(n: int, seed: int) -> None:
    vectors = embeddings(n, seed)
    row, cosine = nearest_neighbours(vectors)
    pairs = candidate_pairs(row, cosine)
    wanted = {(min(image, int(other)), max(image, int(other))) for image, other in enumerate(row)}
    assert list(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == sorted(wanted)
    scored = near_pairs(vectors, min_cosine=-1.0)
    by_pair = dict(zip(zip(scored.i.tolist(), scored.j.tolist(), strict=True), scored.cosine.tolist(), strict=True))
    assert pairs.cosine.tolist() == [by_pair[pair] for pair in sorted(wanted)]


def test_one_image_has_no_candidates() -> None:
    pairs, row = candidates(1)
    assert len(pairs.i) == len(pairs.cosine) == 0
    assert next_random(random_order(pairs, row, seed=0), np.zeros(0, bool)) is None


def test_cosines_of_any_pairs_are_those_of_the_search() -> None:
    vectors = embeddings(30)
    pairs = near_pairs(vectors, min_cosine=-1.0)
    np.testing.assert_array_equal(pair_cosines(vectors, pairs.j, pairs.i), pairs.cosine)


@given(n=st.integers(2, 40), seed=st.integers(0, 100))
@settings(max_examples=40)
def test_random_order_has_each_candidate_once(n: int, seed: int) -> None:
    pairs, row = candidates(n, seed)
    order = random_order(pairs, row, seed=seed)
    assert sorted(order.tolist()) == list(range(len(pairs.i)))
    assert order.tolist() == random_order(pairs, row, seed=seed).tolist()


def test_random_order_is_that_of_images_drawn_at_random() -> None:
    pairs, row = candidates(12)
    n_first = np.zeros(len(pairs.i))
    for seed in range(3000):
        n_first[random_order(pairs, row, seed=seed)[0]] += 1
    n_images = np.zeros(len(pairs.i))  # that bring a pair up: two where they are each other's nearest
    for image, other in enumerate(row):
        n_images[(pairs.i == min(image, other)) & (pairs.j == max(image, other))] += 1
    assert set(n_images) == {1, 2}
    np.testing.assert_allclose(n_first / 3000, n_images / 12, atol=0.03)


@pytest.mark.parametrize("mode", ["random", "stratified"])
def test_all_are_shown_and_none_twice(mode: str) -> None:
    pairs, row = candidates(60)
    order, shown = random_order(pairs, row, seed=3), np.zeros(len(pairs.i), bool)
    unsure = (0.6, 0.9)
    while True:
        answered = pairs.cosine[shown]
        found = (
            next_random(order, shown)
            if mode == "random"
            else next_stratified(pairs.cosine, order, shown, answered, unsure)
        )
        if found is None:
            break
        assert not shown[found]
        if mode == "stratified":
            inside = (pairs.cosine >= 0.6) & (pairs.cosine <= 0.9)
            assert inside[found] or shown[inside].all()
        shown[found] = True
    assert shown.all()


def test_stratified_spreads_pairs_evenly_over_the_range() -> None:
    generator = np.random.default_rng(0)
    cosine = np.sort(np.append(generator.beta(60, 2, 2000), np.linspace(0.8, 1.0, 200))).astype(np.float32)
    order, shown = generator.permutation(len(cosine)), np.zeros(len(cosine), bool)
    for _ in range(100):
        found = next_stratified(cosine, order, shown, cosine[shown], (0.8, 1.0))
        shown[found] = True
    counts, _ = np.histogram(cosine[shown], np.linspace(0.8, 1.0, N_BINS + 1))
    assert counts.tolist() == [10] * N_BINS
    plain, _ = np.histogram(cosine[order[:100]], np.linspace(0.8, 1.0, N_BINS + 1))
    assert plain.min() < 3  # at random they would not be


def test_stratified_goes_where_the_fewest_answers_are() -> None:
    cosine = np.array([0.52, 0.57, 0.96, 0.97, 0.30], dtype=np.float32)
    order, none = np.array([4, 2, 3, 1, 0]), np.zeros(5, bool)
    unsure = (0.5, 1.0)
    assert next_stratified(cosine, order, none, [], unsure) == 2  # the first in the order, but for 4, that is outside
    assert next_stratified(cosine, order, none, [0.951, 0.97], unsure) == 1
    assert next_stratified(cosine, order, none, [0.951, 0.97, 0.58], unsure) == 0
    skipped = np.array([True, False, False, False, False])
    assert next_stratified(cosine, order, skipped, [0.951, 0.97, 0.58], unsure) == 1
    # Answers beyond the range are in no bin.
    assert next_stratified(cosine, order, none, [0.2, 0.3, 1.1, 0.951], unsure) == 1


def test_stratified_goes_on_beside_the_range() -> None:
    cosine = np.array([0.1, 0.4, 0.7, 0.95], dtype=np.float32)
    order, shown = np.arange(4), np.array([False, False, True, False])
    assert next_stratified(cosine, order, shown, [0.7], (0.6, 0.8)) == 3
    assert next_stratified(cosine, order, shown, [0.7], (0.6, 0.6)) == 1
    assert next_stratified(cosine, order, np.ones(4, bool), [0.7], (0.6, 0.8)) is None


def test_one_cosine_is_a_range() -> None:
    cosine = np.full(4, 0.9, dtype=np.float32)
    unsure = unsure_range(cosine, None)
    assert unsure[0] == unsure[1]
    assert next_stratified(cosine, np.arange(4), np.array([True, False, False, False]), [0.9], unsure) == 1


def test_unsure_where_the_model_is() -> None:
    generator = np.random.default_rng(1)
    x = generator.uniform(0.85, 1.0, 2000)
    model = fit_thresholds(x, generator.random(2000) < expit(-190 + 200 * x), n_resamples=1)
    cosine = np.linspace(0.2, 1.0, 1000)
    low, high = unsure_range(cosine, model)
    np.testing.assert_allclose(model.probability([low, high]), [0.005, 0.995], rtol=1e-9)
    assert low < model.suspected < model.certain < high
    # As far as there are candidates.
    assert unsure_range(np.linspace(0.2, 0.95, 9), model)[1] == 0.95
    assert unsure_range(np.linspace(0.2, 0.5, 9), model) == (0.5, 0.5)
    steep = replace(model, intercept=-19000.0, slope=20000.0)
    np.testing.assert_allclose(unsure_range(cosine, steep), (0.95, 0.95), atol=1e-3)


@given(
    st.lists(st.tuples(st.floats(0.5, 1), st.floats(0.5, 1)), min_size=1, max_size=30),
    st.integers(1, 30),
    st.sampled_from([0.002, 0.05, 0.5]),
)
def test_converged_is_what_it_says(history: list[tuple[float, float]], n_last: int, tolerance: float) -> None:
    last, newest = history[-n_last:], history[-1]
    near = all(abs(pair[side] - newest[side]) <= tolerance for pair in last for side in (0, 1))
    assert converged(history, tolerance=tolerance, n_last=n_last) is (near and len(history) >= n_last)


def test_not_converged_without_thresholds_or_while_one_moves() -> None:
    rest = [(0.9, 0.95)] * 20
    assert converged(rest, tolerance=0.002, n_last=20)
    assert not converged(rest[1:], tolerance=0.002, n_last=20)
    assert not converged([(np.nan, np.nan), *rest[1:]], tolerance=0.002, n_last=20)
    assert converged([(np.nan, np.nan), *rest], tolerance=0.002, n_last=20)
    assert not converged([*rest[1:], (0.9, np.inf)], tolerance=0.002, n_last=20)
    for side in (0, 1):
        for sign in (-1, 1):
            moved = list(rest[0])
            moved[side] += sign * 0.0021
            assert not converged([(moved[0], moved[1]), *rest[1:]], tolerance=0.002, n_last=20)


class Counted:
    """Fits, counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lengths: list[int] = []
        monkeypatch.setattr(module, "fit_thresholds", self)

    def __call__(self, cosine: list[float], is_duplicate: list[bool], **options: object) -> object:
        self.lengths.append(len(cosine))
        return fit_thresholds(cosine, is_duplicate, **options)


def answers(n: int) -> tuple[list[float], list[bool]]:
    generator = np.random.default_rng(5)
    x = generator.uniform(0.85, 1.0, n)
    return x.tolist(), (generator.random(n) < expit(-190 + 200 * x)).tolist()


def plain_history(x: list[float], y: list[bool], first: int) -> list[tuple[float, float]]:
    models = [fit_thresholds(x[:n], y[:n], n_resamples=1) for n in range(first, len(x) + 1)]
    return [(model.suspected, model.certain) for model in models]


def test_history_fits_each_answer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = answers(60)
    fits = Counted(monkeypatch)
    history = ThresholdHistory(n_last=20, probabilities=(0.01, 0.99))
    assert history.after(x[:50], y[:50]) == plain_history(x[:50], y[:50], 31)
    assert fits.lengths == list(range(31, 51))
    for n in range(51, 61):
        fits.lengths.clear()
        assert history.after(x[:n], y[:n]) == plain_history(x[:n], y[:n], n - 19)
        assert fits.lengths == [n]
    # The last is taken back: nothing is fitted anew. And another answer in its place: one fit.
    fits.lengths.clear()
    assert history.after(x[:59], y[:59]) == plain_history(x[:59], y[:59], 40)
    changed = [*y[:59], not y[59]]
    assert history.after(x, changed) == plain_history(x, changed, 41)
    assert fits.lengths == [60]
    # An answer amid the others is gone: all after it are other numbers.
    without_x, without_y = x[:45] + x[46:], y[:45] + y[46:]
    assert history.after(without_x, without_y) == plain_history(without_x, without_y, 40)
    assert fits.lengths == [60, *range(46, 60)]


def test_history_begins_without_thresholds() -> None:
    x, y = answers(40)
    history = ThresholdHistory(n_last=20, probabilities=(0.01, 0.99))
    assert history.after([], []) == []
    found = np.array(history.after(x[:12], y[:12]))
    assert found.shape == (12, 2)
    assert np.isnan(found[:9]).all()
    assert not converged(history.after(x[:12], y[:12]), tolerance=10, n_last=20)
