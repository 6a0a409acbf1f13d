"""A CLIP checkpoint in the layout of Hugging Face transformers, as an open_clip model: config, preprocessing and weights.

Such a folder is what ``CLIPModel.save_pretrained`` writes: ``config.json``, ``model.safetensors`` (or in shards, or
``pytorch_model.bin``), and beside them the files of its image processor and tokenizer. StreetCLIP is one. The library itself
is not needed: the two models are the same network under other names.

What open_clip cannot compute is refused. Two differences stay, which no setting of open_clip takes away; in both it does as
OpenAI's own code for CLIP. Where the longer side has an odd number of pixels too many, transformers crops at the half rounded
down and open_clip at the half rounded to even: one pixel further for every second such number. And open_clip's tokenizer
first mends a text: HTML entities, mistaken encodings, ligatures, curly quotes and full-width characters.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # nosec B403
from typing import TYPE_CHECKING, Any

from storage.errors import PlaceprintError

if TYPE_CHECKING:
    from torch import Tensor

# open_clip's tokenizer; its end of a text is the largest of its ids.
_VOCAB_SIZE = 49408
_END_OF_TEXT = _VOCAB_SIZE - 1
# What old files hold in its place, by mistake: the library then takes the largest id, too.
_FORMER_END_OF_TEXT = 2

# The defaults of transformers 5.24: its files may omit what equals them.
_TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": _VOCAB_SIZE,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": _END_OF_TEXT,
}
_VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_PROJECTION_DIM = 512
_PROCESSOR_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
    "do_pad": False,
}

# Their names in the files of several versions.
_PROCESSORS = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor")
_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
# Whether open_clip's `quick_gelu` is on.
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
# Pillow's numbers.
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}
# open_clip's own, which its configs need not state.
_LAYER_NORM_EPS = 1e-5

# In the order in which transformers looks for them; the second names the files of the shards.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_LOADING_ERRORS = (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError)

# Names of tensors, transformers' and open_clip's.
_SINGLE = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # transformers' spelling
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
}
# open_clip multiplies from the other side.
_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
_BLOCKS = {
    "text_model.encoder.layers": "transformer.resblocks",
    "vision_model.encoder.layers": "visual.transformer.resblocks",
}
_IN_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
# Buffers of older versions: 0, 1, 2 and so on.
_IGNORED = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


@dataclass(frozen=True)
class TransformersClip:
    """What a folder holds, in open_clip's terms.

    Parameters
    ----------
    model_config
        open_clip's model config: ``embed_dim``, ``quick_gelu``, ``vision_cfg``, ``text_cfg``.
    preprocessing
        Fields of open_clip's ``PreprocessCfg``: ``size`` (height, width), ``mean``, ``std``, ``interpolation`` and
        ``resize_mode``.
    assumed
        What the files do not say, and what was taken for it.
    """

    model_config: dict[str, Any]
    preprocessing: dict[str, Any]
    assumed: tuple[str, ...]


def is_transformers_clip(folder: Path) -> bool:
    """Whether a folder is a CLIP of transformers, and not one of open_clip, which it may be as well."""
    if (folder / "open_clip_config.json").is_file():
        return False
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "clip"


def read_transformers_clip(folder: Path) -> TransformersClip:
    """Read everything but the weights.

    Raises
    ------
    PlaceprintError
        When a file is missing or damaged, or says what open_clip cannot do.
    """
    path = folder / "config.json"
    config = _Fields(str(path), _read_json(path))
    if config.values.get("model_type") != "clip":
        raise config.refusal(f"model_type is {config.values.get('model_type')!r}, not 'clip'")
    architectures = config.values.get("architectures")
    if isinstance(architectures, list) and "CLIPModel" not in architectures:
        raise config.refusal(f"the weights are of {', '.join(map(str, architectures))}, not of CLIPModel")
    text = config.section("text_config", _TEXT_DEFAULTS)
    vision = config.section("vision_config", _VISION_DEFAULTS)
    model_config = {
        "embed_dim": _Fields(config.where, {"projection_dim": _PROJECTION_DIM, **config.values}).count(
            "projection_dim"
        ),
        "quick_gelu": _is_quick_gelu(text, vision),
        "vision_cfg": _vision_config(vision),
        "text_cfg": _text_config(text),
    }
    preprocessing, assumed = _preprocessing(folder, vision.count("image_size"))
    return TransformersClip(model_config, preprocessing, (*assumed, *_assumed_of_the_tokenizer(folder)))


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files of the weights, in order.

    Raises
    ------
    PlaceprintError
        When there are none, or a shard is missing.
    """
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise PlaceprintError(f"encode.encoder.model: {folder} holds no weights ({', '.join(WEIGHTS)})")
    if path.suffix != ".json":
        return (path,)
    index = _Fields(str(path), _read_json(path))
    names = sorted({str(name) for name in index.section("weight_map", {}).values.values()})
    if not names:
        raise index.refusal("weight_map names no file")
    for name in names:
        if (folder / name).parent != folder or not (folder / name).is_file():
            raise index.refusal(f"the shard {name} is not in {folder}")
    return tuple(folder / name for name in names)


def load_state(files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of all files, under the names that they have there.

    Raises
    ------
    PlaceprintError
        When a file is missing, damaged, or holds anything but tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                part = load_file(file)
            else:
                part = torch.load(file, map_location="cpu", weights_only=True)
        except (*_LOADING_ERRORS, SafetensorError) as error:
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            raise PlaceprintError(f"encode.encoder.model: {file} cannot be read: {cause}") from error
        if not isinstance(part, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in part.values()):
            raise PlaceprintError(f"encode.encoder.model: {file} does not hold tensors by their names")
        state.update(part)
    return state


def convert_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a ``CLIPModel`` under the names and in the shapes of open_clip's ``CLIP``.

    Raises
    ------
    PlaceprintError
        When one is missing, or is none of a ``CLIPModel``.
    """
    import torch

    alike, joined = dict(_SINGLE), {}
    for theirs, ours in _blocks(state):
        for kind in ("weight", "bias"):
            alike |= {f"{theirs}.{old}.{kind}": f"{ours}.{new}.{kind}" for old, new in _IN_BLOCK.items()}
            parts = tuple(f"{theirs}.self_attn.{letter}_proj.{kind}" for letter in "qkv")
            joined[f"{ours}.attn.in_proj_{kind}"] = parts
    expected = (*alike, *_TRANSPOSED, *(name for parts in joined.values() for name in parts))
    if missing := [name for name in expected if name not in state]:
        raise PlaceprintError(f"encode.encoder.model: the checkpoint is no whole CLIPModel: {_some(missing)} missing")
    if unknown := sorted(set(state).difference(expected, _IGNORED)):
        raise PlaceprintError(f"encode.encoder.model: the checkpoint is no plain CLIPModel: it has {_some(unknown)}")
    return {
        **{ours: state[theirs] for theirs, ours in alike.items()},
        **{ours: state[theirs].T.contiguous() for theirs, ours in _TRANSPOSED.items()},
        **{ours: torch.cat([state[name] for name in parts]) for ours, parts in joined.items()},
    }


@dataclass(frozen=True)
class _Fields:
    """A part of a JSON file; `where` names it in messages."""

    where: str
    values: Mapping[str, Any]

    def refusal(self, why: str) -> PlaceprintError:
        return PlaceprintError(f"encode.encoder.model: {self.where}: {why}")

    def count(self, key: str) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.refusal(f"{key} is {value!r}; a positive integer is needed")
        return value

    def section(self, name: str, defaults: Mapping[str, Any]) -> _Fields:
        """A part, as transformers reads it: ``…_dict`` of old files, with its defaults, goes before the other."""
        found = self.values.get(f"{name}_dict")
        if found is None:
            found = self.values.get(name)
        if not isinstance(found, Mapping | None):
            raise self.refusal(f"{name} is no JSON object")
        return _Fields(f"{self.where}: {name}", {**defaults, **(found or {})})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise PlaceprintError(f"encode.encoder.model: {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise PlaceprintError(f"encode.encoder.model: {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise PlaceprintError(f"encode.encoder.model: {path} is no JSON object")
    return found


def _is_quick_gelu(text: _Fields, vision: _Fields) -> bool:
    for tower in (text, vision):
        if tower.values["hidden_act"] not in tuple(_ACTIVATIONS):
            raise tower.refusal(f"hidden_act is {tower.values['hidden_act']!r}; open_clip has quick_gelu and gelu")
    if text.values["hidden_act"] != vision.values["hidden_act"]:
        raise vision.refusal(
            f"hidden_act is {vision.values['hidden_act']!r} and that of text_config {text.values['hidden_act']!r}; open_clip has one for both"
        )
    return _ACTIVATIONS[vision.values["hidden_act"]]


def _vision_config(vision: _Fields) -> dict[str, Any]:
    if vision.values["num_channels"] != 3:
        raise vision.refusal(f"num_channels is {vision.values['num_channels']!r}; open_clip's images have 3")
    config, heads = _tower_config(vision)
    return {
        **config,
        "head_width": config["width"] // heads,
        "image_size": vision.count("image_size"),
        "patch_size": vision.count("patch_size"),
    }


def _text_config(text: _Fields) -> dict[str, Any]:
    if text.values["vocab_size"] != _VOCAB_SIZE:
        raise text.refusal(f"vocab_size is {text.values['vocab_size']!r}; open_clip's tokenizer has {_VOCAB_SIZE}")
    if text.values["eos_token_id"] not in (_END_OF_TEXT, _FORMER_END_OF_TEXT):
        raise text.refusal(
            f"eos_token_id is {text.values['eos_token_id']!r}; open_clip's texts end with {_END_OF_TEXT} "
            f"({_FORMER_END_OF_TEXT} in old files)"
        )
    config, heads = _tower_config(text)
    return {
        **config,
        "heads": heads,
        "context_length": text.count("max_position_embeddings"),
        "vocab_size": _VOCAB_SIZE,
    }


def _tower_config(tower: _Fields) -> tuple[dict[str, Any], int]:
    """What both towers have, and the number of heads."""
    width, heads, eps = tower.count("hidden_size"), tower.count("num_attention_heads"), tower.values["layer_norm_eps"]
    if width % heads:
        raise tower.refusal(f"hidden_size {width} is no multiple of num_attention_heads {heads}")
    if not isinstance(eps, float) or not eps > 0:
        raise tower.refusal(f"layer_norm_eps is {eps!r}; a positive number is needed")
    config = {
        "width": width,
        "layers": tower.count("num_hidden_layers"),
        "mlp_ratio": _mlp_ratio(tower.count("intermediate_size"), width),
    }
    return (config if eps == _LAYER_NORM_EPS else {**config, "norm_kwargs": {"eps": eps}}), heads


def _mlp_ratio(hidden: int, width: int) -> float:
    """The ratio from which open_clip, which rounds down, gets `hidden` again.

    >>> int(27 / 49 * 49), int(_mlp_ratio(27, 49) * 49), _mlp_ratio(3072, 768)
    (26, 27, 4.0)
    """
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else math.nextafter(ratio, math.inf)


def _preprocessing(folder: Path, image_px: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fields of ``PreprocessCfg``, and what was assumed."""
    processor = _image_processor(folder)
    if processor is None:
        assumed = f"{folder.name} has no preprocessor_config.json: images are prepared as for OpenAI's CLIP, at {image_px} pixels"
        values: Mapping[str, Any] = {**_PROCESSOR_DEFAULTS, "size": image_px, "crop_size": image_px}
        return _transform(_Fields(str(folder), values), image_px), (assumed,)
    stated = {key: value for key, value in processor.values.items() if value is not None}
    for key in ("image_processor_type", "feature_extractor_type"):
        if stated.get(key, _PROCESSORS[0]) not in _PROCESSORS:
            raise processor.refusal(f"{key} is {stated[key]!r}; that of a CLIP, {_PROCESSORS[0]}, is known here")
    return _transform(_Fields(processor.where, {**_PROCESSOR_DEFAULTS, **stated}), image_px), ()


def _image_processor(folder: Path) -> _Fields | None:
    """Where transformers looks: since version 5, ``CLIPProcessor`` writes a part of another file."""
    path = folder / "processor_config.json"
    if path.is_file() and "image_processor" in (whole := _read_json(path)):
        return _Fields(str(path), whole).section("image_processor", {})
    path = folder / "preprocessor_config.json"
    return _Fields(str(path), _read_json(path)) if path.is_file() else None


def _transform(processor: _Fields, image_px: int) -> dict[str, Any]:
    values = processor.values
    for key, needed in (("do_resize", True), ("do_rescale", True), ("do_pad", False), ("use_square_size", False)):
        if bool(values.get(key, needed)) != needed:
            raise processor.refusal(f"{key} is {values[key]!r}, which open_clip's preprocessing cannot do")
    factor = values["rescale_factor"]
    if not isinstance(factor, float) or not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        raise processor.refusal(f"rescale_factor is {factor!r}; that of open_clip's preprocessing is 1/255")
    if values["resample"] not in tuple(_INTERPOLATIONS):
        raise processor.refusal(f"resample is {values['resample']!r}; open_clip's is 2 (bilinear) or 3 (bicubic)")
    is_normalized = bool(values["do_normalize"])
    return {
        "size": (image_px, image_px),
        "mean": _three(processor, "image_mean") if is_normalized else (0.0, 0.0, 0.0),
        "std": _three(processor, "image_std") if is_normalized else (1.0, 1.0, 1.0),
        "interpolation": _INTERPOLATIONS[values["resample"]],
        "resize_mode": _resize_mode(processor, image_px),
    }


def _resize_mode(processor: _Fields, image_px: int) -> str:
    """``shortest`` or ``squash``, if one of them makes what transformers makes, at the model's size."""
    size, crop = processor.values["size"], processor.values["crop_size"]
    # A number is the shorter side of `size`, and both sides of `crop_size`.
    size = {"shortest_edge": size} if isinstance(size, int) else _sides(size)
    crop = (
        (_sides((crop, crop)) if isinstance(crop, int) else _sides(crop))
        if processor.values["do_center_crop"]
        else None
    )
    square = {"height": image_px, "width": image_px}
    if crop not in (None, square):
        raise processor.refusal(f"crop_size is {processor.values['crop_size']!r}; the model's image_size is {image_px}")
    if size == square:
        return "squash"
    if size == {"shortest_edge": image_px} and crop is not None:
        return "shortest"
    cropped = "with" if crop is not None else "without"
    raise processor.refusal(
        f"size is {processor.values['size']!r} {cropped} a centre crop; open_clip resizes to the model's image_size, {image_px}, "
        "either the shorter side before the crop or both sides"
    )


def _sides(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: number for key, number in value.items() if number is not None}
    return dict(zip(("height", "width"), value, strict=True)) if _is_list(value, 2) else value


def _three(processor: _Fields, key: str) -> tuple[float, ...]:
    value = processor.values[key]
    values = (value,) * 3 if isinstance(value, int | float) else value
    if not _is_list(values, 3) or not all(isinstance(number, int | float) for number in values):
        raise processor.refusal(f"{key} is {value!r}; three numbers are needed")
    return tuple(float(number) for number in values)


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == length


def _assumed_of_the_tokenizer(folder: Path) -> tuple[str, ...]:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return (f"{folder.name} has no tokenizer_config.json: texts are split as for OpenAI's CLIP",)
    name = _read_json(path).get("tokenizer_class")
    if name is not None and name not in _TOKENIZERS:
        raise PlaceprintError(
            f"encode.encoder.model: {path}: tokenizer_class is {name!r}; open_clip's tokenizer is that of {_TOKENIZERS[0]}"
        )
    return ()


def _blocks(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Both names of every block of both towers, at least of one."""
    for theirs, ours in _BLOCKS.items():
        numbers = {found[1] for name in state if (found := re.match(rf"{re.escape(theirs)}\.(\d+)\.", name))}
        for number in range(max(1, len(numbers))):
            yield f"{theirs}.{number}", f"{ours}.{number}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
