"""The real loading code, on the weights that ship here and on local checkpoints of other forms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from safetensors.torch import load_file

from storage.errors import PlaceprintError
from tasks.encode.encoder import load_encoder
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


def test_shipped_encoder_is_small_and_named_by_its_weights() -> None:
    import hashlib

    assert DEMO.file.stat().st_size <= 15_000_000
    digest = hashlib.sha256(DEMO.file.read_bytes()).hexdigest()
    assert DEMO.encoder_id == f"placeprint-demo@{digest[:12]}"


def test_vectors_do_not_depend_on_the_batch(pictures: list[Path]) -> None:
    """In training mode they would: batch normalisation."""
    encoder = load_encoder(EncoderSettings())
    alone, together = (encoder.encode_images(pictures, size) for size in (1, 9))
    np.testing.assert_allclose(alone, together, atol=2e-6)
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
