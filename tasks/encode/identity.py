"""What an encoder is: everything that changes its numbers. Known without torch, and without its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

# open_clip's own, where a model does not say (Radford et al. 2021).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CONTEXT_LENGTH = 77
IMAGE_PX = 224

# Whether open_clip is to load weights of parts, which never happens here.
_FLAGS = ("timm_model_pretrained", "hf_model_pretrained")

Origin = Literal["builtin", "hf-hub", "local-dir"]


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to what the image side sees.

    Parameters
    ----------
    size
        Height and width, pixels.
    mean, std
        Of each channel, of values from 0 to 1.
    interpolation
        ``bicubic`` or ``bilinear``.
    resize_mode
        ``shortest`` (then the middle is cropped), ``longest`` (then padded), or ``squash``.
    fill_color
        Of what is padded, 0 to 255.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    @classmethod
    def of(cls, size: int | tuple[int, int] | list[int], said: Mapping[str, Any]) -> Preprocessing:
        """What a tag or a config says, for a model whose images have this size; open_clip's defaults for the rest."""
        height, width = (size, size) if isinstance(size, int) else size
        return cls((int(height), int(width))).changed(said)

    def changed(self, said: Mapping[str, Any]) -> Preprocessing:
        """With all but the size as it is said; what is None is left as it was."""
        names = ("mean", "std", "interpolation", "resize_mode", "fill_color")
        given = {name: said[name] for name in names if said.get(name) is not None}
        for name in ("mean", "std"):
            if name in given:
                values = given[name] if isinstance(given[name], list | tuple) else [given[name]] * 3
                given[name] = tuple(float(value) for value in values)
        return replace(self, **given)

    def __str__(self) -> str:
        how = {
            "shortest": "shorter side resized, middle cropped",
            "longest": "longer side resized, rest padded",
            "squash": "squashed",
        }
        mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        height, width = self.size
        return f"{width} x {height} px, {self.interpolation}, {how.get(self.resize_mode, self.resize_mode)}, mean {mean}, std {std}"


@dataclass(frozen=True)
class Identity:
    """Two encoders with the same identity give the same numbers, but for the last bits that machines round otherwise.

    Parameters
    ----------
    architecture
        Its name in open_clip, or of the file or repository that describes it.
    model_config
        open_clip's config of it: ``embed_dim``, ``vision_cfg``, ``text_cfg`` and so on.
    quick_gelu
        Whether its transformers were trained with QuickGELU, x sigmoid(1.702 x), in place of GELU.
    tokenizer
        As open_clip makes it: its kind, and what it is made with.
    weights
        sha256 of the checkpoint, hex; None where it is not here.
    precision
        ``float32``, ``bfloat16`` or ``float16``, of the image side; texts are always encoded in float32.
    """

    architecture: str
    model_config: Mapping[str, Any]
    quick_gelu: bool
    preprocessing: Preprocessing
    tokenizer: str
    weights: str | None
    precision: str

    @property
    def dimension(self) -> int:
        """Of its embeddings."""
        return int(self.model_config["embed_dim"])

    @property
    def digest(self) -> str:
        """12 hex digits of the sha256 of all but the name: the same model under another name is the same model."""
        content = {**asdict(self), "model_config": plain_config(self.model_config)}
        del content["architecture"]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def as_json(self) -> dict[str, Any]:
        """All of it, as plain JSON values."""
        content: dict[str, Any] = json.loads(json.dumps({**asdict(self), "dimension": self.dimension}))
        return content

    def __str__(self) -> str:
        weights = "not here" if self.weights is None else f"sha256 {self.weights[:12]}…"
        activation = "QuickGELU" if self.quick_gelu else "GELU"
        return (
            f"{self.architecture}, {self.dimension} numbers; weights {weights}; {activation}; {self.preprocessing}; "
            f"tokenizer {self.tokenizer}; {self.precision}"
        )


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model config without what does not change the model, or is said elsewhere in its identity."""
    kept = {name: value for name, value in config.items() if name != "quick_gelu"}
    return {
        name: {key: each for key, each in value.items() if key not in _FLAGS} if isinstance(value, Mapping) else value
        for name, value in kept.items()
    }


def tokenizer_of(name: str, config: Mapping[str, Any], origin: Origin) -> str:
    """The tokenizer that ``open_clip.get_tokenizer`` makes, in words.

    Parameters
    ----------
    name
        Of the model; where no tokenizer is named, open_clip tells SigLIP's by it.
    config
        The model config.
    origin
        Whether the config is open_clip's own, of a hub, or of a folder, which then holds the tokenizer's files too.
    """
    text = config.get("text_cfg", {})
    given = {"context_length": text.get("context_length", CONTEXT_LENGTH), **text.get("tokenizer_kwargs", {})}
    hub_name = text.get("hf_tokenizer_name", "")
    if hub_name:
        if text.get("tokenizer_mode"):
            given["tokenizer_mode"] = text["tokenizer_mode"]
        source = "its folder" if origin == "local-dir" else hub_name
        return f"HFTokenizer({_arguments(source, given)})"
    if origin == "builtin" and "siglip" in name.lower():
        variant = "gemma" if "siglip2" in name.lower() else "mc4" if "i18n" in name.lower() else "c4-en"
        return f"SigLipTokenizer({_arguments(variant, {'context_length': given['context_length']})})"
    return f"SimpleTokenizer({_arguments('', given)})"


def needs_transformers(config: Mapping[str, Any], tokenizer: str) -> bool:
    """Whether the library `transformers` reads its tokenizer, or holds its text side."""
    return not tokenizer.startswith("SimpleTokenizer") or "hf_model_name" in config.get("text_cfg", {})


def _arguments(first: str, named: Mapping[str, Any]) -> str:
    return ", ".join([*([first] if first else []), *(f"{name}={value}" for name, value in named.items())])
