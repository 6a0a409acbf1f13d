"""The image side of a CLIP, with its last projection apart: embeddings, and the pooled features before them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from storage.errors import PlaceprintError
from tasks.encode.lean_open_clip import open_clip

ModifiedResNet = open_clip.modified_resnet.ModifiedResNet
TimmModel = open_clip.timm_model.TimmModel
ResidualAttentionBlock = open_clip.transformer.ResidualAttentionBlock
Transformer, VisionTransformer = open_clip.transformer.Transformer, open_clip.transformer.VisionTransformer


class ImageTower(nn.Module):
    """Pixels in, embeddings (not normalised) and perhaps pooled features out.

    Parameters
    ----------
    model
        An open_clip model. With `features` its projection is taken out of it.

    Raises
    ------
    PlaceprintError
        With `features`, when the model has no projection that can be told apart.
    """

    def __init__(self, model: nn.Module, *, features: bool) -> None:
        super().__init__()
        _keep_pooled_token_alone(model)
        self._model = model
        self._project = _taken_projection(model) if features else None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings (n, d), and features (n, w) or None."""
        found: Tensor = self._model.encode_image(pixels)  # type: ignore[operator]
        return (found, None) if self._project is None else (self._project(found), found)

    def to(self, *args: Any, **kwargs: Any) -> ImageTower:
        """Move or convert the image side alone: texts stay in float32."""
        visual: nn.Module = self._model.visual  # type: ignore[assignment]
        visual.to(*args, **kwargs)
        if isinstance(self._project, nn.Module):
            self._project.to(*args, **kwargs)
        return self


class _LastBlock(nn.Module):
    """The last block of a vision transformer, for its first token alone: nobody reads the others.

    Of a block's products all but keys and values are saved: of ViT-B-32 about 7 % of the work.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = block

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(n, 1, w) of (n, l, w)."""
        block: Any = self._block
        seen = block.ln_1(tokens)
        mask = None if attn_mask is None else attn_mask[..., :1, :]
        attended = block.attn(seen[:, :1], seen, seen, need_weights=False, attn_mask=mask)[0]
        first = tokens[:, :1] + block.ls_1(attended)
        found: Tensor = first + block.ls_2(block.mlp(block.ln_2(first)))
        return found


def _keep_pooled_token_alone(model: nn.Module) -> None:
    """Have the last block of a vision transformer that pools its first token compute nothing else."""
    visual = getattr(model, "visual", None)
    if (
        isinstance(visual, VisionTransformer)
        and visual.pool_type == "tok"
        and visual.attn_pool is None
        and not visual.output_tokens
        and isinstance(visual.transformer, Transformer)
        and visual.transformer.batch_first
        and type(visual.transformer.resblocks[-1]) is ResidualAttentionBlock
    ):
        visual.transformer.resblocks[-1] = _LastBlock(visual.transformer.resblocks[-1])


class _Product(nn.Module):
    def __init__(self, matrix: nn.Parameter) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, pooled: Tensor) -> Tensor:
        return pooled @ self.matrix


def _taken_projection(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Take the last projection out of a model, whose images then end as pooled features; returns the projection."""
    visual = getattr(model, "visual", None)
    if type(model) in (open_clip.CLIP, open_clip.CustomTextCLIP):
        if isinstance(visual, VisionTransformer) and visual.proj is not None:
            projection = _Product(visual.proj)
            visual.proj = None
            return projection
        if isinstance(visual, TimmModel) and len(list(visual.head.children())) > 0:
            head: nn.Module = visual.head
            visual.head = nn.Sequential()
            return head
        if isinstance(visual, ModifiedResNet):
            # The pool reads its weight itself: it is given the identity in place of the projection.
            taken: nn.Linear = visual.attnpool.c_proj
            identity = nn.Linear(taken.in_features, taken.in_features).to(taken.weight.device)
            with torch.no_grad():
                identity.weight.copy_(torch.eye(taken.in_features))
                identity.bias.zero_()
            visual.attnpool.c_proj = identity
            return taken
    raise PlaceprintError(
        f"encode.features: {type(model).__name__} with {type(visual).__name__} has no projection that can be told apart"
    )
