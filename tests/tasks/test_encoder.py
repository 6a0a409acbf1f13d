"""The real loading code, on the weights that ship here and on local checkpoints of other forms."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from conftest import picture
from safetensors.torch import load_file, save_file

from storage.errors import PlaceprintError
from tasks.encode.encoder import CPU_ROWS, TEXT_ROWS, load_encoder
from tasks.encode.weights import EncoderSettings, find_weights

DEMO = find_weights(EncoderSettings())


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        picture(number).save(path)
    return paths


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    path = tmp_path_factory.mktemp("reference") / "0.png"
    picture(0).save(path)
    return load_encoder(EncoderSettings()).encode_images([path], 1)


def test_shipped_encoder_is_small_and_named_by_what_it_is() -> None:
    assert DEMO.file.stat().st_size <= 15_000_000
    assert DEMO.identity.weights == hashlib.sha256(DEMO.file.read_bytes()).hexdigest()
    assert DEMO.encoder_id == f"placeprint-demo@{DEMO.identity.digest}"
    assert DEMO.assumed == ()


IDENTITY_CHANGES: list[dict[str, object]] = [
    {"weights": "0" * 64},
    {"quick_gelu": True},
    {"tokenizer": "SimpleTokenizer(context_length=77)"},
    {"precision": "float16"},
    {"model_config": {**DEMO.identity.model_config, "embed_dim": 64}},
    *(
        {"preprocessing": replace(DEMO.identity.preprocessing, **change)}
        for change in (
            {"size": (64, 64)},
            {"mean": (0.5, 0.5, 0.5)},
            {"std": (0.5, 0.5, 0.5)},
            {"interpolation": "bilinear"},
            {"resize_mode": "squash"},
        )
    ),
]


@pytest.mark.parametrize("change", IDENTITY_CHANGES, ids=str)
def test_whatever_changes_the_numbers_changes_the_id(change: dict[str, object]) -> None:
    assert replace(DEMO.identity, **change).digest != DEMO.identity.digest  # type: ignore[arg-type]


def test_another_name_is_the_same_encoder() -> None:
    assert replace(DEMO.identity, architecture="mine").digest == DEMO.identity.digest


def random_vit(folder: Path) -> EncoderSettings:
    """A small vision transformer with random weights, as a model config and a checkpoint."""
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 48, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    path = folder / "small-vit.json"
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    torch.manual_seed(0)
    save_file(open_clip.create_model("small-vit").state_dict(), folder / "small-vit.safetensors")
    return EncoderSettings(model=str(path), pretrained=str(folder / "small-vit.safetensors"), device="cpu")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["shipped", "vit"])
def test_an_image_has_the_same_bits_at_every_position_of_every_batch(kind: str, precision: str, tmp_path: Path) -> None:
    settings = EncoderSettings(device="cpu") if kind == "shipped" else random_vit(tmp_path)
    encoder = load_encoder(settings.model_copy(update={"precision": precision}))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2 * CPU_ROWS + 5, *encoder.image_px, 3), dtype=torch.uint8, generator=generator)
    together = encoder.encode_pixels(pixels)[0]
    image = pixels[:1]
    alone = encoder.encode_pixels(image)[0]
    assert torch.equal(alone[0], together[0])
    for n in (1, 7, CPU_ROWS, CPU_ROWS + 1, len(pixels)):
        for position in {0, n // 2, n - 1}:
            others = pixels[1 : n + 1].clone()[:n]
            others = torch.cat([others, pixels[: n - len(others)]])
            others[position] = image[0]
            assert torch.equal(encoder.encode_pixels(others)[0][position], alone[0]), (n, position)


def test_a_text_has_the_same_bits_whatever_comes_with_it() -> None:
    encoder = load_encoder(EncoderSettings(device="cpu"))
    texts = [f"a photo of place {number}" for number in range(2 * TEXT_ROWS + 3)]
    together = encoder.encode_texts(texts)
    for at in (0, 1, TEXT_ROWS - 1, TEXT_ROWS, len(texts) - 1):
        np.testing.assert_array_equal(encoder.encode_texts([texts[at]])[0], together[at])
    assert encoder.encode_texts([]).shape == (0, encoder.dimension)


def test_vectors_do_not_depend_on_the_batch(pictures: list[Path]) -> None:
    """In training mode they would: batch normalisation."""
    encoder = load_encoder(EncoderSettings())
    alone, together = (encoder.encode_images(pictures, size) for size in (1, 9))
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)
    assert alone.dtype == np.float32
    assert len(np.unique(alone.round(4), axis=0)) == 9


def test_texts(reference: np.ndarray) -> None:
    texts = load_encoder(EncoderSettings()).encode_texts(
        ["Egypt", "France", "a satellite photo of Egypt", "word " * 200]
    )
    assert texts.shape == (4, reference.shape[1])
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-5)


def pt_checkpoint(folder: Path) -> EncoderSettings:
    torch.save(load_file(DEMO.file), folder / "weights.pt")
    return EncoderSettings(model=str(DEMO.config), pretrained=str(folder / "weights.pt"))


def local_directory(folder: Path) -> EncoderSettings:
    config = {"model_cfg": json.loads(Path(str(DEMO.config)).read_text()), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    shutil.copy(DEMO.file, folder / "open_clip_model.safetensors")
    return EncoderSettings(model=f"local-dir:{folder}")


def other_name(folder: Path) -> EncoderSettings:
    shutil.copy(str(DEMO.config), folder / "mine.json")
    return EncoderSettings(model=str(folder / "mine.json"), pretrained=str(DEMO.file))


@pytest.mark.parametrize("form", [pt_checkpoint, local_directory, other_name])
def test_other_forms_of_the_same_weights_give_the_same_vectors(
    form: object, tmp_path: Path, reference: np.ndarray
) -> None:
    settings = form(tmp_path)  # type: ignore[operator]
    picture(0).save(tmp_path / "0.png")
    encoder = load_encoder(settings)
    np.testing.assert_allclose(encoder.encode_images([tmp_path / "0.png"], 1), reference, atol=1e-6)
    assert encoder.encoder_id.rpartition("@")[2] == find_weights(settings).encoder_id.rpartition("@")[2]


class Stranger:
    """A pickled object that is no tensor."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("code from a checkpoint ran",))


def test_checkpoint_with_code_in_it_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Stranger()}, tmp_path / "weights.pt")
    with pytest.raises(PlaceprintError, match="does not load"):
        load_encoder(EncoderSettings(model=str(DEMO.config), pretrained=str(tmp_path / "weights.pt")))
    assert "ran" not in capfd.readouterr().out


def test_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(DEMO.file.read_bytes()[:100_000])
    with pytest.raises(PlaceprintError, match="does not load"):
        load_encoder(EncoderSettings(model=str(DEMO.config), pretrained=str(path)))


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-32", None, "needs a tag or a checkpoint file"),
        ("ViT-B-32", "nowhere.pt", "checkpoint nowhere.pt does not exist"),
        ("ViT-B-32", "opnai", "has no weights 'opnai'; it has openai"),
        ("ViT-B-33", "openai", "knows no 'ViT-B-33'; nearest: ViT-B-32"),
        ("nowhere.json", "x.pt", "model config nowhere.json does not exist"),
        ("local-dir:nowhere", None, "holds no open_clip weights"),
        ("hf-hub:nobody/nothing", None, "could not be downloaded"),
        ("ViT-B-32", "openai", "could not be downloaded"),
    ],
)
def test_missing_weights_are_an_error_never_random(model: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(PlaceprintError, match=message):
        load_encoder(EncoderSettings(model=model, pretrained=pretrained))


def test_missing_device_is_an_error() -> None:
    with pytest.raises(PlaceprintError, match="device: 'cuda:77' is not there"):
        load_encoder(EncoderSettings(device="cuda:77"))
