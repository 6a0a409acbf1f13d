"""The regional head: against a plain PyTorch loop, one by one against stacked, killed and resumed, saved, and where the study's loss collapses."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.utils.data import DataLoader, TensorDataset

from tasks.heads.checkpoint import Checkpoint
from tasks.heads.losses import PRESETS, regional_loss
from tasks.heads.regional import RegionalMLP, fit_together, with_cosines
from tasks.heads.stacked import Member, Training, stack_scores, train_stack

pytestmark = pytest.mark.usefixtures("one_thread")
N_CLASSES = 12
REGION = np.arange(N_CLASSES) // 3


def blobs(n: int = 240, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    y = generator.integers(0, N_CLASSES, n)
    centres = np.random.default_rng(99).normal(size=(N_CLASSES, 16))
    return (centres[y] + noise * generator.normal(size=(n, 16))).astype(np.float32), y


def plain_loop(
    X: np.ndarray, y: np.ndarray, member: Member, training: Training, new: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One model, as the study trains it: Linear and ReLU, a DataLoader, autograd, Adam. Probabilities, validation in the last epoch."""
    torch.manual_seed(member.seed)
    sizes = [X.shape[1], *training.hidden, N_CLASSES]
    layers: list[torch.nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    adam = torch.optim.Adam(model.parameters(), lr=training.learning_rate)
    images, target, region = torch.from_numpy(X), torch.from_numpy(y), torch.from_numpy(REGION)
    validation = np.empty(len(X), dtype=np.int64)
    for epoch in range(training.epochs):
        portion = member.gamma * member.rho**epoch
        for fold in np.array_split(np.arange(len(X)), training.n_folds):
            rows = np.setdiff1d(np.arange(len(X)), fold)
            for batch, truth in DataLoader(TensorDataset(images[rows], target[rows]), batch_size=training.batch_size):
                adam.zero_grad()
                regional_loss(
                    model(batch),
                    truth,
                    region,
                    portion=portion,
                    form=training.loss_form,
                    region_scale=training.region_scale,
                ).backward()
                adam.step()
            validation[fold] = model(images[fold]).argmax(-1).numpy()
    return model(torch.from_numpy(new)).softmax(-1).detach().numpy(), validation


@pytest.mark.parametrize("form", ["nll", "double-softmax"])
@pytest.mark.parametrize("scale", ["none", "log-ratio"])
def test_stacked_training_gives_the_models_of_a_plain_loop(form: str, scale: str) -> None:
    (X, y), (new, _) = blobs(), blobs(60, seed=1)
    members = [Member(4808, **PRESETS["L0"]), Member(4808, **PRESETS["L50"]), Member(4947, **PRESETS["LDYN"])]
    training = Training((20, 24), 2, 5, 32, 0.005, form, scale, "float32")  # type: ignore[arg-type]
    trained = train_stack(X, y, REGION, members, training)
    scores = stack_scores(trained.weights, trained.biases, new)
    for number, member in enumerate(members):
        wanted, validation = plain_loop(X, y, member, training, new)
        np.testing.assert_allclose(scores[number], wanted, atol=2e-4)
        assert (trained.validation[number] == validation).mean() > 0.99
    assert not np.allclose(scores[0], scores[1], atol=0.01)


def test_all_seeds_at_once_are_the_models_one_by_one() -> None:
    (X, y), (new, _) = blobs(), blobs(60, seed=1)
    settings = {"gamma": 0.5, "region": REGION, "hidden": 20, "epochs": 2, "n_folds": 5, "batch_size": 32}
    seeds = (4808, 4947, 5723)
    together = RegionalMLP(**settings, random_state=seeds, device="cpu").fit(X, y)  # type: ignore[arg-type]
    each = together.predict_proba_each(new)
    assert each.shape == (3, 60, N_CLASSES)
    for number, seed in enumerate(seeds):
        alone = RegionalMLP(**settings, random_state=seed, device="cpu").fit(X, y)  # type: ignore[arg-type]
        np.testing.assert_allclose(each[number], alone.predict_proba(new), atol=1e-4)
        np.testing.assert_allclose(
            together.losses_.class_training[number], alone.losses_.class_training[0], rtol=1e-3, atol=1e-5
        )
    np.testing.assert_allclose(together.predict_proba(new), each.mean(axis=0), atol=1e-7)
    assert (together.predict(new) == each.mean(axis=0).argmax(axis=1)).all()


def test_heads_of_several_losses_share_their_batches() -> None:
    (X, y), (new, _) = blobs(), blobs(60, seed=1)
    heads = [
        RegionalMLP(**preset, region=REGION, hidden=20, epochs=2, batch_size=32, random_state=(1, 2))  # type: ignore[arg-type]
        for preset in PRESETS.values()
    ]
    fit_together(heads, X, y)
    for head in heads:
        alone = clone(head).fit(X, y)
        np.testing.assert_allclose(head.predict_proba_each(new), alone.predict_proba_each(new), atol=1e-4)
        assert (head.validation_ == alone.validation_).mean() > 0.99
    with pytest.raises(ValueError, match="may differ in gamma, rho and random_state alone"):
        fit_together([heads[0], clone(heads[1]).set_params(epochs=3)], X, y)


def test_losses_fall_and_every_image_is_judged_before_it_is_seen() -> None:
    X, y = blobs(300)
    head = RegionalMLP(gamma=0.25, region=REGION, hidden=32, epochs=4, batch_size=32, learning_rate=0.01).fit(X, y)
    losses = head.losses_
    assert losses.class_training.shape == losses.region_validation.shape == (1, 4, 10)
    assert np.isfinite([losses.class_training, losses.region_validation]).all()
    assert losses.class_training[0, -1].mean() < 0.2 * losses.class_training[0, 0].mean()
    assert head.validation_.shape == (1, 300)
    assert (head.validation_[0] == y).mean() > 0.8


class KilledError(Exception):
    """In place of a process that ends."""


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_killed_training_goes_on_from_its_last_epoch_to_the_same_bits(at: int) -> None:
    X, y = blobs()
    kept: list[bytes] = []

    def write(content: bytes, epochs: int) -> None:
        kept.append(content)
        assert epochs == len(kept)
        if len(kept) == at:
            raise KilledError

    head = RegionalMLP(gamma=0.8, rho=0.75, region=REGION, hidden=20, epochs=4, batch_size=32, random_state=(1, 2))
    whole = clone(head).fit(X, y)
    with pytest.raises(KilledError):
        clone(head).fit(X, y, checkpoint=Checkpoint(lambda: None, write))
    epochs: list[int] = []
    resumed = clone(head).fit(X, y, checkpoint=Checkpoint(lambda: kept[-1], lambda _, done: epochs.append(done)))
    assert epochs == list(range(at + 1, 5))
    np.testing.assert_array_equal(resumed.predict_proba_each(X), whole.predict_proba_each(X))
    np.testing.assert_array_equal(resumed.losses_.class_training, whole.losses_.class_training)
    np.testing.assert_array_equal(resumed.validation_, whole.validation_)


@pytest.mark.parametrize("content", [b"", b"damaged", b"\xff" * 40])
def test_a_checkpoint_that_does_not_fit_is_not_taken_up(content: bytes) -> None:
    X, y = blobs()
    head = RegionalMLP(region=REGION, hidden=8, epochs=2, batch_size=64)
    kept: list[bytes] = []
    head.fit(X, y, checkpoint=Checkpoint(lambda: content, lambda given, _: kept.append(given)))
    assert len(kept) == 2
    again: list[bytes] = []
    # Other images: the state of these would be wrong.
    head.fit(X + 1, y, checkpoint=Checkpoint(lambda: kept[-1], lambda given, _: again.append(given)))
    assert len(again) == 2


def test_a_saved_head_is_the_same_head() -> None:
    X, y = blobs()
    prompts = np.random.default_rng(3).normal(size=(N_CLASSES, 16)).astype(np.float32)
    prompts /= np.linalg.norm(prompts, axis=1, keepdims=True)
    head = RegionalMLP(gamma=0.5, region=REGION, prompt_embeddings=prompts, epochs=1, random_state=(7, 8)).fit(X, y)
    assert head.weights_[0].shape == (2, 16 + N_CLASSES, 16 + N_CLASSES)
    again = RegionalMLP.from_bytes(head.to_bytes())
    np.testing.assert_array_equal(again.predict_proba_each(X), head.predict_proba_each(X))
    assert again.get_params()["random_state"] == (7, 8)
    assert again.gamma == 0.5
    with pytest.raises(ValueError, match="not written by placeprint, or damaged"):
        RegionalMLP.from_bytes(head.to_bytes()[:-100])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(head)).predict(X), head.predict(X))  # noqa: S301


def test_the_input_is_the_embedding_and_its_cosines() -> None:
    X, _ = blobs(10)
    prompts = np.eye(3, 16, dtype=np.float32)
    given = with_cosines(X, prompts)
    length = np.linalg.norm(X, axis=1, keepdims=True)
    np.testing.assert_allclose(given[:, :16], X / length, rtol=1e-5)
    np.testing.assert_allclose(given[:, 16:], X[:, :3] / length, rtol=1e-5)
    with pytest.raises(ValueError, match="images have 16 dimensions"):
        with_cosines(X, prompts[:, :8])


def named_of_rare_classes(form: str) -> tuple[np.ndarray, np.ndarray]:
    """Of images of 99 rare classes, the shares that three models take for the one frequent class, and that they have right.

    Half of the images are of the frequent class, and all share a direction, as embeddings of an encoder do.
    """
    n_classes = 100
    y = np.concatenate([np.zeros(1000, dtype=np.int64), np.repeat(np.arange(1, n_classes), 10)])
    generator = np.random.default_rng(5)
    X = generator.normal(size=(n_classes, 32))[y] + generator.normal(size=(len(y), 32)) + 3
    head = RegionalMLP(
        loss_form=form,  # type: ignore[arg-type]
        region=np.arange(n_classes) // 10,
        hidden=64,
        epochs=4,
        batch_size=64,
        random_state=(1, 2, 3),
    ).fit(X.astype(np.float32), y)
    named = head.predict_proba_each(X[y > 0].astype(np.float32)).argmax(-1)
    return (named == 0).mean(axis=1), (named == y[y > 0]).mean(axis=1)


def test_the_studys_loss_collapses_on_unbalanced_data_and_the_plain_one_does_not() -> None:
    # Once the frequent class has all of the probability, the softmax of probabilities gives the others' logits no slope (p_c is a factor
    # of it), and the models stay there: the study's on Geoguessr Min-Limit, "always the USA".
    frequent, right = named_of_rare_classes("double-softmax")
    assert (frequent == 1).all()
    assert (right == 0).all()
    frequent, right = named_of_rare_classes("nll")
    assert (frequent < 0.05).all()
    assert (right > 0.9).all()


def test_wrong_input_is_named() -> None:
    X, y = blobs()
    with pytest.raises(ValueError, match="gamma and rho must be from 0 to 1"):
        RegionalMLP(gamma=1.5).fit(X, y)
    with pytest.raises(ValueError, match="y must be class indices from 0 to 2"):
        RegionalMLP(region=np.arange(3)).fit(X, y)
    with pytest.raises(ValueError, match="10 folds need as many images, got 4"):
        RegionalMLP().fit(X[:4], y[:4])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_models_of_the_cpu() -> None:
    X, y = blobs(600)
    head = RegionalMLP(gamma=0.5, region=REGION, hidden=32, epochs=2, batch_size=32, random_state=(1, 2, 3))
    on_cpu, on_gpu = (clone(head).set_params(device=device).fit(X, y) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu.predict_proba_each(X), on_cpu.predict_proba_each(X), atol=0.02)


@parametrize_with_checks([RegionalMLP(hidden=16, epochs=8, n_folds=2, batch_size=16, learning_rate=0.01)])
def test_is_an_estimator(estimator: RegionalMLP, check: object) -> None:
    check(estimator)  # type: ignore[operator]
