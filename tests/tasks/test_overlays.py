"""What is blanked before encoding: all of a rectangle, nothing else, in the images of its collection alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import picture, write_photos
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from flows.settings import Settings, load_settings
from storage.errors import PlaceprintError
from storage.store import Store
from storage.vectors import read_vectors
from tasks.encode.encoder import load_encoder
from tasks.encode.overlays import BLANK, PRESETS, Rectangle, blank
from tasks.encode.recipes import embeddings_recipe
from tasks.encode.settings import EncodeSettings
from tasks.encode.weights import EncoderSettings

GEOGUESSR = PRESETS["geoguessr"]
OWN = Rectangle(0.0, 0.9, 1.0, 1.0)
SIDE = st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda pair: pair[0] < pair[1])


@given(st.integers(1, 60), st.integers(1, 60), SIDE, SIDE)
def test_every_touched_pixel_is_blanked_and_no_other(
    width: int, height: int, columns: tuple[float, float], rows: tuple[float, float]
) -> None:
    image = Image.new("RGB", (width, height), (1, 2, 3))
    blanked = np.asarray(blank(image, [Rectangle(columns[0], rows[0], columns[1], rows[1])]))
    touched = np.ones((height, width), dtype=bool)
    for axis, (low, high) in enumerate((rows, columns)):
        n = (height, width)[axis]
        pixel = np.arange(n)
        touched &= np.expand_dims((pixel < high * n) & (pixel + 1 > low * n), 1 - axis)
    assert touched.any()
    np.testing.assert_array_equal((blanked == BLANK).all(axis=-1), touched)
    np.testing.assert_array_equal((blanked == (1, 2, 3)).all(axis=-1), ~touched)
    assert set(image.get_flattened_data()) == {(1, 2, 3)}  # the input is left as it was


def test_preset_covers_what_is_described_on_a_screen() -> None:
    blanked = np.asarray(blank(Image.new("RGB", (1536, 662)), GEOGUESSR)).any(axis=-1)
    assert blanked[661, 0]  # controls
    assert blanked[661, 1535]  # map
    assert blanked[331, 768]  # arrows
    assert blanked[0, 1535]  # score
    assert not blanked[0, 0]
    assert 0.2 < blanked.mean() < 0.4
    for left, top, right, bottom in GEOGUESSR:
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1


def test_documented_numbers_are_the_preset() -> None:
    page = (Path(__file__).parents[2] / "docs/encode.md").read_text()
    for rectangle in GEOGUESSR:
        assert f" | {' | '.join(str(share) for share in rectangle)} |\n" in page


def test_preset_and_own_rectangles_in_settings() -> None:
    settings = load_settings(None, ["encode.overlays.a=geoguessr", "encode.overlays.b=[[0, 0.9, 1, 1]]"])
    assert settings.encode.overlays == {"a": GEOGUESSR, "b": (OWN,)}
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("geogesr", "no overlay is called 'geogesr'; known are geoguessr, or give rectangles"),
        ([[0.5, 0, 0.5, 1]], r"left < right and top < bottom, not \[0.5, 0.0, 0.5, 1.0\]"),
        ([[0, 0.7, 1, 0.6]], "left < right and top < bottom"),
        ([[0, 0, 1536, 662]], "less than or equal to 1"),
        ([[-0.1, 0, 1, 1]], "greater than or equal to 0"),
        ([[0, 0, 1]], "Field required"),
        ([], "at least 1 item"),
    ],
)
def test_wrong_overlay_is_an_error(overlay: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EncodeSettings(overlays={"a": overlay})


def test_fingerprint_tells_what_is_blanked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(**overlays: object) -> str:
        return embeddings_recipe(EncodeSettings(overlays=overlays), "0123456789abcdef").fingerprint

    numbers = [list(rectangle) for rectangle in GEOGUESSR]
    plain, preset = fingerprint(), fingerprint(a="geoguessr")
    assert "overlays" not in embeddings_recipe(EncodeSettings(), "0123456789abcdef").settings
    assert preset == fingerprint(a=numbers)
    assert len({plain, preset, fingerprint(b="geoguessr"), fingerprint(a=numbers[:3])}) == 4
    monkeypatch.setitem(PRESETS, "geoguessr", (*GEOGUESSR[:3], OWN))
    assert fingerprint() == plain
    assert fingerprint(a="geoguessr") != preset


def test_blanked_parts_do_not_reach_the_encoder(tmp_path: Path) -> None:
    plain = picture(0, (1536, 662))
    arrows = plain.copy()
    arrows.paste((255, 0, 0), (640, 320, 900, 540))
    beside = plain.copy()
    beside.paste((255, 0, 0), (480, 320, 600, 540))
    paths = [tmp_path / f"{name}.png" for name in ("plain", "arrows", "beside")]
    for path, image in zip(paths, (plain, arrows, beside), strict=True):
        image.save(path)
    encoder = load_encoder(EncoderSettings())
    seen = encoder.encode_images(paths, 1)  # the place in a batch changes the last bit
    blanked = encoder.encode_images(paths, 1, [GEOGUESSR] * 3)
    assert seen[0] @ seen[1] < 0.999
    np.testing.assert_array_equal(blanked[0], blanked[1])
    assert blanked[0] @ blanked[2] < 0.999
    assert blanked[0] @ seen[0] < 0.999
    some = encoder.encode_images(paths, 3, [(), GEOGUESSR, ()])
    np.testing.assert_allclose(some, [seen[0], blanked[1], seen[2]], atol=1e-6)


def test_each_image_needs_its_overlay(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match="shorter"):
        load_encoder(EncoderSettings()).encode_images([tmp_path / "0.png"] * 2, 2, [GEOGUESSR])


@pytest.fixture
def two_collections(tmp_path: Path) -> list[str]:
    """Overrides for a new store and two collections, `game` and `tour`, of six images each; one is in both."""
    write_photos(tmp_path / "game", 6, size=(150, 70))
    tour = tmp_path / "tour" / "Egypt"
    tour.mkdir(parents=True)
    for number in range(5):
        picture(100 + number, (150, 70)).save(tour / f"{number}.jpg")
    (tour / "copy.jpg").write_bytes((tmp_path / "game/Egypt/00.jpg").read_bytes())
    sources = ", ".join(f"{{kind: folder, path: {tmp_path / name}, name: {name}}}" for name in ("game", "tour"))
    return [f"store={tmp_path / 'store'}", "labels=from-data", f"collect.sources=[{sources}]", "encode.shard_size=4"]


@pytest.mark.usefixtures("prefect_server")
def test_images_of_other_collections_are_encoded_as_they_are(two_collections: list[str], tmp_path: Path) -> None:
    from flows.collect import collect
    from flows.encode import encode

    collect(load_settings(None, two_collections))
    store = Store(tmp_path / "store")
    vectors = {}
    for name, overrides in {"plain": [], "blanked": ["encode.overlays.game=geoguessr"]}.items():
        made = encode(load_settings(None, [*two_collections, *overrides]))
        version = store.version("embeddings", made["embeddings"])
        vectors[name] = dict(
            zip(version.read(["image_id"])["image_id"].to_pylist(), read_vectors(version), strict=True)
        )
    images = store.version("images").read(["source", "image_id"]).to_pylist()
    game = {row["image_id"] for row in images if row["source"] == "game"}
    assert (len(game), len(vectors["plain"])) == (6, 11)
    for identity, plain in vectors["plain"].items():
        cosine = float(plain @ vectors["blanked"][identity])
        assert cosine < 0.999 if identity in game else cosine == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("prefect_server")
def test_overlay_of_a_collection_that_is_not_there_is_an_error(two_collections: list[str]) -> None:
    from flows.collect import collect
    from flows.encode import encode

    settings = load_settings(None, [*two_collections, "encode.overlays.gmae=geoguessr"])
    collect(settings)
    with pytest.raises(PlaceprintError, match="there are no images of gmae; there are of game, tour"):
        encode(settings)
