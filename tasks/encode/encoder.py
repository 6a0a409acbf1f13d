"""A loaded CLIP: images and texts in, L2-normalised float32 vectors out."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pickle import UnpicklingError  # nosec B403
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from storage.errors import PlaceprintError
from storage.s3_path import StorePath
from storage.schemas import RejectReason
from tasks.encode.identity import CONTEXT_LENGTH, Preprocessing
from tasks.encode.lean_open_clip import open_clip
from tasks.encode.loader import Loader, Picture, Prepare
from tasks.encode.overlays import Rectangle, blank
from tasks.encode.pixels import PixelTransform, middle_window
from tasks.encode.precision import choose_precision
from tasks.encode.tower import ImageTower
from tasks.encode.transformers_clip import convert_state, load_state
from tasks.encode.weights import EncoderSettings, Weights, find_weights
from tasks.images import ImageError, decode_rgb

Vectors = npt.NDArray[np.float32]

# What open_clip, torch and safetensors raise for a checkpoint that is damaged, of another model, or not only tensors.
_LOADING_ERRORS = (OSError, TypeError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, SafetensorError)
# How much of what they say is passed on.
_N_LINES, _N_CHARACTERS = 3, 400
# Rows of a pass on a CPU. Every pass has the same shape, the last one is padded: so the bits of a row do not depend on which
# rows come with it, or on how many, and an image that is added to others gets the vector that it would have had from the start.
CPU_ROWS = 16
# Likewise of texts.
TEXT_ROWS = 32


class Encoder:
    """An open_clip model in evaluation mode, with its own preprocessing and tokenizer.

    Raises
    ------
    PlaceprintError
        When the weights do not load, or what loads is not what `weights` says it is.
    """

    def __init__(
        self, weights: Weights, device: str, precision: str = "auto", *, features: bool = False, compiled: bool = False
    ) -> None:
        model, self._tokenize = load_reference(weights, device)
        transform = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
        self.device = device
        self.precision = choose_precision(precision, device)
        self.identity = replace(weights.identity, precision=self.precision)
        self.encoder_id = f"{weights.model}@{self.identity.digest}"
        # One batch at a time: two shards may be under way on one device.
        self.lock = threading.Lock()
        self._model = model
        self._tower = ImageTower(self._model, features=features)
        self._dtype = getattr(torch, self.precision)
        if device == "cpu":
            # Lower precision in autocast is slower on a CPU than float32; weights of that type are not.
            self._tower.to(self._dtype)
        else:
            # As the pixels come: convolutions need not turn them.
            self._tower.to(memory_format=torch.channels_last)
        self._encode = torch.compile(self._tower) if compiled else self._tower
        self._preprocess: Callable[[Image.Image], Tensor] = open_clip.transform.image_transform_v2(
            transform, is_train=False
        )
        height, width = self.image_px = weights.identity.preprocessing.size
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
            A batch of what `prepare` makes, stacked. On a CPU it is encoded in passes of `CPU_ROWS`, elsewhere in one.
        """
        rows = CPU_ROWS if self.device == "cpu" else len(pixels)
        passes = [self._pass(padded(part, rows), len(part)) for part in torch.split(pixels, rows)]
        embeddings = torch.cat([embedding for embedding, _ in passes])
        features = [pooled for _, pooled in passes if pooled is not None]
        return embeddings, torch.cat(features) if features else None

    def _pass(self, pixels: Tensor, n: int) -> tuple[Tensor, Tensor | None]:
        """Of the first n rows."""
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
        return normalize(projected[:n].float(), dim=-1), None if pooled is None else pooled[:n].float()

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
    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Text embeddings, (n, d) float32, L2-normalised; always computed in float32."""
        # No labels, no prompts: the width of the table still comes from the model.
        wanted = list(texts) or [""]
        vectors = []
        for start in range(0, len(wanted), TEXT_ROWS):
            part = wanted[start : start + TEXT_ROWS]
            tokens = self._tokenize(part + [""] * (TEXT_ROWS - len(part))).to(self.device)
            vectors.append(normalize(self._model.encode_text(tokens).float(), dim=-1)[: len(part)])  # type: ignore[operator]
        return np.asarray(torch.cat(vectors)[: len(texts)].cpu().numpy(), dtype=np.float32)

    @property
    def context_length(self) -> int:
        """Tokens that are read of a text, its start and end included."""
        return int(self._tokenize.context_length)  # type: ignore[attr-defined]

    def n_tokens(self, text: str) -> int:
        """Tokens of a text, its start and end included, before it is cut."""
        tokenize: Any = self._tokenize
        if isinstance(tokenize, open_clip.tokenizer.SimpleTokenizer):
            return len(tokenize.encode(text)) + 2
        clean = getattr(tokenize, "clean_fn", str)
        return len(tokenize.tokenizer(clean(text))["input_ids"])

    def _exact_pixels(self, data: bytes, overlay: Sequence[Rectangle]) -> Tensor:
        image = decode_rgb(data)[0]
        image = blank(image, overlay) if overlay else image
        if self.identity.preprocessing.resize_mode == "shortest":
            image = middle_window(image)
        try:
            return self._preprocess(image)
        except (OSError, ValueError, RuntimeError, MemoryError, ZeroDivisionError) as error:
            raise ImageError(RejectReason.UNREADABLE, f"open_clip's transform: {error}") from None


def padded(pixels: Tensor, rows: int) -> Tensor:
    """With rows of zeros after it, so that there are `rows`."""
    n = len(pixels)
    return pixels if n >= rows else torch.cat([pixels, pixels.new_zeros((rows - n, *pixels.shape[1:]))])


def load_reference(weights: Weights, device: str = "cpu") -> tuple[torch.nn.Module, Callable[[list[str]], Tensor]]:
    """The model, in evaluation mode and float32, and its tokenizer, through open_clip's own entry points.

    Raises
    ------
    PlaceprintError
        When the weights are damaged or of another model, the tokenizer cannot be had, or what was loaded is not what the
        identity of the weights says.
    """
    if weights.config is not None:
        open_clip.add_model_config(weights.config)
    try:
        with warnings.catch_warnings():
            # open_clip looks at the model's own setting, not at the one that it is given and that wins.
            warnings.filterwarnings("ignore", message="QuickGELU mismatch")
            if weights.transformers is not None:
                model, tokenize = _of_transformers(weights, device)
            else:
                model = open_clip.create_model(
                    weights.name,
                    pretrained=weights.pretrained,
                    require_pretrained=True,
                    weights_only=True,
                    device=device,
                    quick_gelu=weights.identity.quick_gelu,
                    force_preprocess_cfg=dict(weights.overrides),
                )
                tokenize = open_clip.get_tokenizer(weights.name)
    except _LOADING_ERRORS as error:
        # torch names the tensors in the lines below the first; of a checkpoint with code it advises to run it, which is left out.
        lines = [line.strip() for line in str(error).splitlines() if "weights_only" not in line]
        cause = " ".join(lines[:_N_LINES])[:_N_CHARACTERS] or type(error).__name__
        raise PlaceprintError(f"encode.encoder: {weights.file} does not load as {weights.model}: {cause}") from error
    _check_identity(weights, model, tokenize)
    # open_clip returns models in training mode, where batch normalisation depends on the batch.
    return model.eval(), tokenize


def _of_transformers(weights: Weights, device: str) -> tuple[torch.nn.Module, Callable[[list[str]], Tensor]]:
    identity = weights.identity
    model = open_clip.CLIP(**identity.model_config, quick_gelu=identity.quick_gelu)
    model.load_state_dict(convert_state(load_state(weights.files)))
    open_clip.model.set_model_preprocess_cfg(model, asdict(identity.preprocessing))
    length = identity.model_config["text_cfg"].get("context_length", CONTEXT_LENGTH)
    return model.to(device), open_clip.tokenizer.SimpleTokenizer(context_length=length)


def _check_identity(weights: Weights, model: torch.nn.Module, tokenize: object) -> None:
    said, transform = weights.identity, open_clip.get_model_preprocess_cfg(model)
    built = Preprocessing.of(transform["size"], transform)
    if built != said.preprocessing:
        raise PlaceprintError(
            f"encode.encoder: {weights.model} was loaded with {built}, and not with {said.preprocessing}"
        )
    is_quick = has_quick_gelu(model)
    if is_quick is not None and is_quick != said.quick_gelu:
        raise PlaceprintError(
            f"encode.encoder: {weights.model} was loaded with another activation than its weights want"
        )
    kind = said.tokenizer.partition("(")[0]
    if type(tokenize).__name__ != kind:
        raise PlaceprintError(
            f"encode.encoder: {weights.model} was loaded with a {type(tokenize).__name__}, and not with a {kind}"
        )


def has_quick_gelu(model: torch.nn.Module) -> bool | None:
    """Whether open_clip's own transformers in a model use QuickGELU; None where there are none."""
    blocks = [module for module in model.modules() if isinstance(module, open_clip.transformer.ResidualAttentionBlock)]
    if not blocks:
        return None
    return any(isinstance(module, open_clip.transformer.QuickGELU) for block in blocks for module in block.modules())


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
