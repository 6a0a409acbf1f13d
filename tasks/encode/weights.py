"""Where the weights of an encoder lie, and its id, without loading it.

An encoder is named as open_clip names it: a registered model and tag (``ViT-B-32``, ``openai``), ``hf-hub:org/name``,
``local-dir:folder``, or a model-config JSON with a checkpoint file. ``placeprint-demo`` is the one that ships here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import Field

from storage.errors import PlaceprintError
from tasks.settings import Section

DEMO_MODEL = "placeprint-demo"


class EncoderSettings(Section):
    """Which encoder, and where it runs."""

    model: str = Field(DEMO_MODEL, description="an open_clip name, hf-hub:…, local-dir:…, or a model-config JSON")
    pretrained: str | None = Field(None, description="an open_clip tag, or a checkpoint (.safetensors, .pt)")
    device: str = Field("auto", description="auto (every GPU, or else the CPU), cpu, cuda:1, or several: cuda:0,cuda:1")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the image encoder; auto is float32 on a CPU and bfloat16 on a GPU"
    )
    compiled: bool = Field(False, description="compile the image encoder with torch.compile: for long runs")

    @property
    def title(self) -> str:
        """The model without the folder of its file, for the names of runs."""
        return self.model.rpartition("/")[2]


@dataclass(frozen=True)
class Weights:
    """A model and its checkpoint, both found on this machine.

    `config` is a model-config JSON or None for a model that open_clip knows; `checkpoint` is None where open_clip
    finds it by `model` alone (``local-dir:`` and ``hf-hub:``).
    """

    model: str
    config: Path | None
    checkpoint: Path | None
    file: Path

    @property
    def encoder_id(self) -> str:
        """``<model>@<first 12 hex digits of the weights' sha256>``."""
        return f"{self.model}@{_sha256(self.file, self.file.stat().st_mtime_ns)[:12]}"


def find_weights(settings: EncoderSettings) -> Weights:
    """Locate the weights; those of a tag or a hub name are downloaded unless they are cached.

    Raises
    ------
    PlaceprintError
        When the model is unknown, or its weights are missing: never random weights.
    """
    model, pretrained = settings.model, settings.pretrained
    if model == DEMO_MODEL and pretrained is None:
        folder = Path(str(files("tasks.encode").joinpath("models")))
        checkpoint = folder / f"{DEMO_MODEL}.safetensors"
        return Weights(DEMO_MODEL, folder / f"{DEMO_MODEL}.json", checkpoint, checkpoint)
    if model.startswith("local-dir:"):
        folder = Path(model.removeprefix("local-dir:")).expanduser()
        return Weights(f"local-dir:{folder.name}", None, None, _weights_in(folder))
    if model.startswith("hf-hub:"):
        return Weights(model, None, None, _download_hub(model))
    if pretrained is None:
        raise PlaceprintError(f"encode.encoder.pretrained: {model} needs a tag or a checkpoint file, none is given")
    config = Path(model).expanduser() if model.endswith(".json") else None
    if config is not None and not config.is_file():
        raise PlaceprintError(f"encode.encoder.model: the model config {config} does not exist")
    name = config.stem if config else model
    checkpoint = Path(pretrained).expanduser()
    if not checkpoint.is_file():
        if config is not None or checkpoint.suffix in (".pt", ".pth", ".bin", ".safetensors"):
            raise PlaceprintError(f"encode.encoder.pretrained: the checkpoint {checkpoint} does not exist")
        checkpoint = _download_tag(model, pretrained)
    return Weights(name, config, checkpoint, checkpoint)


def _download_tag(model: str, tag: str) -> Path:
    import open_clip

    known = open_clip.list_models()
    if model not in known:
        raise PlaceprintError(f"encode.encoder.model: open_clip knows no {model!r}{_nearest(model, known)}")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise PlaceprintError(
            f"encode.encoder.pretrained: {model} has no weights {tag!r}; it has {', '.join(tags) or 'none: give a checkpoint file'}"
        )
    try:
        return Path(open_clip.download_pretrained(open_clip.get_pretrained_cfg(model, tag)))
    except (OSError, RuntimeError, ValueError) as error:
        raise _no_download(f"{model}/{tag}", error) from error


def _download_hub(model: str) -> Path:
    from open_clip.factory import download_pretrained_from_hf

    try:
        return Path(download_pretrained_from_hf(model.removeprefix("hf-hub:")))
    except (OSError, RuntimeError, ValueError) as error:
        raise _no_download(model, error) from error


def _no_download(name: str, error: Exception) -> PlaceprintError:
    cause = (str(error).splitlines() or [type(error).__name__])[0]
    return PlaceprintError(f"encode.encoder: the weights of {name} are not here and could not be downloaded: {cause}")


def _weights_in(folder: Path) -> Path:
    for name in (
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.safetensors",
        "open_clip_pytorch_model.bin",
        "open_clip_model.pt",
    ):
        if (folder / name).is_file():
            return folder / name
    raise PlaceprintError(f"encode.encoder.model: {folder} holds no open_clip weights (open_clip_model.safetensors)")


def _nearest(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=2, cutoff=0.5)
    return f"; nearest: {', '.join(near)}" if near else ""


@lru_cache(maxsize=8)
def _sha256(path: Path, _changed_at: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
