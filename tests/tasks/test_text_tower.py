"""The text side in NumPy against open_clip's own: ids of tokens, vectors, and what is left to open_clip."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save_file

from tasks.encode.text_tower import TextTower, Tokenizer

MODELS = Path(str(files("tasks.encode").joinpath("models")))
DEMO = json.loads((MODELS / "placeprint-demo.json").read_text())
DEMO_WEIGHTS = MODELS / "placeprint-demo.safetensors"
SIMPLE = open_clip.get_tokenizer("ViT-B-32")
TEXTS = [
    "a photo of a castle",
    "",
    "Schloß Neuschwanstein, Bavaria – 47.5576° N",
    "two people don't walk on the beach, &lt;b&gt;sun&lt;/b&gt; 😀",
    "the same word " * 40,
    "<end_of_text> comes first <start_of_text>",
    "<start_of_text>",
]
TINY_VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TINY: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": TINY_VISION,
    "text_cfg": {"context_length": 12, "width": 32, "heads": 4, "layers": 2, "mlp_ratio": 2.7},
}
# What a text may hold that a tokenizer may stumble over: special tokens, contractions, entities, mojibake, signs of many kinds.
PIECES = [
    *("<start_of_text>", "<END_of_text>", "<ſtart_of_text>", "&lt;end_of_text&gt;", "</w>", "<", ">", "Ġ", "\u0120a"),
    *("'s", "'S", "'ſ", "’s", "'ll", "'RE", "'d'", "don't", "’"),
    *("&amp;", "&amp;lt;", "&#0;", "&#xD800;", "&#x1F600;", "&#xFB06;", "&"),
    *("Ã©", "â€™", "â€œ", "ï»¿", "Ã", "schÃ¶n"),
    *(
        "e\u0301",
        "ﬁ",
        "ſt",
        "İ",
        "ı",
        "ß",
        "ẞ",
        "ǅ",
        "\u212a",
        "\u212b",
        "Ω",
        "Привет",
        "漢字",
        "ｶﾞ",
        "Ｆｕｌｌ",
        "שלום",
        "नमस्ते",
    ),
    *("1234567890", "١٢٣", "१२", "Ⅷ", "½", "²", "３"),
    *("😀", "👩\u200d👩\u200d👧", "🇩🇪", "\ufe0f", "\U0010ffff", "\ufffe", "\ud800", "\udcff"),
    *("\0", "\x07", "\x1b[31m", "\x85", "\xa0", "\xad", "\u200b", "\u2028", "\u3000", "\t", "\n", " ", "  "),
    *("a" * 300, "abc" * 99, "_", "--", "...", "!?", "a photo of", "castle", "X", "t", "tt"),
]
NASTY = st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4))).map("".join))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[Any]:
    """Registers model configs with open_clip, as an encoder does with a model-config JSON; they are gone after the test."""

    def register(name: str, config: dict[str, Any]) -> str:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config))
        open_clip.add_model_config(path)
        return name

    yield register
    for path in tmp_path.glob("*.json"):
        open_clip.factory._MODEL_CONFIG_PATHS.remove(path)
        del open_clip.factory._MODEL_CONFIGS[path.stem]


def random_checkpoint(name: str, path: Path, **options: Any) -> torch.nn.Module:
    """An open_clip model of random weights, none of them at the zeros and ones they begin with, and its checkpoint."""
    torch.manual_seed(0)
    model, _, _ = open_clip.create_model_and_transforms(name, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, path)
    return model


def tiny_weights(tmp_path: Path, registered: Any, config: dict[str, Any] = TINY) -> Path:
    weights = tmp_path / "tiny.safetensors"
    random_checkpoint(registered("tiny", config), weights)
    return weights


def reference(name: str, model: torch.nn.Module) -> np.ndarray:
    """What open_clip itself makes of `TEXTS`."""
    with torch.inference_mode():
        return model.eval().encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True).numpy()


def loaded_reference(name: str, weights: Path) -> np.ndarray:
    return reference(name, open_clip.create_model_and_transforms(name, pretrained=str(weights))[0])


def assert_same(tower: TextTower | None, expected: np.ndarray, tolerance: float) -> None:
    assert tower is not None
    found = tower.encode(TEXTS)
    assert found.dtype == np.float32
    assert tower.dimension == expected.shape[1]
    # The texts are told apart, or sameness would say little.
    assert np.abs(expected - expected.mean(axis=0)).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(tower.encode(TEXTS[2:3]), expected[2:3], rtol=0, atol=tolerance)


def test_demo_encoder_gives_the_vectors_of_open_clip():
    open_clip.add_model_config(MODELS / "placeprint-demo.json")
    tower = TextTower.load(DEMO, DEMO_WEIGHTS, quick_gelu=False)
    assert_same(tower, loaded_reference("placeprint-demo", DEMO_WEIGHTS), 1e-6)
    assert tower.context_length == tower.tokenizer.context_length == 24
    assert tower.encode([]).shape == (0, 128)
    assert tower.encode([]).dtype == np.float32


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-32-quickgelu"])
def test_registered_models_give_the_vectors_of_open_clip(name, tmp_path):
    config = open_clip.get_model_config(name)
    weights = tmp_path / "weights.safetensors"
    try:
        expected = reference(name, random_checkpoint(name, weights))
        tower = TextTower.load(config, weights, quick_gelu=config.get("quick_gelu", False))
        assert_same(tower, expected, 1e-5)
        other = TextTower.load(config, weights, quick_gelu=not config.get("quick_gelu", False))
        assert np.abs(other.encode(TEXTS) - expected).max() > 1e-4
    finally:
        weights.unlink()  # 600 MB


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layouts_of_a_checkpoint(custom, dtype, tmp_path, registered):
    config = TINY | {"custom_text": custom, "init_logit_bias": -10}
    weights = tiny_weights(tmp_path, registered, config)
    tensors = {key: tensor.to(dtype) for key, tensor in load(weights.read_bytes()).items()}
    assert ("text.token_embedding.weight" in tensors) is custom
    save_file(tensors, weights)
    expected = loaded_reference("tiny", weights)
    assert_same(TextTower.load(config, weights, quick_gelu=False), expected, 1e-6)
    if custom:
        # open_clip reads the names of a plain model into one with a text side of its own, but not the other way round.
        assert TextTower.load(TINY, weights, quick_gelu=False) is None
        save_file({key.removeprefix("text."): tensor for key, tensor in tensors.items()}, weights)
        assert_same(TextTower.load(config, weights, quick_gelu=False), loaded_reference("tiny", weights), 1e-6)


def test_every_config_of_open_clip_gives_the_same_vectors_or_none(tmp_path, registered):
    """All of them as they are but for sizes, and those with a tokenizer or a model of the hub with a plain model's file."""
    small = {"width": 32, "heads": 2, "layers": 1}
    plain = {"embed_dim": 24, "vision_cfg": TINY_VISION, "text_cfg": small}
    plain_weights = tmp_path / "plain.safetensors"
    random_checkpoint(registered("plain", plain), plain_weights)
    assert TextTower.load(plain, plain_weights, quick_gelu=False) is not None

    # Other tests of the process may have registered models of their own.
    own = {path.stem for path in (Path(open_clip.__file__).parent / "model_configs").glob("*.json")}
    kinds: dict[str, list[str]] = {}
    answered: set[str] = set()
    for name in sorted(own):
        config = open_clip.get_model_config(name) | {"embed_dim": 24, "vision_cfg": TINY_VISION}
        config["text_cfg"] |= small
        if "hf_model_name" in config["text_cfg"] or "hf_tokenizer_name" in config["text_cfg"]:
            config["text_cfg"] |= {"context_length": 77, "vocab_size": 49408}
            assert TextTower.load(config, plain_weights, quick_gelu=False) is None, name
        else:
            kinds.setdefault(json.dumps(config, sort_keys=True), []).append(name)
    for number, (text, names) in enumerate(kinds.items()):
        config = json.loads(text)
        weights = tmp_path / f"kind-{number}.safetensors"
        model = random_checkpoint(registered(weights.stem, config), weights)
        tower = TextTower.load(config, weights, quick_gelu=config.get("quick_gelu", False))
        if tower is not None:
            assert_same(tower, reference(weights.stem, model), 1e-6)
            answered.update(names)
    left = own - answered
    assert {"ViT-B-32", "ViT-L-14-quickgelu", "RN50", "convnext_base", "EVA02-B-16", "MobileCLIP-B"} <= answered
    assert {"MobileCLIP-S1", "coca_ViT-B-32", "ViT-B-16-SigLIP", "ViT-L-14-CLIPA", "xlm-roberta-base-ViT-B-32"} <= left
    assert not any("siglip" in name.lower() for name in answered)
    assert len(answered) > len(left)


@pytest.mark.parametrize(
    "change",
    [
        {"multimodal_cfg": {}},
        {"embed_dim": None},
        {"embed_dim": 0},
        {"text_cfg": None},
        {"unheard_of": 1},
        *(
            {"text_cfg": TINY["text_cfg"] | change}
            for change in (
                {"hf_tokenizer_name": "bert-base-uncased"},
                {"hf_model_name": None},
                {"tokenizer_kwargs": {"clean": "canonicalize"}},
                {"no_causal_mask": True},
                {"pool_type": "eos"},
                {"proj_type": "none"},
                {"proj_bias": True},
                {"embed_cls": True},
                {"act_kwargs": {"approximate": "tanh"}},
                {"norm_kwargs": {"eps": 1e-6}},
                {"ls_init_value": 1e-5},
                {"qk_norm": True},
                {"output_tokens": True},
                {"unheard_of": 1},
                {"embed_dim": 24},
                {"layers": 0},
                {"layers": 1},
                {"layers": 3},
                {"layers": True},
                {"heads": 5},
                {"heads": "4"},
                {"width": 64},
                {"context_length": 11},
                {"vocab_size": 49407},
                {"mlp_ratio": 4},
                {"mlp_ratio": "2.7"},
            )
        ),
    ],
    ids=lambda change: json.dumps(change)[:80],
)
def test_no_tower_for_a_config_that_is_not_known_to_fit(change, tmp_path, registered):
    weights = tiny_weights(tmp_path, registered)
    same = {"no_causal_mask": False, "pool_type": "argmax", "proj_type": "linear", "proj_bias": False}
    plain = TINY | {"text_cfg": TINY["text_cfg"] | same}
    assert TextTower.load(plain, weights, quick_gelu=False) is not None
    assert TextTower.load(TINY | change, weights, quick_gelu=False) is None


def test_no_tower_for_weights_that_do_not_fit(tmp_path, registered):
    weights = tiny_weights(tmp_path, registered)
    tensors = load(weights.read_bytes())
    whole = weights.read_bytes()

    def loads(path: Path = weights) -> bool:
        return TextTower.load(TINY, path, quick_gelu=False) is not None

    assert loads()
    assert not loads(tmp_path / "missing.safetensors")
    assert not loads(tmp_path)
    weights.write_bytes(whole[:-1])
    assert not loads()
    weights.write_bytes(b"")
    assert not loads()
    other = tmp_path / "weights.pt"
    torch.save(tensors, other)
    assert not loads(other)
    other.rename(weights)
    assert not loads()
    save_file(tensors | {"ln_final.bias": tensors["ln_final.bias"].bfloat16()}, weights)
    assert not loads()
    save_file(tensors | {"transformer.resblocks.0.ls_1.gamma": torch.ones(32)}, weights)
    assert not loads()
    save_file({key: tensor for key, tensor in tensors.items() if key != "ln_final.bias"}, weights)
    assert not loads()
    # open_clip interpolates them.
    save_file(tensors | {"positional_embedding": torch.ones(20, 32)}, weights)
    assert not loads()
    weights.write_bytes(whole)
    assert loads()


@settings(max_examples=1000)
@given(NASTY)
@example("a" * 2000)
@example("".join(PIECES))
def test_tokens_are_those_of_open_clip(text):
    expected = SIMPLE.encode(text)
    mine = Tokenizer(len(expected) + 2)
    np.testing.assert_array_equal(mine(text), SIMPLE([text], context_length=len(expected) + 2))
    assert mine.count(text) == len(expected) + 2


@given(st.lists(NASTY, max_size=5), st.integers(1, 80))
def test_texts_are_cut_and_filled_as_open_clip_does(texts, context_length):
    found = Tokenizer(context_length)(texts)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, SIMPLE(texts, context_length=context_length).numpy())


def test_words_of_the_vocabulary():
    """All that merges of byte pairs end in, at a word's end and before another's beginning."""
    text = SIMPLE.decode(range(512, 49406))
    expected = SIMPLE.encode(text)
    assert len(expected) > 45_000
    np.testing.assert_array_equal(Tokenizer(len(expected) + 2)(text)[0, 1:-1], expected)


def test_count_says_that_a_text_is_cut():
    tokenizer = Tokenizer(8)
    assert tokenizer.count("") == 2
    assert tokenizer.count("one two three four five six") == 8
    assert tokenizer.count("one two three four five six seven") == 9
    assert tokenizer("one two three four five six seven").tolist() == tokenizer("one two three four five six").tolist()


def test_no_torch_for_a_query():
    code = f"""
import json, sys
from pathlib import Path
from tasks.encode.text_tower import TextTower
tower = TextTower.load(json.loads(Path({str(MODELS / "placeprint-demo.json")!r}).read_text()), Path({str(DEMO_WEIGHTS)!r}), quick_gelu=False)
assert tower.encode(["a photo of a castle"]).shape == (1, 128)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "tokenizers" in loaded
    assert not loaded & {"torch", "open_clip", "transformers", "timm", "scipy", "prefect"}
