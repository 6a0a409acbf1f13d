"""The case study's head: a small network on embedding ⊕ cosines to the class prompts, with a loss that rewards the right region."""

from __future__ import annotations

import json
import numbers
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from tasks.heads.checkpoint import Checkpoint, tensors_and_metadata
from tasks.heads.presets import LossForm, Precision, RegionScale
from tasks.heads.stacked import (
    Floats,
    Ints,
    Losses,
    Member,
    Trained,
    Training,
    stack_scores,
    train_stack,
)


class RegionalMLP(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Linear layers with ReLU between, trained with `tasks.heads.losses.regional_loss`; all seeds at once.

    Source: the case study's section 5.2 (three layers of 723, Adam at 0.001, 15 epochs of ten segments). The input is the embedding and,
    where `prompt_embeddings` are given, its cosine to each of them.

    Parameters
    ----------
    gamma, rho
        The region's portion of the loss in epoch i = 0, 1, … is γ·ρ^i. ``**PRESETS["L50"]`` of `tasks.heads.losses` gives the study's.
    loss_form, region_scale
        As `regional_loss` has them.
    region
        Class index -> region index, (n_classes,); then `y` must be class indices, and classes that `y` lacks are classes too. None: the
        classes are those of `y`, each a region of its own, so that the loss is plain cross-entropy.
    prompt_embeddings
        One L2-normalised row a class, (n_prompts, d) float32; None: the input is `X` alone.
    hidden
        Width of both hidden layers, or the width of each; None: as wide as the input.
    epochs, n_folds, batch_size, learning_rate
        Each epoch has `n_folds` segments; a segment trains on all folds but one, in order, and then judges that one.
    shuffle_seed
        Of the shuffle before all training; None leaves the order as it is, which must not be sorted by class.
    random_state
        Seed of the first weights, or several: then so many models are trained at once, on the same batches. None is 0.
    device
        ``auto`` (CUDA where there is a GPU), ``cpu``, ``cuda``, …
    precision
        ``bfloat16`` works the products of the training out in it; weights, Adam and judging stay float32.

    Attributes
    ----------
    classes_
        (n_classes,)
    losses_
        `tasks.heads.stacked.Losses` of every segment.
    validation_
        What each model said of each row of `X` in the last epoch, before it learned from it there: class indices, (n_seeds, n).
    """

    def __init__(
        self,
        *,
        gamma: float = 0.0,
        rho: float = 1.0,
        loss_form: LossForm = "nll",
        region_scale: RegionScale = "none",
        region: npt.ArrayLike | None = None,
        prompt_embeddings: Floats | None = None,
        hidden: int | tuple[int, ...] | None = None,
        epochs: int = 15,
        n_folds: int = 10,
        batch_size: int = 261,
        learning_rate: float = 0.001,
        shuffle_seed: int | None = 1234,
        random_state: int | Sequence[int] | None = 0,
        device: str = "auto",
        precision: Precision = "float32",
    ) -> None:
        self.gamma = gamma
        self.rho = rho
        self.loss_form = loss_form
        self.region_scale = region_scale
        self.region = region
        self.prompt_embeddings = prompt_embeddings
        self.hidden = hidden
        self.epochs = epochs
        self.n_folds = n_folds
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.shuffle_seed = shuffle_seed
        self.random_state = random_state
        self.device = device
        self.precision = precision

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, *, checkpoint: Checkpoint | None = None) -> Self:
        """Train the models.

        Parameters
        ----------
        X
            (n, d) float32.
        y
            (n,) labels; class indices where `region` is given.
        checkpoint
            Where the state is kept after each epoch: a training that was killed goes on from there, to the same result.

        Raises
        ------
        ValueError
            On shapes that do not fit, fewer than two classes, fewer images than folds, a portion outside of 0 to 1.
        """
        fit_together([self], X, y, checkpoint=checkpoint)
        return self

    def predict_proba_each(self, X: npt.ArrayLike) -> Floats:
        """Class probabilities of each model, (n_seeds, n, n_classes) float32."""
        check_is_fitted(self, "weights_")
        return stack_scores(self.weights_, self.biases_, self._inputs(self._checked(X)))

    def predict_proba(self, X: npt.ArrayLike) -> Floats:
        """Class probabilities, (n, n_classes) float32: the mean over the models, where there are several."""
        return np.asarray(self.predict_proba_each(X).mean(axis=0))

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """The most probable class, (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[best])

    def to_bytes(self) -> bytes:
        """Weights and settings as a safetensors file."""
        check_is_fitted(self, "weights_")
        settings: dict[str, Any] = {
            name: value
            for name, value in self.get_params().items()
            if name not in ("region", "prompt_embeddings", "device")
        }
        note = {"settings": settings, "classes": self.classes_.tolist(), "n_features": int(self.n_features_in_)}
        tensors = {f"weight.{layer}": each.cpu().contiguous() for layer, each in enumerate(self.weights_)}
        tensors |= {f"bias.{layer}": each.cpu().contiguous() for layer, each in enumerate(self.biases_)}
        if self.region is not None:
            tensors["region"] = torch.from_numpy(np.asarray(self.region, dtype=np.int64))
        if self.prompt_embeddings is not None:
            tensors["prompt_embeddings"] = torch.from_numpy(np.asarray(self.prompt_embeddings, dtype=np.float32))
        return bytes(save(tensors, metadata={"placeprint": json.dumps(note)}))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The head of a safetensors file that `to_bytes` gave; its losses are not in it.

        Raises
        ------
        ValueError
            When the file is damaged, or of another make.
        """
        tensors, note = tensors_and_metadata(content)
        settings: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in note["settings"].items()
        }
        head = cls(
            **settings,
            region=tensors["region"].numpy() if "region" in tensors else None,
            prompt_embeddings=tensors["prompt_embeddings"].numpy() if "prompt_embeddings" in tensors else None,
        )
        n_layers = sum(name.startswith("weight.") for name in tensors)
        head.weights_ = [tensors[f"weight.{layer}"] for layer in range(n_layers)]
        head.biases_ = [tensors[f"bias.{layer}"] for layer in range(n_layers)]
        head.classes_, head.n_features_in_ = np.array(note["classes"]), note["n_features"]
        return head

    def _check(self) -> None:
        if not 0 <= self.gamma <= 1 or not 0 <= self.rho <= 1:
            raise ValueError(f"gamma and rho must be from 0 to 1, got {self.gamma} and {self.rho}")

    def _keep(self, trained: Trained, models: slice, order: Ints) -> None:
        """Take over the models that are this head's; `order` is that of the training."""
        self.weights_ = [each[models].clone() for each in trained.weights]
        self.biases_ = [each[models].clone() for each in trained.biases]
        self.losses_ = Losses(*(getattr(trained.losses, name)[models] for name in Losses.__dataclass_fields__))
        self.validation_ = np.empty_like(trained.validation[models])
        self.validation_[:, order] = trained.validation[models]

    def _prepared(self, X: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Ints, Ints]:
        """Embeddings, class indices, and the region of each class; sets what a fitted head knows of its data."""
        vectors, labels = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(labels)
        target, region = self._target(labels)
        return vectors, target, region

    def _target(self, labels: npt.NDArray[Any]) -> tuple[Ints, Ints]:
        """Class indices of the labels, and the region of each class; sets `classes_`."""
        if self.region is None:
            self.classes_, target = np.unique(labels, return_inverse=True)
            if len(self.classes_) < 2:
                raise ValueError(f"a head needs two classes or more, got {len(self.classes_)} class")
            return target.astype(np.int64), np.arange(len(self.classes_))
        region = np.asarray(self.region, dtype=np.int64)
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= len(region):
            raise ValueError(f"with a region, y must be class indices from 0 to {len(region) - 1}")
        self.classes_ = np.arange(len(region))
        return labels.astype(np.int64), region

    def _checked(self, X: npt.ArrayLike) -> Floats:
        return np.asarray(validate_data(self, X, dtype=np.float32, reset=False))

    def _inputs(self, vectors: Floats) -> Floats:
        """Embeddings, with their cosines to the prompts where there are any."""
        if self.prompt_embeddings is None:
            return vectors
        return with_cosines(vectors, self.prompt_embeddings)

    def _seeds(self) -> list[int]:
        if self.random_state is None:
            return [0]
        given = self.random_state
        return [int(given)] if isinstance(given, numbers.Integral) else [int(each) for each in given]  # type: ignore[union-attr]

    def _training(self, n_inputs: int) -> Training:
        hidden = n_inputs if self.hidden is None else self.hidden
        return Training(
            hidden=(hidden, hidden) if isinstance(hidden, int) else tuple(hidden),
            epochs=self.epochs,
            n_folds=self.n_folds,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            loss_form=self.loss_form,
            region_scale=self.region_scale,
            precision=self.precision,
        )


def fit_together(
    heads: Sequence[RegionalMLP], X: npt.ArrayLike, y: npt.ArrayLike, *, checkpoint: Checkpoint | None = None
) -> None:
    """Fit heads that differ in `gamma`, `rho` and `random_state` alone, all at once: they share every batch.

    The models are those that fitting the heads one by one gives, but for the rounding of sums. Parameters and errors are those of
    `RegionalMLP.fit`.

    Raises
    ------
    ValueError
        Also when the heads differ in anything else.
    """
    first = heads[0]
    for head in heads:
        head._check()
        if not _alike(first, head):
            raise ValueError("heads that are fitted together may differ in gamma, rho and random_state alone")
    raw, target, region = first._prepared(X, y)
    for head in heads[1:]:
        head._prepared(X, y)
    vectors = first._inputs(raw)
    order = np.arange(len(vectors))
    if first.shuffle_seed is not None:
        order = np.random.default_rng(first.shuffle_seed).permutation(len(vectors))
    members = [[Member(seed, head.gamma, head.rho) for seed in head._seeds()] for head in heads]
    trained = train_stack(
        vectors[order],
        target[order],
        region,
        [member for each in members for member in each],
        first._training(vectors.shape[1]),
        device=_device(first.device),
        checkpoint=checkpoint,
    )
    start = 0
    for head, own in zip(heads, members, strict=True):
        head._keep(trained, slice(start, start + len(own)), order)
        start += len(own)


def _alike(first: RegionalMLP, second: RegionalMLP) -> bool:
    """Whether two heads can be trained on the same batches."""
    a, b = (
        {name: value for name, value in head.get_params().items() if name not in ("gamma", "rho", "random_state")}
        for head in (first, second)
    )
    return all(np.array_equal(a[name], b[name]) if _is_array(a[name]) else a[name] == b[name] for name in a)


def _is_array(value: object) -> bool:
    return isinstance(value, (np.ndarray, list))


def with_cosines(vectors: Floats, prompt_embeddings: npt.ArrayLike) -> Floats:
    """L2-normalised embeddings ⊕ their cosines to the prompts, (n, d + n_prompts) float32.

    Raises
    ------
    ValueError
        When images and prompts have different dimensions.
    """
    prompts = np.asarray(prompt_embeddings, dtype=np.float32)
    if prompts.ndim != 2 or prompts.shape[1] != vectors.shape[1]:
        raise ValueError(f"prompt_embeddings has shape {prompts.shape}, images have {vectors.shape[1]} dimensions")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    normalised = vectors / np.where(norms > 0, norms, 1)
    return np.concatenate([normalised, normalised @ prompts.T], axis=1, dtype=np.float32)


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
