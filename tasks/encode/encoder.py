"""A loaded CLIP: images and texts in, L2-normalised float32 vectors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from storage.errors import PlaceprintError
from tasks.encode.overlays import Rectangle, blank
from tasks.encode.weights import EncoderSettings, Weights, find_weights
from tasks.images import open_rgb

Vectors = npt.NDArray[np.float32]

# What open_clip, torch and safetensors raise for a checkpoint that is damaged, of another model, or not only tensors.
_LOADING_ERRORS = (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, SafetensorError)


class Encoder:
    """An open_clip model in evaluation mode, with its own preprocessing and tokenizer."""

    def __init__(self, weights: Weights, device: str) -> None:
        if weights.config is not None:
            open_clip.add_model_config(weights.config)
        # open_clip finds the weights of these two by the name alone.
        by_name = weights.checkpoint is None
        name = weights.model if weights.config or not by_name else _full_name(weights)
        try:
            model, _, preprocess = open_clip.create_model_and_transforms(
                name,
                pretrained=None if by_name else str(weights.checkpoint),
                require_pretrained=True,
                weights_only=True,
                device=device,
            )
        except _LOADING_ERRORS as error:
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            raise PlaceprintError(
                f"encode.encoder: {weights.file} does not load as {weights.model}: {cause}"
            ) from error
        # open_clip returns models in training mode, where batch normalisation depends on the batch.
        self._model: torch.nn.Module = model.eval()
        self._preprocess: Callable[[Image.Image], Tensor] = preprocess
        self._tokenize: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(name)
        self.device = device
        self.encoder_id = weights.encoder_id

    def encode_images(
        self, paths: Sequence[Path], batch_size: int, overlays: Sequence[Sequence[Rectangle]] | None = None
    ) -> Vectors:
        """Image embeddings in the order of `paths`, (n, d) float32, L2-normalised.

        `overlays` holds for each path the parts that are blanked before anything else is done; None blanks nothing.
        """
        images = list(zip(paths, [()] * len(paths) if overlays is None else overlays, strict=True))
        with ThreadPoolExecutor() as pool:
            return np.concatenate(
                [
                    self._image_vectors(torch.stack(list(pool.map(self._pixels, images[start : start + batch_size]))))
                    for start in range(0, len(images), batch_size)
                ]
            )

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Vectors:
        """Text embeddings, (n, d) float32, L2-normalised."""
        if not texts:  # no labels, no prompts: the width of the table still comes from the model
            return self.encode_texts([""])[:0]
        vectors = [
            self._model.encode_text(self._tokenize(list(texts[start : start + batch_size])).to(self.device))  # type: ignore[operator]
            for start in range(0, len(texts), batch_size)
        ]
        return _normalised(torch.cat(vectors))

    def _pixels(self, path_and_overlay: tuple[Path, Sequence[Rectangle]]) -> Tensor:
        path, overlay = path_and_overlay
        image = open_rgb(path)
        return self._preprocess(blank(image, overlay) if overlay else image)

    @torch.inference_mode()
    def _image_vectors(self, pixels: Tensor) -> Vectors:
        return _normalised(self._model.encode_image(pixels.to(self.device)))  # type: ignore[operator]


@lru_cache(maxsize=2)
def load_encoder(settings: EncoderSettings) -> Encoder:
    """Load the encoder that settings name; the last two stay in memory.

    Raises
    ------
    PlaceprintError
        When weights are missing or do not fit the model, or the device does not exist.
    """
    return Encoder(find_weights(settings), _device(settings.device))


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise PlaceprintError(
            f"encode.encoder.device: {wanted!r} is not there: {str(error).splitlines()[0]}"
        ) from error
    return wanted


def _full_name(weights: Weights) -> str:
    return f"local-dir:{weights.file.parent}" if weights.model.startswith("local-dir:") else weights.model


def _normalised(vectors: Tensor) -> Vectors:
    return np.asarray(torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy(), dtype=np.float32)
