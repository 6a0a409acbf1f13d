"""Every tag of open_clip: what we load is what open_clip's own tables, entry points and tokenizers say, without a download.

Models are built on torch's `meta` device: they have structure and no numbers. What open_clip would fetch from a hub is replaced.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers

from tasks.encode import registry
from tasks.encode.description import describe_encoder
from tasks.encode.encoder import has_quick_gelu, load_reference
from tasks.encode.encoder_settings import EncoderSettings
from tasks.encode.weights import find_weights

TAGS = open_clip.list_pretrained()
TEXT_CONFIGS = {
    "roberta-base": transformers.RobertaConfig,
    "xlm-roberta-base": transformers.XLMRobertaConfig,
    "xlm-roberta-large": transformers.XLMRobertaConfig,
    "facebook/nllb-200-distilled-600M": transformers.M2M100Config,
    "facebook/nllb-200-distilled-1.3B": transformers.M2M100Config,
}


class RecordedTokenizer:
    """In place of transformers' own, which would be fetched."""

    def __init__(self, name: str, **given: Any) -> None:
        self.made_with = (str(name), given)


@pytest.fixture(scope="module", autouse=True)
def _no_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    weights = tmp_path_factory.mktemp("weights") / "random.safetensors"
    weights.write_bytes(b"random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(weights))
        patch.setattr(open_clip.factory, "load_checkpoint", lambda *_, **__: None)
        patch.setattr(registry, "download_tag", lambda *_: Path(weights))
        patch.setattr("transformers.AutoTokenizer.from_pretrained", RecordedTokenizer)
        patch.setattr("open_clip.hf_model.AutoConfig.from_pretrained", lambda name: TEXT_CONFIGS[name]())
        yield


@contextlib.contextmanager
def structure_alone() -> Iterator[None]:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tokenizer_parts(tokenizer: Any) -> dict[str, Any]:
    """What makes a tokenizer give other numbers."""
    parts = {
        name: getattr(tokenizer, name, None)
        for name in ("context_length", "strip_sep_token", "tokenizer_mode", "vocab_size")
    }
    clean = getattr(tokenizer, "clean_fn", None)
    parts |= {"clean": getattr(clean, "__name__", None), "kind": type(tokenizer)}
    inner = getattr(tokenizer, "tokenizer", None)
    return parts | {"made_with": getattr(inner, "made_with", None)}


def test_tables_are_those_of_open_clip() -> None:
    assert registry.list_pretrained() == TAGS
    assert set(registry.list_models()) >= {model for model, _ in TAGS}
    for model, tag in TAGS:
        assert registry.tag_config(model, tag) == open_clip.get_pretrained_cfg(model, tag)
        assert registry.model_config(model) == open_clip.get_model_config(model)


@pytest.mark.parametrize("model", dict.fromkeys(model for model, _ in TAGS))
def test_every_tag_is_loaded_as_the_reference_says(model: str) -> None:
    for tag in open_clip.list_pretrained_tags_by_model(model):
        said = open_clip.get_pretrained_cfg(model, tag)
        with structure_alone():
            reference = open_clip.create_model(model, pretrained=tag, device="meta")
            weights = find_weights(EncoderSettings(model=model, pretrained=tag, precision="float32"))
            ours, tokenize = load_reference(weights, "meta")
            theirs = open_clip.get_tokenizer(model)
        # Preprocessing: of the model that we use, of the reference's, and of the identity that is recorded.
        expected = open_clip.get_model_preprocess_cfg(reference)
        assert open_clip.get_model_preprocess_cfg(ours) == expected
        identity = weights.identity
        for name in ("mean", "std", "interpolation", "resize_mode"):
            assert getattr(identity.preprocessing, name) == expected[name] == said[name]
        size = expected["size"]
        assert identity.preprocessing.size == ((size, size) if isinstance(size, int) else tuple(size))
        # Activation: the tag's.
        assert identity.quick_gelu == said.get("quick_gelu", False)
        assert has_quick_gelu(ours) in (None, identity.quick_gelu)
        # Tokenizer.
        assert tokenizer_parts(tokenize) == tokenizer_parts(theirs)
        assert identity.tokenizer.startswith(f"{type(theirs).__name__}(")
        assert f"context_length={theirs.context_length}" in identity.tokenizer
        if isinstance(theirs, open_clip.tokenizer.HFTokenizer):
            assert identity.tokenizer.startswith(f"HFTokenizer({theirs.tokenizer.made_with[0]},")
        assert identity.dimension == open_clip.get_model_config(model)["embed_dim"]


def test_where_tag_and_config_disagree_one_line_says_it() -> None:
    disagreeing = {
        (model, tag)
        for model, tag in TAGS
        if bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu"))
        != bool(open_clip.get_model_config(model).get("quick_gelu"))
    }
    assert ("ViT-B-32", "openai") in disagreeing
    assert len(disagreeing) == 28
    said = {
        (model, tag) for model, tag in TAGS if describe_encoder(EncoderSettings(model=model, pretrained=tag)).remarks
    }
    assert said == disagreeing
    (line,) = describe_encoder(EncoderSettings(model="ViT-B-32", pretrained="openai")).remarks
    assert line == ("the weights openai want QuickGELU, open_clip's ViT-B-32 has GELU: it is built with QuickGELU")


def test_a_setting_overrides_the_tag() -> None:
    settings = EncoderSettings(
        model="ViT-B-32", pretrained="openai", quick_gelu=False, image_mean=(0.5, 0.5, 0.5), image_resize_mode="squash"
    )
    with structure_alone():
        weights = find_weights(settings)
        model, _ = load_reference(weights, "meta")
    assert has_quick_gelu(model) is False
    found = open_clip.get_model_preprocess_cfg(model)
    assert (found["mean"], found["resize_mode"], found["interpolation"]) == ((0.5, 0.5, 0.5), "squash", "bicubic")
    assert weights.remarks == ()
    plain = find_weights(
        settings.model_copy(update={"quick_gelu": None, "image_mean": None, "image_resize_mode": None})
    )
    assert plain.encoder_id != weights.encoder_id
