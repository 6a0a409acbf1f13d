"""A loaded CLIP: images and texts in, L2-normalised float32 vectors out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pickle import UnpicklingError  # nosec B403

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from storage.errors import PlaceprintError
from storage.s3_path import StorePath
from tasks.encode.loader import Loader, Picture, Prepare
from tasks.encode.overlays import Rectangle, blank
from tasks.encode.pixels import PixelTransform
from tasks.encode.tower import ImageTower
from tasks.encode.weights import EncoderSettings, Weights, find_weights
from tasks.images import decode_rgb

Vectors = npt.NDArray[np.float32]

# What open_clip, torch and safetensors raise for a checkpoint that is damaged, of another model, or not only tensors.
_LOADING_ERRORS = (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, SafetensorError)


class Encoder:
    """An open_clip model in evaluation mode, with its own preprocessing and tokenizer."""

    def __init__(
        self, weights: Weights, device: str, precision: str = "auto", *, features: bool = False, compiled: bool = False
    ) -> None:
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
        self.device = device
        self.encoder_id = weights.encoder_id
        self.precision = _precision(precision, device)
        # One batch at a time: two shards may be under way on one device.
        self.lock = threading.Lock()
        # open_clip returns models in training mode, where batch normalisation depends on the batch.
        self._model: torch.nn.Module = model.eval()
        self._tower = ImageTower(self._model, features=features)
        self._dtype = getattr(torch, self.precision)
        if device == "cpu":
            # Lower precision in autocast is slower on a CPU than float32; weights of that type are not.
            self._tower.to(self._dtype)
        else:
            # As the pixels come: convolutions need not turn them.
            self._tower.to(memory_format=torch.channels_last)
        self._encode = torch.compile(self._tower) if compiled else self._tower
        self._preprocess: Callable[[Image.Image], Tensor] = preprocess
        self._tokenize: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(name)
        transform = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
        height, width = (transform.size,) * 2 if isinstance(transform.size, int) else transform.size
        self.image_px = (height, width)
        self.pixel_transform = PixelTransform.like(transform)
        # Of values from 0 to 255.
        self._mean, self._std = (
            (torch.tensor(values, device=device) * 255).view(1, 3, 1, 1) for values in (transform.mean, transform.std)
        )
        embedding, pooled = self.encode_pixels(torch.zeros((1, height, width, 3), dtype=torch.uint8))
        self.dimension = embedding.shape[1]
        self.n_features = 0 if pooled is None else pooled.shape[1]

    def prepare(self, *, exact: bool) -> Prepare:
        """What makes pixels of a file: open_clip's own transform if `exact`, or if the encoder's is not known here."""
        transform = self.pixel_transform
        if exact or transform is None:
            return self._exact_pixels
        return lambda data, overlay: torch.from_numpy(np.ascontiguousarray(transform(data, overlay)))

    @torch.inference_mode()
    def encode_pixels(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings (n, d), L2-normalised, and features (n, w) if they were asked for: float32, on the device.

        Parameters
        ----------
        pixels
            A batch of what `prepare` makes, stacked.
        """
        pixels = pixels.to(self.device, non_blocking=True)
        if pixels.dtype == torch.uint8:
            pixels = pixels.permute(0, 3, 1, 2).float().sub_(self._mean).div_(self._std)
        if self.device == "cpu":
            projected, pooled = self._encode(pixels.to(self._dtype))
        else:
            with torch.autocast(
                torch.device(self.device).type, dtype=self._dtype, enabled=self._dtype != torch.float32
            ):
                projected, pooled = self._encode(pixels)
        return normalize(projected.float(), dim=-1), None if pooled is None else pooled.float()

    def encode_images(
        self, paths: Sequence[StorePath], batch_size: int = 64, overlays: Sequence[Sequence[Rectangle]] | None = None
    ) -> Vectors:
        """Image embeddings in the order of `paths`, (n, d) float32, L2-normalised, with open_clip's own transform.

        `overlays` holds for each path the parts that are blanked before anything else is done; None blanks nothing.

        Raises
        ------
        ImageError
            When one cannot be read.
        """
        given = [()] * len(paths) if overlays is None else overlays
        pictures = [Picture(path, overlay) for path, overlay in zip(paths, given, strict=True)]
        with Loader(pictures, self.prepare(exact=True), batch_size=batch_size, n_threads=2) as loader:
            vectors = []
            for batch in loader:
                for error in batch.errors.values():
                    raise error
                if batch.pixels is not None:
                    vectors.append(self.encode_pixels(batch.pixels)[0].cpu())
        return np.asarray(torch.cat(vectors).numpy(), dtype=np.float32)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 256) -> Vectors:
        """Text embeddings, (n, d) float32, L2-normalised; always computed in float32."""
        if not texts:  # no labels, no prompts: the width of the table still comes from the model
            return self.encode_texts([""])[:0]
        vectors = [
            self._model.encode_text(self._tokenize(list(texts[start : start + batch_size])).to(self.device))  # type: ignore[operator]
            for start in range(0, len(texts), batch_size)
        ]
        return np.asarray(normalize(torch.cat(vectors).float(), dim=-1).cpu().numpy(), dtype=np.float32)

    def _exact_pixels(self, data: bytes, overlay: Sequence[Rectangle]) -> Tensor:
        image = decode_rgb(data)[0]
        return self._preprocess(blank(image, overlay) if overlay else image)


@lru_cache(maxsize=2)
def load_encoder(settings: EncoderSettings, device: str | None = None, *, features: bool = False) -> Encoder:
    """Load the encoder that settings name; the last two stay in memory.

    Parameters
    ----------
    device
        Where; None for the first of those that the settings name.

    Raises
    ------
    PlaceprintError
        When weights are missing or do not fit the model, or the device does not exist.
    """
    device = devices(settings)[0] if device is None else device
    return Encoder(find_weights(settings), device, settings.precision, features=features, compiled=settings.compiled)


def devices(settings: EncoderSettings) -> tuple[str, ...]:
    """The devices that settings name: with ``auto`` every GPU, or else the CPU.

    Raises
    ------
    PlaceprintError
        When one is not there.
    """
    if settings.device == "auto":
        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count())) or ("cpu",)
    wanted = tuple(name.strip() for name in settings.device.split(","))
    for name in wanted:
        try:
            torch.empty(1, device=name)
        except (RuntimeError, AssertionError) as error:
            raise PlaceprintError(
                f"encode.encoder.device: {name!r} is not there: {str(error).splitlines()[0]}"
            ) from error
    return wanted


def _precision(wanted: str, device: str) -> str:
    if wanted != "auto":
        if wanted == "float16" and device == "cpu":
            raise PlaceprintError("encode.encoder.precision: float16 is for GPUs: use bfloat16 or float32 on a CPU")
        return wanted
    return "float32" if device == "cpu" else "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _full_name(weights: Weights) -> str:
    return f"local-dir:{weights.file.parent}" if weights.model.startswith("local-dir:") else weights.model
