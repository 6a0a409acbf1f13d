"""The regional loss and its gradient in closed form, for many models at once: a sixth of autograd's passes over the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.heads.losses import scale_of_regions
from tasks.heads.presets import LossForm, RegionScale


class RegionalGradient:
    """Losses of `tasks.heads.losses.regional_loss`, and their gradient by the logits.

    With p the softmax of the logits, w their softmax within the region of the truth, and 1 the truth as a unit vector:
    ∂CE_class = p − 1 and ∂CE_region = p − w. For the double softmax the same holds of a softmax of the probabilities (and of their sums
    by region), which is then taken through the softmax: ∂z = p ⊙ (g − p·g).

    Parameters
    ----------
    region
        Class index -> region index, (C,) int64; losses and gradients are made on its device.
    """

    def __init__(self, region: Tensor, form: LossForm, region_scale: RegionScale) -> None:
        self._scale = scale_of_regions(region, region_scale)
        self._double = form == "double-softmax"
        names, index = torch.unique(region, return_inverse=True)
        self._index = index
        self._elsewhere = index[:, None] != index[None, :]
        self._one_hot = torch.nn.functional.one_hot(index, len(names)).float()

    def __call__(self, logits: Tensor, target: Tensor, portion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of the sum of the models' losses, (M, n, C), and each model's CE_class and CE_region, (M,).

        Parameters
        ----------
        logits
            (M, n, C) float32.
        target
            (n,) int64.
        portion
            Of the region's loss in each model, (M,).
        """
        n = logits.shape[1]
        of_region = (portion * self._scale)[:, None, None] / n
        of_class = (1 - portion)[:, None, None] / n
        parts = self._double_softmax if self._double else self._nll
        return parts(logits, target, of_class, of_region)

    def _nll(
        self, logits: Tensor, target: Tensor, of_class: Tensor, of_region: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        whole = logits.log_softmax(-1)
        within = logits.masked_fill(self._elsewhere[target], -torch.inf).log_softmax(-1)
        own = target.expand(logits.shape[:2])[..., None]
        class_loss = -whole.gather(-1, own)
        region_loss = class_loss + within.gather(-1, own)
        gradient = whole.exp_().mul_(of_class + of_region)
        gradient.sub_(within.exp_().mul_(of_region))
        gradient.scatter_add_(-1, own, (-of_class).expand(own.shape))
        return gradient, class_loss.mean((1, 2)), self._scale * region_loss.mean((1, 2))

    def _double_softmax(
        self, logits: Tensor, target: Tensor, of_class: Tensor, of_region: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        probability = logits.softmax(-1)
        by_class, class_loss = _cross_entropy(probability, target)
        by_region, region_loss = _cross_entropy(probability @ self._one_hot, self._index[target])
        slope = by_class.mul_(of_class).add_(by_region.mul_(of_region) @ self._one_hot.T)
        gradient = probability * slope
        gradient.sub_(probability * gradient.sum(-1, keepdim=True))
        return gradient, class_loss, self._scale * region_loss


def _cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Its gradient for each image, (M, n, C), and its mean, (M,)."""
    logged = logits.log_softmax(-1)
    own = target.expand(logits.shape[:2])[..., None]
    loss = -logged.gather(-1, own).mean((1, 2))
    gradient = logged.exp_()
    return gradient.scatter_add_(-1, own, torch.full(own.shape, -1.0, device=logits.device)), loss
