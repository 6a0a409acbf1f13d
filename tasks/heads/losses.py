"""Losses of heads: the regional loss of the case study, which gives credit for the right region.

Source: the case study's section 5.3.2. In epoch i = 0, 1, … the loss is ρ^i·γ·CE_region + (1 − ρ^i·γ)·CE_class, where the probability of
a region is the sum of the probabilities of its classes.
"""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor

from tasks.heads.presets import PRESETS, LossForm, RegionScale

__all__ = ["PRESETS", "LossForm", "RegionScale", "loss_parts", "regional_loss", "scale_of_regions"]


def regional_loss(
    logits: Tensor,
    target: Tensor,
    region: Tensor,
    *,
    portion: float | Tensor,
    form: LossForm = "nll",
    region_scale: RegionScale = "none",
) -> Tensor:
    """``portion`` · CE_region + (1 − ``portion``) · CE_class, the mean over the batch.

    Parameters
    ----------
    logits
        (n, C) floats, or (M, n, C) for M models on the same batch.
    target
        Class of each image, (n,) int64.
    region
        Class index -> region index, (C,) int64.
    portion
        ρ^i·γ, from 0 to 1; or one for each model, (M,).
    form
        ``nll``: −log p_class and −log Σ p over the classes of the region, by log-sum-exp. ``double-softmax``: as the study's code
        has it: the probabilities themselves, and their sums by region, are given to a cross-entropy that takes logits. Since they lie
        between 0 and 1, that loss stays between log(1 + (C − 1)/e) and log(C − 1 + e) whatever is learned, and its gradient is small.
    region_scale
        ``log-ratio`` multiplies CE_region by log(C / number of regions), the proposal of the study's appendix F.2.

    Returns
    -------
    Tensor
        A scalar; (M,) for M models.

    Raises
    ------
    ValueError
        On shapes that do not fit, an unknown form or scale, or a portion outside of 0 to 1.

    Examples
    --------
    Two classes of one region and one of another, p = (1/2, 1/4, 1/4), truth the first: CE_class = log 2, CE_region = −log 3/4.

    >>> logits, target = torch.log(torch.tensor([[0.5, 0.25, 0.25]])), torch.tensor([0])
    >>> round(float(regional_loss(logits, target, torch.tensor([0, 0, 1]), portion=0.25)), 6)
    0.591781
    >>> round(0.25 * -math.log(0.75) + 0.75 * math.log(2), 6)
    0.591781
    """
    if isinstance(portion, (int, float)) and not 0 <= portion <= 1:
        raise ValueError(f"portion must be from 0 to 1, got {portion}")
    of_class, of_region = loss_parts(logits, target, region, form=form, region_scale=region_scale)
    return portion * of_region + (1 - portion) * of_class


def loss_parts(
    logits: Tensor, target: Tensor, region: Tensor, *, form: LossForm = "nll", region_scale: RegionScale = "none"
) -> tuple[Tensor, Tensor]:
    """CE_class and CE_region of `regional_loss`, each a scalar, or (M,) for M models."""
    if logits.ndim not in (2, 3) or target.shape != logits.shape[-2:-1] or region.shape != logits.shape[-1:]:
        raise ValueError(
            "logits must be (n, C) or (M, n, C), target (n,) and region (C,); "
            f"got {tuple(logits.shape)}, {tuple(target.shape)} and {tuple(region.shape)}"
        )
    if form not in get_args(LossForm):
        raise ValueError(f"form must be one of {', '.join(get_args(LossForm))}, got {form!r}")
    parts = _double_softmax if form == "double-softmax" else _nll
    of_class, of_region = parts(logits, target, region)
    return of_class, of_region * scale_of_regions(region, region_scale)


def scale_of_regions(region: Tensor, region_scale: RegionScale) -> float:
    """What CE_region is multiplied by."""
    if region_scale not in get_args(RegionScale):
        raise ValueError(f"region_scale must be one of {', '.join(get_args(RegionScale))}, got {region_scale!r}")
    return 1.0 if region_scale == "none" else math.log(len(region) / len(torch.unique(region)))


def _nll(logits: Tensor, target: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    whole = logits.logsumexp(-1)
    own = _at(logits, target)
    elsewhere = region[None, :] != region[target][:, None]
    of_region = logits.masked_fill(elsewhere, -torch.inf).logsumexp(-1)
    return (whole - own).mean(-1), (whole - of_region).mean(-1)


def _double_softmax(logits: Tensor, target: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    probability = logits.softmax(-1)
    names, index = torch.unique(region, return_inverse=True)
    by_region = torch.zeros(*probability.shape[:-1], len(names), dtype=probability.dtype, device=probability.device)
    by_region = by_region.index_add(-1, index, probability)
    return _cross_entropy(probability, target), _cross_entropy(by_region, index[target])


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.logsumexp(-1) - _at(logits, target)).mean(-1)


def _at(logits: Tensor, target: Tensor) -> Tensor:
    """The logit of each image's own class, (n,) or (M, n)."""
    return logits.gather(-1, target.expand(logits.shape[:-1])[..., None])[..., 0]
