"""What the encoder is that the settings name, known without its weights.

An encoder is named as open_clip names it: a registered model and tag (``ViT-B-32``, ``openai``), ``hf-hub:org/name``,
``local-dir:folder``, or a model-config JSON with a checkpoint file; a folder or a repository may also hold a CLIP as the library
`transformers` saves it. ``placeprint-demo`` is the one that ships here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from storage.errors import PlaceprintError
from tasks.encode import registry
from tasks.encode.encoder_settings import DEMO_MODEL, EncoderSettings
from tasks.encode.identity import IMAGE_PX, Identity, Origin, Preprocessing, plain_config, tokenizer_of
from tasks.encode.precision import choose_precision
from tasks.encode.transformers_clip import is_transformers_clip, read_transformers_clip

HUB, FOLDER = "hf-hub:", "local-dir:"
OPEN_CLIP_CONFIG = "open_clip_config.json"
# Of the library transformers, beside config.json, in newer and older checkpoints.
_SMALL_FILES = ("preprocessor_config.json", "processor_config.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Described:
    """An encoder without its weights.

    Parameters
    ----------
    model
        Its name in ids: without the folders of this machine.
    name
        By which open_clip's own entry points load it; of a model config, that of the file.
    identity
        What it is; its `weights` may be None.
    config
        The model-config JSON, if it is none of open_clip's own.
    transformers
        The folder of a checkpoint in the layout of the library `transformers`.
    overrides
        What the settings say in place of the tag or the config, by open_clip's names.
    assumed
        What no tag or file said, in words.
    remarks
        What a user should know besides, in words.
    """

    model: str
    name: str
    identity: Identity
    config: Path | None = None
    transformers: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def describe_encoder(settings: EncoderSettings) -> Described:
    """What the encoder of these settings is, without its weights; of a hub name only small files are downloaded.

    Raises
    ------
    PlaceprintError
        When the model or its tag is unknown, or its config is missing or damaged.
    """
    model, pretrained = settings.model, settings.pretrained
    if model == DEMO_MODEL and pretrained is None:
        config = demo_folder() / f"{DEMO_MODEL}.json"
        found = Described(DEMO_MODEL, DEMO_MODEL, _identity(settings, DEMO_MODEL, read_json(config)), config)
    elif model.startswith(HUB):
        found = _of_hub(settings, model.removeprefix(HUB))
    elif model.startswith(FOLDER):
        found = _of_folder(settings, Path(model.removeprefix(FOLDER)).expanduser())
    elif pretrained is not None and model.endswith(".json"):
        found = _of_config_file(settings, Path(model).expanduser(), Path(pretrained).expanduser())
    elif pretrained is not None:
        config_of_model = registry.model_config(model)
        by_file = is_checkpoint(pretrained)
        found = (_of_checkpoint if by_file else _of_tag)(settings, config_of_model)
    elif Path(model).expanduser().is_dir() and model not in registry.list_models():
        found = _of_folder(settings, Path(model).expanduser())
    else:
        raise PlaceprintError(f"encode.encoder.pretrained: {model} needs a tag or a checkpoint file, none is given")
    if pretrained is not None and model.startswith((HUB, FOLDER)):
        found = replace(found, remarks=(*found.remarks, f"pretrained is not looked at: {model} brings its own weights"))
    overrides = {name: value for name, value in settings.preprocessing.items() if value is not None}
    changed = found.identity.preprocessing.changed(overrides)
    is_quick = found.identity.quick_gelu if settings.quick_gelu is None else settings.quick_gelu
    identity = replace(found.identity, preprocessing=changed, quick_gelu=is_quick)
    return replace(found, identity=identity, overrides=overrides)


def _of_tag(settings: EncoderSettings, config: Mapping[str, Any]) -> Described:
    tag = registry.tag_config(settings.model, str(settings.pretrained))
    # As open_clip reads a tag that says nothing of it.
    is_quick, usual = bool(tag.get("quick_gelu", False)), bool(config.get("quick_gelu", False))
    remarks: tuple[str, ...] = ()
    if is_quick != usual and settings.quick_gelu is None:
        remarks = (
            f"the weights {settings.pretrained} want {_activation(is_quick)}, open_clip's {settings.model} has "
            f"{_activation(usual)}: it is built with {_activation(is_quick)}",
        )
    identity = _identity(settings, settings.model, {**config, "quick_gelu": is_quick}, preprocess=tag)
    return Described(settings.model, settings.model, identity, remarks=remarks)


def _of_checkpoint(settings: EncoderSettings, config: Mapping[str, Any]) -> Described:
    identity = _identity(settings, settings.model, config)
    return Described(settings.model, settings.model, identity, assumed=_assumed(settings, identity))


def _of_config_file(settings: EncoderSettings, config: Path, checkpoint: Path) -> Described:
    if not config.is_file():
        raise PlaceprintError(f"encode.encoder.model: the model config {config} does not exist")
    if not checkpoint.is_file():
        raise PlaceprintError(f"encode.encoder.pretrained: the checkpoint {checkpoint} does not exist")
    identity = _identity(settings, config.stem, read_json(config))
    return Described(config.stem, config.stem, identity, config, assumed=_assumed(settings, identity))


def _of_hub(settings: EncoderSettings, repository: str) -> Described:
    found = registry.download_hub_file(repository, OPEN_CLIP_CONFIG)
    if found is not None:
        return _of_open_clip_config(settings, settings.model, settings.model, found, "hf-hub")
    config = registry.download_hub_file(repository, "config.json")
    if config is not None and is_transformers_clip(config.parent):
        for name in _SMALL_FILES:
            registry.download_hub_file(repository, name)
        return _of_transformers(settings, settings.model, config.parent)
    raise PlaceprintError(
        f"encode.encoder.model: {settings.model} has neither open_clip's {OPEN_CLIP_CONFIG} nor a CLIP of the library transformers"
    )


def _of_folder(settings: EncoderSettings, folder: Path) -> Described:
    model = f"{FOLDER}{folder.name}"
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return _of_open_clip_config(settings, model, f"{FOLDER}{folder}", folder / OPEN_CLIP_CONFIG, "local-dir")
    if is_transformers_clip(folder):
        return _of_transformers(settings, model, folder)
    raise PlaceprintError(
        f"encode.encoder.model: {folder} holds no open_clip weights (open_clip_model.safetensors and {OPEN_CLIP_CONFIG}) and no "
        "CLIP of the library transformers (model.safetensors and config.json)"
    )


def _of_open_clip_config(settings: EncoderSettings, model: str, name: str, path: Path, origin: Origin) -> Described:
    content = read_json(path)
    if not isinstance(content.get("model_cfg"), dict):
        raise PlaceprintError(f"encode.encoder.model: {path} has no model_cfg")
    preprocess = content.get("preprocess_cfg") or {}
    return Described(model, name, _identity(settings, model, content["model_cfg"], origin, preprocess))


def _of_transformers(settings: EncoderSettings, model: str, folder: Path) -> Described:
    found = read_transformers_clip(folder)
    identity = _identity(settings, model, found.model_config, preprocess=found.preprocessing)
    return Described(model, model, identity, transformers=folder, assumed=found.assumed)


def _identity(
    settings: EncoderSettings,
    name: str,
    config: Mapping[str, Any],
    origin: Origin = "builtin",
    preprocess: Mapping[str, Any] | None = None,
) -> Identity:
    if not isinstance(config.get("embed_dim"), int) or not all(
        isinstance(config.get(part), dict) for part in ("vision_cfg", "text_cfg")
    ):
        raise PlaceprintError(f"encode.encoder.model: {name}: its config has no embed_dim, vision_cfg and text_cfg")
    size = config["vision_cfg"].get("image_size", IMAGE_PX)
    sides = [size] if isinstance(size, int) else size
    if (
        not isinstance(sides, list | tuple)
        or not all(isinstance(side, int) and side > 0 for side in sides)
        or len(sides) > 2
    ):
        raise PlaceprintError(
            f"encode.encoder.model: {name}: its image_size is {size!r}, not a number of pixels or two"
        )
    size = (sides[0], sides[-1])
    return Identity(
        architecture=name,
        model_config=plain_config(config),
        quick_gelu=bool(config.get("quick_gelu", False)),
        preprocessing=Preprocessing.of(size, preprocess or {}),
        tokenizer=tokenizer_of(name, config, origin),
        weights=None,
        precision=choose_precision(settings.precision, settings.device),
    )


def _assumed(settings: EncoderSettings, identity: Identity) -> tuple[str, ...]:
    """What nothing says of a checkpoint file, in words; what the settings say is not assumed."""
    said = settings.preprocessing
    parts = {
        "quick_gelu": None if settings.quick_gelu is not None else _activation(identity.quick_gelu),
        **{
            f"image_{name}": str(getattr(identity.preprocessing, name)) if value is None else None
            for name, value in said.items()
        },
    }
    return tuple(f"{name}: {value}" for name, value in parts.items() if value is not None)


def is_checkpoint(pretrained: str) -> bool:
    """Whether it is a file rather than a tag."""
    path = Path(pretrained).expanduser()
    if path.is_file():
        return True
    if path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
        raise PlaceprintError(f"encode.encoder.pretrained: the checkpoint {path} does not exist")
    return False


def _activation(is_quick: bool) -> str:
    return "QuickGELU" if is_quick else "GELU"


def demo_folder() -> Path:
    return Path(str(files("tasks.encode").joinpath("models")))


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PlaceprintError(f"encode.encoder.model: {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise PlaceprintError(f"encode.encoder.model: {path} is no model config")
    return content
