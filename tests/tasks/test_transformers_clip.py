"""CLIP checkpoints as transformers writes them, against transformers itself: a small model with random weights."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from conftest import picture
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    CLIPModel,
)
from transformers_folder import TEXT, VISION, clip_tokenizer, save_small_clip

from storage.errors import PlaceprintError
from tasks.encode.transformers_clip import (
    convert_state,
    is_transformers_clip,
    load_state,
    read_transformers_clip,
    weight_files,
)

TEXTS = ["a photo of Paris, France", "Zürich's   OLD town, 1999!", "", "tōkyō 東京 & Москва", "river " * 100]


def as_open_clip(folder: Path) -> open_clip.model.CLIP:
    found = read_transformers_clip(folder)
    model = open_clip.model.CLIP(**found.model_config)
    model.load_state_dict(convert_state(load_state(weight_files(folder))), strict=True)
    return model.eval()


@torch.inference_mode()
def differences(ours: open_clip.model.CLIP, theirs: CLIPModel) -> tuple[float, float]:
    """The largest of any number of an embedding, of pixels and of tokens."""
    side = theirs.config.vision_config.image_size
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    tokens = clip_tokenizer()(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    images = theirs.get_image_features(pixels).pooler_output - ours.encode_image(pixels)
    texts = theirs.get_text_features(**tokens).pooler_output - ours.encode_text(open_clip.tokenize(TEXTS))
    return float(images.abs().max()), float(texts.abs().max())


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file: ``text_config__vocab_size`` is one inside another, ``...`` takes one out."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *parts, key = name.split("__")
        inner = content
        for part in parts:
            inner = inner[part]
        if value is ...:
            del inner[key]
        else:
            inner[key] = value
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CLIPModel]:
    folder = tmp_path_factory.mktemp("clip")
    return folder, save_small_clip(folder)


@pytest.fixture
def folder(saved: tuple[Path, CLIPModel], tmp_path: Path) -> Path:
    """A copy that may be edited, with the weights as a link."""
    copy = tmp_path / "clip"
    copy.mkdir()
    for path in saved[0].iterdir():
        if path.suffix == ".safetensors":
            (copy / path.name).symlink_to(path)
        else:
            shutil.copy(path, copy)
    return copy


@pytest.fixture
def old_processor(folder: Path) -> Path:
    """`folder` with its image processor where versions before 5 put it; that file."""
    path = folder / "preprocessor_config.json"
    processor = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    path.write_text(json.dumps(processor))
    (folder / "processor_config.json").unlink()
    return path


def test_knows_its_layout(folder: Path) -> None:
    assert is_transformers_clip(folder)
    assert not is_transformers_clip(folder.parent)
    (folder / "open_clip_config.json").write_text("{}")
    assert not is_transformers_clip(folder)
    (folder / "open_clip_config.json").unlink()
    edit(folder / "config.json", model_type="siglip")
    assert not is_transformers_clip(folder)
    for content in ("[]", "{", "\xff"):
        (folder / "config.json").write_text(content, encoding="latin-1")
        assert not is_transformers_clip(folder)


def test_what_is_read(saved: tuple[Path, CLIPModel]) -> None:
    found = read_transformers_clip(saved[0])
    assert found.model_config == {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {
            "width": 64,
            "layers": 3,
            "mlp_ratio": 2.0,
            "head_width": 32,
            "image_size": 32,
            "patch_size": 8,
        },
        "text_cfg": {
            "width": 32,
            "layers": 2,
            "mlp_ratio": 2.25,
            "heads": 4,
            "context_length": 77,
            "vocab_size": 49408,
        },
    }
    assert found.preprocessing == {
        "size": (32, 32),
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    assert weight_files(saved[0]) == (saved[0] / "model.safetensors",)
    assert found.assumed == ()


def test_says_what_it_assumes(folder: Path) -> None:
    said = read_transformers_clip(folder)
    (folder / "processor_config.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    found = read_transformers_clip(folder)
    assert found.assumed == (
        f"{folder.name} has no preprocessor_config.json: images are prepared as for OpenAI's CLIP, at 32 pixels",
        f"{folder.name} has no tokenizer_config.json: texts are split as for OpenAI's CLIP",
    )
    assert found.preprocessing == said.preprocessing


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("form", ["safetensors", "shards", "bin", "bin shards"])
def test_embeddings_are_those_of_transformers(tmp_path: Path, activation: str, form: str) -> None:
    act = {"hidden_act": activation}
    theirs = save_small_clip(tmp_path, form=form, text=act, vision=act)
    found = read_transformers_clip(tmp_path)
    assert found.model_config["quick_gelu"] == (activation == "quick_gelu")
    assert len(weight_files(tmp_path)) == (2 if "shards" in form else 1)
    assert {path.suffix for path in weight_files(tmp_path)} == {".bin" if "bin" in form else ".safetensors"}
    assert max(differences(as_open_clip(tmp_path), theirs)) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        # open_clip rounds the width of the hidden layer down, and 49 * (27 / 49) is a little less than 27.
        {"text": {"hidden_size": 49, "intermediate_size": 27, "num_attention_heads": 7}},
        {"text": {"layer_norm_eps": 1e-2}, "vision": {"layer_norm_eps": 1e-3}},
        {"text": {"eos_token_id": 2, "bos_token_id": 0}},
        {"vision": {"image_size": 35}, "processor": {"size": {"shortest_edge": 35}, "crop_size": 35}},
        {"projection_dim": 7},
    ],
    ids=["mlp", "eps", "old eos", "odd size", "projection"],
)
def test_other_shapes(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = save_small_clip(tmp_path, **changes)
    assert max(differences(as_open_clip(tmp_path), theirs)) < 1e-5


def test_longer_texts(tmp_path: Path) -> None:
    theirs = save_small_clip(tmp_path, text={"max_position_embeddings": 100})
    ours = as_open_clip(tmp_path)
    tokens = clip_tokenizer()(TEXTS, padding="max_length", max_length=100, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = theirs.get_text_features(**tokens).pooler_output
        found = ours.encode_text(open_clip.tokenize(TEXTS, context_length=100))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_half_precision_is_loaded_as_it_is(saved: tuple[Path, CLIPModel], tmp_path: Path) -> None:
    shutil.copytree(saved[0], tmp_path, dirs_exist_ok=True)
    half = CLIPModel.from_pretrained(saved[0], dtype=torch.float16)
    half.save_pretrained(tmp_path)
    state = convert_state(load_state(weight_files(tmp_path)))
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert max(differences(as_open_clip(tmp_path), half.float().eval())) < 1e-5


def test_defaults_are_those_of_transformers(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "clip"}')
    edit(folder / "processor_config.json", image_processor={})
    found, config, processor = read_transformers_clip(folder), CLIPConfig(), CLIPImageProcessor()
    for key, tower in (("text_cfg", config.text_config), ("vision_cfg", config.vision_config)):
        ours = found.model_config[key]
        assert ours["width"] == tower.hidden_size
        assert ours["layers"] == tower.num_hidden_layers
        assert ours["mlp_ratio"] * ours["width"] == tower.intermediate_size
        assert found.model_config["quick_gelu"] == (tower.hidden_act == "quick_gelu")
        assert tower.layer_norm_eps == 1e-5
        assert "norm_kwargs" not in ours
    text, vision = found.model_config["text_cfg"], found.model_config["vision_cfg"]
    assert text["heads"] == config.text_config.num_attention_heads
    assert text["context_length"] == config.text_config.max_position_embeddings
    assert text["vocab_size"] == config.text_config.vocab_size
    assert vision["head_width"] * config.vision_config.num_attention_heads == config.vision_config.hidden_size
    assert (vision["image_size"], vision["patch_size"]) == (224, 32)
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (224, 32)
    assert found.model_config["embed_dim"] == config.projection_dim
    assert found.preprocessing["size"] == (processor.crop_size["height"], processor.crop_size["width"])
    assert found.preprocessing["mean"] == processor.image_mean
    assert found.preprocessing["std"] == processor.image_std


def test_old_files_say_it_in_other_places(folder: Path, old_processor: Path) -> None:
    """The form of StreetCLIP's files, which transformers 4.23 wrote: all of a part twice, of which ``…_dict`` counts."""
    config = json.loads((folder / "config.json").read_text())
    content = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 48,
        "text_config": {**config["text_config"], "hidden_size": 512, "eos_token_id": 2, "id2label": {"0": "LABEL_0"}},
        "text_config_dict": {**TEXT, "projection_dim": 48},
        "vision_config": None,
        "vision_config_dict": {**VISION, "projection_dim": 48},
        "transformers_version": None,
    }
    (folder / "config.json").write_text(json.dumps(content))
    old_processor.write_text(
        json.dumps(
            {
                "crop_size": 32,
                "do_center_crop": True,
                "do_normalize": True,
                "do_resize": True,
                "feature_extractor_type": "CLIPFeatureExtractor",
                "image_mean": [0.5, 0.4, 0.3],
                "image_std": [0.3, 0.2, 0.1],
                "resample": 2,
                "size": 32,
            }
        )
    )
    found = read_transformers_clip(folder)
    assert found.preprocessing == {
        "size": (32, 32),
        "mean": (0.5, 0.4, 0.3),
        "std": (0.3, 0.2, 0.1),
        "interpolation": "bilinear",
        "resize_mode": "shortest",
    }
    theirs = CLIPModel.from_pretrained(folder).eval()
    assert max(differences(as_open_clip(folder), theirs)) < 1e-5
    assert float(similarities(folder, theirs, [picture(3)]).min()) >= 0.9999


def test_streetclip_is_a_known_architecture(folder: Path) -> None:
    """What its config.json says, and open_clip's own config of that model."""
    config = {
        "model_type": "clip",
        "projection_dim": 768,
        "text_config_dict": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "projection_dim": 768,
        },
        "vision_config_dict": {
            "hidden_size": 1024,
            "image_size": 336,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
            "projection_dim": 768,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    edit(folder / "processor_config.json", image_processor={"size": 336, "crop_size": 336})
    found, known = read_transformers_clip(folder), open_clip.get_model_config("ViT-L-14-336-quickgelu")
    assert found.preprocessing["size"] == (336, 336)
    for key, read in (("text_cfg", open_clip.CLIPTextCfg), ("vision_cfg", open_clip.CLIPVisionCfg)):
        assert read(**found.model_config[key]) == read(**known[key])
    for key in ("embed_dim", "quick_gelu"):
        assert found.model_config[key] == known[key]


def test_fields_that_equal_the_defaults_may_be_left_out(tmp_path: Path) -> None:
    theirs = save_small_clip(
        tmp_path,
        text={"num_attention_heads": 8},
        vision={
            "hidden_size": 48,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "image_size": 224,
            "patch_size": 32,
        },
        processor={"size": {"shortest_edge": 224}, "crop_size": 224},
        projection_dim=512,
    )
    config = json.loads((tmp_path / "config.json").read_text())
    for name, kept in (
        ("text_config", ("hidden_size", "intermediate_size", "num_hidden_layers")),
        ("vision_config", ("hidden_size", "intermediate_size")),
    ):
        config[name] = {key: config[name][key] for key in kept}
    (tmp_path / "config.json").write_text(
        json.dumps({key: config[key] for key in ("model_type", "text_config", "vision_config")})
    )
    assert max(differences(as_open_clip(tmp_path), theirs)) < 1e-5


# Preprocessing


def similarities(folder: Path, theirs: CLIPModel, images: list[Image.Image]) -> np.ndarray:
    """Cosines of the two libraries' embeddings of pictures, each prepared by its own library."""
    found = read_transformers_clip(folder)
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**found.preprocessing), is_train=False
    )
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    with torch.inference_mode():
        ours = as_open_clip(folder).encode_image(torch.stack([transform(image) for image in images]))
        pixels = torch.cat([processor(image, return_tensors="pt").pixel_values for image in images])
        expected = theirs.get_image_features(pixels).pooler_output
    return torch.nn.functional.cosine_similarity(ours, expected).numpy()


def prepared(folder: Path, image: Image.Image) -> tuple[Tensor, Tensor]:
    """The pixels of open_clip, and those of transformers."""
    cfg = open_clip.transform.PreprocessCfg(**read_transformers_clip(folder).preprocessing)
    ours = open_clip.transform.image_transform_v2(cfg, is_train=False)(image)
    return ours, CLIPImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt").pixel_values[0]


SIZES = [(32, 32), (40, 30), (30, 40), (200, 131), (33, 500), (17, 17), (37, 32)]


@pytest.mark.parametrize(
    "processor",
    [
        {},
        {"resample": 2},
        {"size": {"height": 32, "width": 32}},
        {"size": {"height": 32, "width": 32}, "do_center_crop": False},
        {"do_normalize": False},
        {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.75], "do_convert_rgb": False},
    ],
    ids=["shortest", "bilinear", "squash", "squash without crop", "raw", "mean"],
)
def test_pixels_are_those_of_transformers(
    saved: tuple[Path, CLIPModel], folder: Path, processor: dict[str, Any]
) -> None:
    edit(folder / "processor_config.json", **{f"image_processor__{key}": value for key, value in processor.items()})
    images = [picture(number, size) for number, size in enumerate(SIZES)]
    for image in images:
        ours, theirs = prepared(folder, image)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert similarities(folder, saved[1], images).min() >= 0.9999


def test_a_middle_that_is_not_whole_is_rounded_otherwise(folder: Path) -> None:
    """32 of 35 pixels: from the second on in transformers, from the third on in open_clip."""
    image = picture(0, (35, 32))
    ours, theirs = prepared(folder, image)
    torch.testing.assert_close(ours[:, :, :-1], theirs[:, :, 1:], atol=1e-5, rtol=0)
    assert (ours - theirs).abs().max() > 0.01


# Texts


def test_tokens_are_those_of_transformers() -> None:
    tokens = clip_tokenizer()(TEXTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    ours = open_clip.tokenize(TEXTS)
    ends = ours.argmax(dim=1)
    # What follows the end is padding, of which no embedding knows.
    for row, theirs, end in zip(ours, tokens, ends, strict=True):
        assert row[: end + 1].tolist() == theirs[: end + 1].tolist()


def test_what_only_open_clip_mends() -> None:
    """As OpenAI's own tokenizer does; see the module."""
    for text in ("don’t", "A &amp; B", "ﬁne", "Ã©tÃ©"):
        theirs = clip_tokenizer()(text, padding="max_length").input_ids
        end = open_clip.tokenize(text).argmax() + 1
        assert open_clip.tokenize(text)[0, :end].tolist() != theirs[:end]


# Refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "siglip"}, "model_type is 'siglip', not 'clip'"),
        (
            {"architectures": ["CLIPForImageClassification"]},
            "the weights are of CLIPForImageClassification, not of CLIPModel",
        ),
        ({"projection_dim": 0}, "projection_dim is 0; a positive integer is needed"),
        ({"text_config": [1]}, "text_config is no JSON object"),
        ({"text_config__hidden_size": "32"}, "text_config: hidden_size is '32'; a positive integer is needed"),
        (
            {"text_config__num_hidden_layers": None},
            "text_config: num_hidden_layers is None; a positive integer is needed",
        ),
        (
            {"text_config__num_attention_heads": 5},
            "text_config: hidden_size 32 is no multiple of num_attention_heads 5",
        ),
        ({"text_config__vocab_size": 49409}, "text_config: vocab_size is 49409; open_clip's tokenizer has 49408"),
        (
            {"text_config__eos_token_id": 49406},
            "text_config: eos_token_id is 49406; open_clip's texts end with 49407 (2 in old files)",
        ),
        (
            {"text_config__eos_token_id": [49407]},
            "text_config: eos_token_id is [49407]; open_clip's texts end with 49407 (2 in old files)",
        ),
        (
            {"text_config__hidden_act": "gelu_new"},
            "text_config: hidden_act is 'gelu_new'; open_clip has quick_gelu and gelu",
        ),
        (
            {"vision_config__hidden_act": "gelu"},
            "vision_config: hidden_act is 'gelu' and that of text_config 'quick_gelu'; open_clip has one for both",
        ),
        ({"vision_config__num_channels": 4}, "vision_config: num_channels is 4; open_clip's images have 3"),
        (
            {"vision_config__image_size": [32, 32]},
            "vision_config: image_size is [32, 32]; a positive integer is needed",
        ),
        ({"vision_config__layer_norm_eps": None}, "vision_config: layer_norm_eps is None; a positive number is needed"),
    ],
)
def test_configs_that_open_clip_has_not(folder: Path, changes: dict[str, Any], message: str) -> None:
    path = folder / "config.json"
    edit(path, **changes)
    assert refusal(lambda: read_transformers_clip(folder)) == f"encode.encoder.model: {path}: {message}"


SIZE_HINT = "open_clip resizes to the model's image_size, 32, either the shorter side before the crop or both sides"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_resize": False}, "do_resize is False, which open_clip's preprocessing cannot do"),
        ({"do_rescale": False}, "do_rescale is False, which open_clip's preprocessing cannot do"),
        ({"do_pad": True}, "do_pad is True, which open_clip's preprocessing cannot do"),
        ({"use_square_size": True}, "use_square_size is True, which open_clip's preprocessing cannot do"),
        ({"rescale_factor": 1 / 127.5}, f"rescale_factor is {1 / 127.5!r}; that of open_clip's preprocessing is 1/255"),
        ({"resample": 1}, "resample is 1; open_clip's is 2 (bilinear) or 3 (bicubic)"),
        ({"image_mean": [0.5]}, "image_mean is [0.5]; three numbers are needed"),
        ({"crop_size": 28}, "crop_size is 28; the model's image_size is 32"),
        (
            {"crop_size": {"height": 32, "width": 28}},
            "crop_size is {'height': 32, 'width': 28}; the model's image_size is 32",
        ),
        ({"size": 36}, f"size is 36 with a centre crop; {SIZE_HINT}"),
        ({"size": {"shortest_edge": 36}}, f"size is {{'shortest_edge': 36}} with a centre crop; {SIZE_HINT}"),
        (
            {"size": {"shortest_edge": 32, "longest_edge": 64}},
            f"size is {{'shortest_edge': 32, 'longest_edge': 64}} with a centre crop; {SIZE_HINT}",
        ),
        ({"size": [36, 36]}, f"size is [36, 36] with a centre crop; {SIZE_HINT}"),
        ({"do_center_crop": False}, f"size is {{'shortest_edge': 32}} without a centre crop; {SIZE_HINT}"),
        (
            {"image_processor_type": "ViTImageProcessor"},
            "image_processor_type is 'ViTImageProcessor'; that of a CLIP, CLIPImageProcessor, is known here",
        ),
    ],
)
def test_preprocessing_that_open_clip_has_not(
    folder: Path, old_processor: Path, changes: dict[str, Any], message: str
) -> None:
    edit(old_processor, **changes)
    assert refusal(lambda: read_transformers_clip(folder)) == f"encode.encoder.model: {old_processor}: {message}"


@pytest.mark.usefixtures("old_processor")
def test_the_newer_file_of_the_processor_goes_before(folder: Path) -> None:
    newer = folder / "processor_config.json"
    newer.write_text('{"processor_class": "CLIPProcessor"}')
    assert read_transformers_clip(folder).preprocessing["interpolation"] == "bicubic"
    newer.write_text('{"image_processor": {"resample": 2, "size": 32, "crop_size": 32}}')
    assert read_transformers_clip(folder).preprocessing["interpolation"] == "bilinear"
    assert CLIPImageProcessor.from_pretrained(folder).resample == 2
    newer.write_text('{"image_processor": {"resample": 0}}')
    assert refusal(lambda: read_transformers_clip(folder)) == (
        f"encode.encoder.model: {newer}: image_processor: resample is 0; open_clip's is 2 (bilinear) or 3 (bicubic)"
    )


def test_other_tokenizers(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    edit(path, tokenizer_class="BertTokenizer")
    assert refusal(lambda: read_transformers_clip(folder)) == (
        f"encode.encoder.model: {path}: tokenizer_class is 'BertTokenizer'; open_clip's tokenizer is that of CLIPTokenizer"
    )


def test_files_that_are_missing_or_damaged(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.unlink()
    assert refusal(lambda: weight_files(folder)) == (
        f"encode.encoder.model: {folder} holds no weights "
        "(model.safetensors, model.safetensors.index.json, pytorch_model.bin, pytorch_model.bin.index.json)"
    )
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {}}')
    assert refusal(lambda: weight_files(folder)).endswith(f"{index}: weight_map names no file")
    for name in ("lost.safetensors", "../clip/config.json"):
        index.write_text(json.dumps({"weight_map": {"logit_scale": name}}))
        expected = f"{index}: the shard {name} is not in {folder}"
        assert refusal(lambda: weight_files(folder)).endswith(expected)
    (folder / "config.json").write_text("[]")
    assert refusal(lambda: read_transformers_clip(folder)).endswith("config.json is no JSON object")
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read: Expecting property name" in refusal(lambda: read_transformers_clip(folder))
    (folder / "config.json").unlink()
    assert refusal(lambda: read_transformers_clip(folder)).endswith("config.json does not exist")


def test_weights_that_are_missing_or_damaged(saved: tuple[Path, CLIPModel], tmp_path: Path) -> None:
    for name in ("lost.safetensors", "lost.bin"):
        assert refusal(lambda name=name: load_state([tmp_path / name])).startswith(
            f"encode.encoder.model: {tmp_path / name} cannot be read: "
        )
    whole = (saved[0] / "model.safetensors").read_bytes()
    for name, content in (("cut.safetensors", whole[:1000]), ("cut.bin", b"PK\x03\x04"), ("empty.bin", b"")):
        (tmp_path / name).write_bytes(content)
        assert refusal(lambda name=name: load_state([tmp_path / name])).startswith(
            f"encode.encoder.model: {tmp_path / name} cannot be read: "
        )
    path = tmp_path / "other.bin"
    for content in ([1, 2], {"epoch": 3, "model": {"logit_scale": torch.ones(())}}):
        torch.save(content, path)
        assert (
            refusal(lambda: load_state([path])) == f"encode.encoder.model: {path} does not hold tensors by their names"
        )


def test_pickles_run_no_code(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"logit_scale": math.sqrt, "path": Path()}, path)
    assert refusal(lambda: load_state([path])).startswith(f"encode.encoder.model: {path} cannot be read: Weights only")


def test_tensors_that_are_missing_or_unknown(saved: tuple[Path, CLIPModel]) -> None:
    state = load_file(saved[0] / "model.safetensors")
    for gone in ("logit_scale", "text_projection.weight", "vision_model.encoder.layers.1.self_attn.k_proj.bias"):
        assert refusal(lambda gone=gone: convert_state({key: state[key] for key in state if key != gone})) == (
            f"encode.encoder.model: the checkpoint is no whole CLIPModel: {gone} missing"
        )
    assert refusal(lambda: convert_state(state | {"classifier.weight": torch.zeros(1)})) == (
        "encode.encoder.model: the checkpoint is no plain CLIPModel: it has classifier.weight"
    )
    extra = {name: torch.zeros(1) for name in "dbca"}
    assert refusal(lambda: convert_state(state | extra)) == (
        "encode.encoder.model: the checkpoint is no plain CLIPModel: it has a, b, c and 1 more"
    )


def test_a_classifier_is_no_clip(tmp_path: Path) -> None:
    """Also by its tensors alone: its config has the same ``model_type``."""
    CLIPForImageClassification(CLIPConfig(text_config=TEXT, vision_config=VISION, num_labels=3)).save_pretrained(
        tmp_path
    )
    assert is_transformers_clip(tmp_path)
    assert "the weights are of CLIPForImageClassification" in refusal(lambda: read_transformers_clip(tmp_path))
    state = load_state([tmp_path / "model.safetensors"])
    assert refusal(lambda: convert_state(state)).startswith(
        "encode.encoder.model: the checkpoint is no whole CLIPModel: logit_scale, "
    )


def test_is_light() -> None:
    """Nothing but the weights needs torch, and nothing at all transformers."""
    import subprocess
    import sys

    code = (
        "import sys, tasks.encode.transformers_clip; print({'torch', 'transformers', 'open_clip'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(PlaceprintError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    return message
