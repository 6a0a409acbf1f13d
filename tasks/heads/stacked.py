"""Many small networks trained at once on the same images: stacked weights, batched matrix products, one Adam.

A head is far too small to fill a processor. Models that differ in seed and loss share every batch, so that their products are one
call, and the gradients are worked out by hand: autograd would go over the logits six times as often.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tasks.heads.checkpoint import Checkpoint
from tasks.heads.losses import loss_parts
from tasks.heads.presets import LossForm, Precision, RegionScale
from tasks.heads.regional_gradient import RegionalGradient

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

# Products of matrices whose widths are multiples of this are a quarter faster than of 723 (MKL, AVX2).
_WIDTH = 16


@dataclass(frozen=True)
class Member:
    """One model of a stack: the seed of its first weights, and its loss (portion γ·ρ^i of the region's in epoch i)."""

    seed: int
    gamma: float
    rho: float


@dataclass(frozen=True)
class Training:
    """How the models of a stack are trained; the same for all."""

    hidden: tuple[int, ...]
    epochs: int
    n_folds: int
    batch_size: int
    learning_rate: float
    loss_form: LossForm
    region_scale: RegionScale
    precision: Precision


@dataclass(frozen=True)
class Losses:
    """Mean losses of every segment, (M, epochs, n_folds) float32 each, in training and on the fold that is left out."""

    class_training: Floats
    region_training: Floats
    class_validation: Floats
    region_validation: Floats


@dataclass(frozen=True)
class Trained:
    """Trained models, their losses, and what each said of every training image in the last epoch before it learned from it.

    `weights` are (M, outputs, inputs) and `biases` (M, outputs), layer by layer; `validation` is (M, n) class indices.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    losses: Losses
    validation: Ints


def train_stack(
    vectors: Floats,
    target: Ints,
    region: Ints,
    members: Sequence[Member],
    training: Training,
    *,
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train all members on the same images in the same order.

    Each epoch goes through ``n_folds`` segments: with the images cut into contiguous folds, a segment trains on all but one, in
    order, and then judges that one. Models carry on from segment to segment, as in the case study (its section 5.3).

    Parameters
    ----------
    vectors
        (n, d) float32, shuffled once by the caller: folds are contiguous.
    target
        Class indices, (n,).
    region
        Class index -> region index, (C,).
    device
        As torch names it. On CUDA the step is captured as a graph.
    checkpoint
        Where to keep the state after each epoch, and to go on from.

    Raises
    ------
    ValueError
        When there are fewer images than folds.
    """
    if len(vectors) < training.n_folds:
        raise ValueError(f"{training.n_folds} folds need as many images, got {len(vectors)}")
    stack = _Stack(vectors, target, region, members, training, device)
    first = 0
    if checkpoint is not None:
        origin = _origin(vectors, target, region, members, training)
        first = checkpoint.restore(origin, stack.state())
    for epoch in range(first, training.epochs):
        stack.train_epoch(epoch)
        if checkpoint is not None:
            checkpoint.keep(origin, epoch + 1, stack.state())
    return stack.trained()


def stack_scores(weights: Sequence[Tensor], biases: Sequence[Tensor], vectors: Floats) -> Floats:
    """Class probabilities of every model, (M, n, C) float32, for (n, d) float32 vectors."""
    with torch.inference_mode():
        device = weights[0].device
        parts = [
            _forward(weights, biases, torch.from_numpy(chunk).to(device))[-1].softmax(-1).cpu()
            for chunk in np.array_split(np.ascontiguousarray(vectors), max(1, math.ceil(len(vectors) / 1024)))
        ]
        return np.asarray(torch.cat(parts, dim=1).numpy())


def _origin(
    vectors: Floats, target: Ints, region: Ints, members: Sequence[Member], training: Training
) -> dict[str, Any]:
    """Everything that a training follows from: a hash of its images, its members and its settings."""
    digest = hashlib.blake2b(digest_size=16)
    for array in (vectors, target, region):
        digest.update(str((array.shape, array.dtype)).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    settings = {**asdict(training), "hidden": list(training.hidden)}
    return {"images": digest.hexdigest(), "members": [asdict(each) for each in members], "training": settings}


class _Stack:
    """Weights, Adam's moments and losses of a training under way."""

    def __init__(
        self,
        vectors: Floats,
        target: Ints,
        region: Ints,
        members: Sequence[Member],
        training: Training,
        device: str,
    ) -> None:
        self._training, self._members = training, members
        self._device = torch.device(device)
        self._sizes = [vectors.shape[1], *training.hidden, len(region)]
        self._vectors = _widened(vectors).to(self._device)
        self._target = torch.from_numpy(np.ascontiguousarray(target)).to(self._device)
        self._region = torch.from_numpy(np.ascontiguousarray(region)).to(self._device)
        self._gradient = RegionalGradient(self._region, training.loss_form, training.region_scale)
        self._weights, self._biases = _first_parameters(self._sizes, [each.seed for each in members], self._device)
        for each in (*self._weights, *self._biases):
            each.grad = torch.zeros_like(each)
        on_gpu = self._device.type == "cuda"
        self._adam = torch.optim.Adam(
            [*self._weights, *self._biases], lr=training.learning_rate, fused=True, capturable=on_gpu
        )
        self._portion = torch.zeros(len(members), device=self._device)
        self._losses = torch.full((4, len(members), training.epochs, training.n_folds), torch.nan)
        self._validation = torch.zeros((len(members), len(vectors)), dtype=torch.int64)
        self._step = _GraphedStep(self._train_batch, training.batch_size) if on_gpu else self._train_batch

    def train_epoch(self, epoch: int) -> None:
        portion = [each.gamma * each.rho**epoch for each in self._members]
        self._portion.copy_(torch.tensor(portion))
        n, n_folds = len(self._vectors), self._training.n_folds
        for fold, left_out in enumerate(np.array_split(np.arange(n), n_folds)):
            rows = torch.cat([torch.arange(int(left_out[0])), torch.arange(int(left_out[-1]) + 1, n)])
            self._losses[:2, :, epoch, fold] = self._train(rows.to(self._device))
            self._losses[2:, :, epoch, fold] = self._judge(int(left_out[0]), int(left_out[-1]) + 1)

    def _train(self, rows: Tensor) -> Tensor:
        """One segment; the mean of CE_class and CE_region over its images, (2, M)."""
        total = torch.zeros((2, len(self._members)), device=self._device)
        for batch in torch.split(rows, self._training.batch_size):
            losses = self._step(self._vectors[batch], self._target[batch])
            total += losses * len(batch)
        return total.cpu() / len(rows)

    def _train_batch(self, vectors: Tensor, target: Tensor) -> Tensor:
        """One step of Adam; the losses before it, (2, M)."""
        with torch.no_grad():
            weights, biases = self._working_copies()
            *inputs, logits = _forward(weights, biases, vectors.to(weights[0].dtype))
            slope, *losses = self._gradient(logits.float(), target, self._portion)
            _backward(weights, inputs, slope.to(weights[0].dtype), self._weights, self._biases)
            self._adam.step()
            return torch.stack(losses)

    def _working_copies(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters in the type that products are worked out in; Adam always has float32."""
        if self._training.precision == "float32":
            return self._weights, self._biases
        return [each.bfloat16() for each in self._weights], [each.bfloat16() for each in self._biases]

    def _judge(self, start: int, stop: int) -> Tensor:
        """Losses on a fold, (2, M); what each model says of its images is kept."""
        total = torch.zeros((2, len(self._members)), device=self._device)
        with torch.no_grad():
            for first in range(start, stop, self._training.batch_size):
                rows = slice(first, min(first + self._training.batch_size, stop))
                target = self._target[rows]
                logits = _forward(self._weights, self._biases, self._vectors[rows])[-1]
                parts = loss_parts(
                    logits,
                    target,
                    self._region,
                    form=self._training.loss_form,
                    region_scale=self._training.region_scale,
                )
                total += torch.stack(parts) * len(target)
                self._validation[:, rows] = logits.argmax(-1).cpu()
        return total.cpu() / (stop - start)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next epoch follows from, by name; the tensors themselves."""
        parameters = [*self._weights, *self._biases]
        if not self._adam.state:
            # Adam makes its moments at its first step; a step without a slope makes them and changes nothing.
            self._adam.step()
            for each in parameters:
                self._adam.state[each]["step"].zero_()
        state = {"losses": self._losses, "validation": self._validation}
        for number, each in enumerate(parameters):
            state[f"parameter.{number}"] = each.data
            state |= {f"adam.{number}.{name}": kept for name, kept in self._adam.state[each].items()}
        return state

    def trained(self) -> Trained:
        losses = [np.asarray(each.numpy()) for each in self._losses]
        layers = list(pairwise(self._sizes))
        return Trained(
            [
                each[:, :outputs, :inputs].contiguous()
                for each, (inputs, outputs) in zip(self._weights, layers, strict=True)
            ],
            [each[:, :outputs].contiguous() for each, (_, outputs) in zip(self._biases, layers, strict=True)],
            Losses(*losses),
            np.asarray(self._validation.numpy()),
        )


def _first_parameters(
    sizes: Sequence[int], seeds: Sequence[int], device: torch.device
) -> tuple[list[Tensor], list[Tensor]]:
    """Weights (M, outputs, inputs) and biases (M, outputs), drawn as ``torch.nn.Linear`` draws them after ``manual_seed``.

    Inputs and hidden layers are widened with zeros, which stay zeros: a unit that is 0 has no slope through ReLU.
    """
    n_layers = len(sizes) - 1
    wide = [*map(_wide, sizes[:-1]), sizes[-1]]
    weights = [torch.zeros(len(seeds), outputs, inputs) for inputs, outputs in pairwise(wide)]
    biases = [torch.zeros(len(seeds), outputs) for outputs in wide[1:]]
    for model, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for layer in range(n_layers):
            inputs, outputs = sizes[layer : layer + 2]
            bound = 1 / math.sqrt(inputs)
            drawn = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
            weights[layer][model, :outputs, :inputs] = drawn
            biases[layer][model, :outputs] = torch.empty(outputs).uniform_(-bound, bound, generator=generator)
    return [each.to(device) for each in weights], [each.to(device) for each in biases]


def _wide(n: int) -> int:
    """The next width at which products are fast."""
    return -(-n // _WIDTH) * _WIDTH


def _widened(vectors: Floats) -> Tensor:
    """With columns of zeros: what they are multiplied by is 0 at first, and has no slope."""
    wide = torch.zeros(len(vectors), _wide(vectors.shape[1]))
    wide[:, : vectors.shape[1]] = torch.from_numpy(np.ascontiguousarray(vectors))
    return wide


def _forward(weights: Sequence[Tensor], biases: Sequence[Tensor], vectors: Tensor) -> list[Tensor]:
    """The input of every layer and, last, the logits: (n, d), then (M, n, outputs) each."""
    values = [vectors]
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        values.append(torch.baddbmm(bias[:, None], _of_each(values[-1], len(weight)), weight.transpose(1, 2)))
        if layer < len(weights) - 1:
            values[-1].relu_()
    return values


def _backward(
    weights: Sequence[Tensor],
    inputs: Sequence[Tensor],
    slope: Tensor,
    parameters: Sequence[Tensor],
    bias_parameters: Sequence[Tensor],
) -> None:
    """Write the gradients of all parameters, given the gradient `slope` by the logits."""
    for layer in range(len(weights) - 1, -1, -1):
        value = _of_each(inputs[layer], len(slope))
        into, into_bias = parameters[layer].grad, bias_parameters[layer].grad
        if into is None or into_bias is None:
            raise ValueError("parameters have no place for their gradients")
        if into.dtype == slope.dtype:
            torch.bmm(slope.transpose(1, 2), value, out=into)
        else:
            into.copy_(torch.bmm(slope.transpose(1, 2), value))
        into_bias.copy_(slope.sum(1))
        if layer:
            slope = torch.ops.aten.threshold_backward(torch.bmm(slope, weights[layer]), inputs[layer], 0)


def _of_each(vectors: Tensor, n_models: int) -> Tensor:
    """What a layer's product takes: the images are the same for all models."""
    return vectors.expand(n_models, -1, -1) if vectors.ndim == 2 else vectors


class _GraphedStep:
    """A step that is captured as a CUDA graph for full batches: its launches would take longer than its work."""

    def __init__(self, step: Callable[[Tensor, Tensor], Tensor], batch_size: int) -> None:
        self._step, self._batch_size = step, batch_size
        self._graph: torch.cuda.CUDAGraph | None = None
        self._n_before = 0
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._losses: Tensor | None = None

    def __call__(self, vectors: Tensor, target: Tensor) -> Tensor:
        if len(vectors) != self._batch_size:
            return self._step(vectors, target)
        if self._n_before < 3:  # libraries set themselves up in the first calls, which cannot be captured
            self._n_before += 1
            return self._step(vectors, target)
        if self._inputs is None:
            self._inputs = (vectors.clone(), target.clone())
        for kept, given in zip(self._inputs, (vectors, target), strict=True):
            kept.copy_(given)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._losses = self._step(*self._inputs)
        self._graph.replay()
        return self._losses.clone() if self._losses is not None else torch.empty(0)
