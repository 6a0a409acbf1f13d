"""Encoders at the command line: listed, shown, verified; folders of transformers, bare checkpoints, missing extras; queries."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from command_line import placeprint
from conftest import picture
from PIL import Image
from safetensors.torch import save_file
from transformers_folder import clip_tokenizer, save_small_clip

from flows.collecting import collect_images
from flows.encoding import encode_images
from flows.search import Searcher
from flows.settings import Settings, load_settings
from storage.errors import PlaceprintError
from storage.store import Store
from storage.vectors import read_vectors
from tasks.encode import verify
from tasks.encode.description import describe_encoder
from tasks.encode.encoder import Encoder, load_encoder
from tasks.encode.encoder_settings import EncoderSettings
from tasks.encode.queries import QueryEncoder

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, one of them with transparency, collected and encoded."""
    root = tmp_path_factory.mktemp("encoders")
    for number in range(12):
        folder = root / "photos" / ("chile" if number % 2 else "peru")
        folder.mkdir(parents=True, exist_ok=True)
        picture(number, (90, 70)).save(folder / f"{number}.png")
    seen_through = picture(50, (90, 70)).convert("RGBA")
    seen_through.putalpha(Image.fromarray(np.tile(np.repeat(np.uint8([0, 255]), 45), (70, 1))))
    seen_through.save(root / "photos" / "peru" / "alpha.png")
    settings = wanted(root)
    encode_images(settings, collect_images(settings))
    return root


def wanted(root: Path, *overrides: str) -> Settings:
    sources = f"collect.sources=[{{kind: folder, path: {root / 'photos'}}}]"
    return load_settings(None, [f"store={root / 'store'}", "labels=from-data", sources, *overrides])


def said(*words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    return placeprint(*words, monkeypatch=monkeypatch, capfd=capfd)


def test_show_as_json_says_what_the_reference_says(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for model, tag in (("ViT-B-32", "openai"), ("PE-Core-T-16-384", "meta"), ("ViT-B-16-SigLIP", "webli")):
        code, out, _ = said("encoders", "show", model, tag, "--json", monkeypatch=monkeypatch, capfd=capfd)
        shown, tagged = json.loads(out), open_clip.get_pretrained_cfg(model, tag)
        assert code == 0
        assert (shown["architecture"], shown["dimension"]) == (model, open_clip.get_model_config(model)["embed_dim"])
        assert shown["quick_gelu"] == tagged.get("quick_gelu", False)
        for name in ("mean", "std", "interpolation", "resize_mode"):
            assert shown["preprocessing"][name] == (
                list(tagged[name]) if isinstance(tagged[name], tuple) else tagged[name]
            )
        assert "context_length=" in shown["tokenizer"]


def test_list_and_show_for_people(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("flows.commands.encoders.output.width", 200)
    code, out, _ = said("encoders", "list", "datacomp", monkeypatch=monkeypatch, capfd=capfd)
    assert code == 0
    assert out.count("datacomp") == sum("datacomp" in f"{each}" for each in open_clip.list_pretrained())
    code, out, _ = said("encoders", "show", "ViT-B-32", "openai", monkeypatch=monkeypatch, capfd=capfd)
    assert (code, "QuickGELU" in out, "224 x 224 px, bicubic" in out) == (0, True, True)
    for words, message in (
        (("show", "ViT-B-33", "openai"), "open_clip knows no 'ViT-B-33'; nearest: ViT-B-32"),
        (("show", "ViT-B-32", "opnai"), "ViT-B-32 has no weights 'opnai'; it has openai"),
        (("show", "ViT-B-32"), "ViT-B-32 needs a tag or a checkpoint file"),
        (("show", "local-dir:nowhere"), "nowhere holds no open_clip weights"),
    ):
        code, _, err = said("encoders", *words, monkeypatch=monkeypatch, capfd=capfd)
        assert code == 1
        assert message in err
        assert len(err.strip().splitlines()) == 1


def test_missing_extra_is_one_line_that_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tasks.encode.weights.find_spec", lambda _: None)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    with pytest.raises(
        PlaceprintError, match=r"tokenizer of ViT-B-16-SigLIP needs the extra `transformers`: pip install"
    ):
        load_encoder(EncoderSettings(model="ViT-B-16-SigLIP", pretrained=str(path), device="cpu"))
    with pytest.raises(PlaceprintError, match=r"of xlm-roberta-base-ViT-B-32 needs the extra"):
        load_encoder(EncoderSettings(model="xlm-roberta-base-ViT-B-32", pretrained=str(path), device="cpu"))


def test_verify_passes_and_says_what_is_decoded_otherwise(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["-s", "labels=from-data", "--store", str(root / "store")]
    code, _, err = said("encode", "--verify", "13", *given, monkeypatch=monkeypatch, capfd=capfd)
    assert code == 0
    assert "encode: verified against the reference: 12 images, cosine at least 0.99" in err
    assert "4 prompts, at least 1.000000" in err
    assert "1 images decoded otherwise on purpose, at least 0." in err
    code, _, err = said("encode", "13", *given, monkeypatch=monkeypatch, capfd=capfd)
    assert (code, "goes with --verify" in err) == (2, True)


def test_verify_refuses_an_encoder_that_is_not_the_reference(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the fault was that this is for: the reference has the tag's preprocessing, and ours has another."""
    load = verify.load_encoder

    def with_other_pixels(*args: object, **kwargs: object) -> Encoder:
        encoder = load(*args, **kwargs)  # type: ignore[arg-type]
        broken = object.__new__(Encoder)
        broken.__dict__.update(encoder.__dict__)
        broken._mean = encoder._mean * 0
        return broken

    monkeypatch.setattr(verify, "load_encoder", with_other_pixels)
    n_versions = len(Store(root / "store").versions("embeddings"))
    with pytest.raises(
        PlaceprintError, match=r"is not the reference: cosine 0\.\d+, below 0\.999: nothing was encoded"
    ):
        encode_images(wanted(root, "encode.verify=10", "encode.fresh=true"))
    assert len(Store(root / "store").versions("embeddings")) == n_versions


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_folder_of_transformers_is_encoded_and_searched(root: Path, tmp_path: Path, activation: str) -> None:
    act = {"hidden_act": activation}
    theirs = save_small_clip(tmp_path / "clip", text=act, vision=act)
    store = Path(shutil.copytree(root / "store", tmp_path / "store"))
    settings = wanted(
        root,
        f"store={store}",
        f"encode.encoder.model=local-dir:{tmp_path / 'clip'}",
        "encode.encoder.precision=float32",
    )
    made = encode_images(settings, Store(store).version("images").fingerprint)
    version = Store(store).version("embeddings", made["embeddings"])
    assert version.notes["identity"]["quick_gelu"] == (activation == "quick_gelu")
    assert version.notes["encoder"].startswith("local-dir:clip@")
    prompts = Store(store).version("prompts", made["prompts"])
    texts = prompts.read(["prompt"])["prompt"].to_pylist()
    tokens = clip_tokenizer()(texts, padding="max_length", truncation=True, return_tensors="pt")
    with torch.inference_mode():
        expected = theirs.get_text_features(**tokens).pooler_output
    expected = torch.nn.functional.normalize(expected, dim=-1).numpy()
    np.testing.assert_allclose(read_vectors(prompts), expected, atol=1e-5)
    answer = Searcher(Store(store)).search("a photo of peru", 3)
    assert len(answer.hits) == 3


def test_a_bare_checkpoint_says_what_was_assumed_and_settings_override_it(
    root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "bare.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "bare.json")
    save_file(open_clip.create_model("bare").state_dict(), tmp_path / "bare.safetensors")
    store = Path(shutil.copytree(root / "store", tmp_path / "store"))
    named = [
        f"store={store}",
        f"encode.encoder.model={tmp_path / 'bare.json'}",
        f"encode.encoder.pretrained={tmp_path / 'bare.safetensors'}",
    ]
    images = Store(store).version("images").fingerprint
    first = Store(store).version("embeddings", encode_images(wanted(root, *named), images)["embeddings"])
    err = capfd.readouterr().err
    for assumed in (
        "quick_gelu: GELU",
        "image_mean: (0.48145466",
        "image_interpolation: bicubic",
        "image_resize_mode: shortest",
    ):
        assert f"encode: assumed of the checkpoint, since nothing says it: {assumed}" in err
    assert len(first.notes["assumed"]) == 5
    assert "encode: 4 prompts are longer than the encoder reads, and cut" not in err
    overrides = ["encode.encoder.quick_gelu=true", "encode.encoder.image_mean=[0.5, 0.5, 0.5]"]
    second = Store(store).version("embeddings", encode_images(wanted(root, *named, *overrides), images)["embeddings"])
    err = capfd.readouterr().err
    assert "quick_gelu" not in err
    assert len(second.notes["assumed"]) == 3
    assert second.notes["identity"]["quick_gelu"]
    assert second.notes["identity"]["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert second.counts["reused"] == 0
    assert not np.allclose(read_vectors(first), read_vectors(second))


def test_a_setting_that_is_not_looked_at_is_said(tmp_path: Path) -> None:
    save_small_clip(tmp_path)
    described = describe_encoder(EncoderSettings(model=f"local-dir:{tmp_path}", pretrained="openai"))
    assert described.remarks == (f"pretrained is not looked at: local-dir:{tmp_path} brings its own weights",)


def test_what_is_loaded_must_be_what_its_identity_says(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EncoderSettings(device="cpu", image_resize_mode="squash")
    create = open_clip.create_model
    monkeypatch.setattr(
        open_clip, "create_model", lambda name, **given: create(name, **{**given, "force_preprocess_cfg": {}})
    )
    with pytest.raises(PlaceprintError, match=r"was loaded with 32 x 32 px, bicubic, shorter side .*, and not with"):
        load_encoder(settings)


def test_queries_are_those_of_the_tables_encoder(root: Path) -> None:
    notes = Store(root / "store").version("embeddings").notes
    encoder = QueryEncoder(notes)
    reference = load_encoder(EncoderSettings(device="cpu", precision="float32"))
    np.testing.assert_allclose(
        encoder.text("a photo of Chile"), reference.encode_texts(["a photo of Chile"]), atol=1e-6
    )
    path = root / "photos" / "peru" / "0.png"
    same = load_encoder(EncoderSettings(device="cpu", precision=notes["precision"]))
    np.testing.assert_allclose(encoder.image(path), same.encode_images([path]), atol=1e-6)
    assert encoder.n_cut("short") is None
    assert encoder.n_cut("word " * 40) == (42, 24)
    assert reference.n_tokens("word " * 40) == 42
    with pytest.raises(PlaceprintError, match="made by other@1, here is placeprint-demo@"):
        QueryEncoder({**notes, "encoder": "other@1"})
    with pytest.raises(PlaceprintError, match="made by an earlier placeprint: encode again"):
        QueryEncoder({"encoder": "placeprint-demo@c08158ce8f68", "model": "placeprint-demo", "pretrained": None})


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "search: the query is empty"),
        ("   ", "search: the query is empty"),
        ("holiday.heic", "search: the image holiday.heic does not exist"),
        ("my holiday.JPG", "search: the image my holiday.JPG does not exist"),
        ("./nothing", "search: the image ./nothing does not exist"),
        ("/nowhere/at/all", "search: the image /nowhere/at/all does not exist"),
        ("PHOTOS", "is a folder: give an image file"),
        ("notes.txt", "notes.txt is not a usable image"),
    ],
)
def test_mistaken_queries_are_one_line(
    root: Path, query: str, message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (root / "notes.txt").write_text("no picture")
    monkeypatch.chdir(root)
    query = query.replace("PHOTOS", "photos")
    code, _, err = said("search", query, "--store", str(root / "store"), monkeypatch=monkeypatch, capfd=capfd)
    assert code == 1
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_texts_that_only_look_like_something_else_are_texts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    searcher = Searcher(Store(root / "store"))
    for query in ("Mt. Fuji", "day/night", "St. Petersburg, 5.30 p.m.", "x" * 5000, "a\0b"):
        assert len(searcher.search(query, 2).hits) == 2
    assert searcher.search("photos", 2, is_text=True).hits == searcher.search("Photos", 2).hits
    assert searcher.search("word " * 40).cut == (42, 24)


def test_prompt_answers_one_query_after_another(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    command = [sys.executable, "-m", "flows.cli", "search", "--k", "1", "--store", str(root / "store")]
    found = subprocess.run(
        command,
        input="Chile\n\nholiday.heic\nPeru\n",
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert found.returncode == 1  # one of them could not be answered
    assert found.stdout.count("Page: ") == 2
    assert (
        found.stderr.strip() == "error: search: the image holiday.heic does not exist (--text searches for the words)"
    )
