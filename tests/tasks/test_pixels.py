"""Pixels as open_clip's own transform makes them, but for a level or two; and the same refusals of what is damaged."""

from __future__ import annotations

import io

import numpy as np
import open_clip
import pytest
import torch
from conftest import picture
from image_corpus import BAD, encoded
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from storage.schemas import RejectReason
from tasks.collect.world_map import WORLD_MAPS, load_pixels
from tasks.encode.encoder import load_encoder
from tasks.encode.pixels import LONGEST, PixelTransform, middle_window
from tasks.encode.weights import EncoderSettings
from tasks.images import ImageError, decode

CLIP = PreprocessCfg(size=224)
CLIP_PIXELS = PixelTransform(224, "bicubic")


def photo(number: int, size: tuple[int, int], **options: object) -> bytes:
    """A JPEG with the detail of a photograph: a piece of a map of the world."""
    world = load_pixels(WORLD_MAPS[number % 3])
    generator = np.random.default_rng(number)
    top, left = (
        int(generator.integers(0, side - length)) for side, length in zip(world.shape, size[::-1], strict=False)
    )
    piece = np.ascontiguousarray(world[top : top + size[1], left : left + size[0]])
    return encoded(Image.fromarray(piece), "JPEG", quality=90, **options)


def levels(config: PreprocessCfg, data: bytes) -> np.ndarray:
    """What open_clip's own transform gives, in levels of 255, (height, width, 3)."""
    transform = image_transform_v2(config, is_train=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    return ((transform(Image.open(io.BytesIO(data))) * std + mean) * 255).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (641, 479), (100, 80), (224, 224), (224, 300), (1793, 900)])
def test_pixels_are_those_of_open_clip(size: tuple[int, int], interpolation: str) -> None:
    data = photo(sum(size), size)
    config = PreprocessCfg(size=224, interpolation=interpolation)
    transform = PixelTransform.like(config)
    assert transform is not None
    difference = np.abs(transform(data).astype(np.float64) - levels(config, data))
    assert difference.max() <= 2.01
    assert difference.mean() < 0.02


@pytest.mark.parametrize("size", [(1792, 1792), (2688, 1800), (2000, 1840)])
def test_jpegs_much_larger_than_needed_are_decoded_smaller_and_stay_close(size: tuple[int, int]) -> None:
    data = photo(7, size)
    difference = np.abs(CLIP_PIXELS(data).astype(np.float64) - levels(CLIP, data))
    assert 0.02 < difference.mean() < 1.0  # it was decoded smaller, or there would be hardly any difference


def test_sides_that_cannot_be_divided_are_decoded_whole() -> None:
    data = photo(7, (1793, 1793))
    assert np.abs(CLIP_PIXELS(data).astype(np.float64) - levels(CLIP, data)).max() <= 2.01


def test_embeddings_agree_with_open_clips_own_transform() -> None:
    """The stated cosine, on the shipped encoder, which is trained: an untrained one hardly tells pictures apart."""
    encoder = load_encoder(EncoderSettings())
    sizes = [(96, 96), (640, 480), (1280, 960), (2048, 1536), (1999, 1333), (2000, 1504)]
    data = [photo(number, sizes[number % 6]) for number in range(60)]
    vectors = {}
    for exact in (True, False):
        prepare = encoder.prepare(exact=exact)
        vectors[exact] = encoder.encode_pixels(torch.stack([prepare(each, ()) for each in data]))[0]
    assert (vectors[True] * vectors[False]).sum(dim=1).min() >= 0.999


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(1, (300, 200)), "JPEG", exif=exif, quality=95)


FORMS = {
    "rotated": rotated(),
    "grey": encoded(picture(2, (300, 200)).convert("L"), "JPEG", quality=95),
    "cmyk": encoded(picture(3, (300, 200)).convert("CMYK"), "JPEG", quality=95),
    "png": encoded(picture(4, (300, 200)), "PNG"),
    "palette": encoded(picture(5, (300, 200)).convert("P"), "GIF"),
    "alpha": encoded(picture(6, (300, 200)).convert("RGBA"), "WEBP", lossless=True),
    "progressive": encoded(picture(7, (300, 200)), "JPEG", progressive=True, quality=95),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_picture_is_seen_as_the_slow_way_sees_it(form: str) -> None:
    encoder = load_encoder(EncoderSettings())
    fast, exact = (encoder.prepare(exact=exact)(FORMS[form], ()) for exact in (False, True))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (CLIP.mean, CLIP.std))
    assert (fast.permute(2, 0, 1) - (exact * std + mean) * 255).abs().max() <= 2.01


@pytest.mark.parametrize("kind", BAD)
def test_damaged_pictures_are_refused_for_the_same_reason(kind: str) -> None:
    data, _ = BAD[kind]
    with pytest.raises(ImageError) as slow:
        decode(data)
    with pytest.raises(ImageError) as fast:
        CLIP_PIXELS(data)
    assert (fast.value.reason, fast.value.detail) == (slow.value.reason, slow.value.detail)


def thin(size: tuple[int, int]) -> Image.Image:
    """A long picture with the detail of a photograph."""
    generator = np.random.default_rng(sum(size))
    coarse = generator.integers(0, 256, (max(1, size[1] // 3), max(1, size[0] // 3), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    "size", [(300, 10), (301, 10), (11, 330), (900, 31), (63, 2), (30, 1), (1, 29), (2000, 70), (448, 32), (6000, 300)]
)
def test_long_pictures_are_seen_as_if_all_of_them_were_resized(size: tuple[int, int]) -> None:
    image = thin(size)
    data = encoded(image, "PNG")
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1).unsqueeze(0)
    sides = [224 if side == min(size) else int(224 * side / min(size)) for side in size[::-1]]
    whole = torch.nn.functional.interpolate(planes, sides, mode="bicubic", align_corners=False, antialias=True)
    top, left = (round((side - 224) / 2) for side in sides)
    expected = whole[0, :, top : top + 224, left : left + 224].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(CLIP_PIXELS(data), expected)
    assert np.abs(expected - levels(CLIP, data)).max() <= 2.01
    assert middle_window(image) is image


@pytest.mark.parametrize(
    "size", [(500, 10), (10, 501), (4000, 33), (33, 4001), (9000, 250), (100, 1), (99, 1), (1, 77)]
)
def test_of_very_long_pictures_the_same_middle_is_seen(size: tuple[int, int]) -> None:
    """To half a pixel of what comes out: where the middle of the whole falls between two, it is rounded."""
    image = thin(size)
    data = encoded(image, "PNG")
    seen = levels(CLIP, data)
    window = encoded(middle_window(image), "PNG")
    for pixels in (CLIP_PIXELS(data).astype(np.float64), levels(CLIP, window)):
        one_further = np.abs(np.diff(seen, axis=1 if size[0] > size[1] else 0)).max()
        assert np.abs(pixels - seen).max() <= one_further + 1.01
        assert np.abs(pixels - seen).mean() < 3


@pytest.mark.parametrize("size", [(400_000, 1), (1, 400_000), (20_000, 8), (65_500, 2)])
def test_thin_pictures_cost_no_more_than_others(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    resize = torch.nn.functional.interpolate

    def watched(planes: torch.Tensor, **options: object) -> torch.Tensor:
        resized: torch.Tensor = resize(planes, **options)
        made.extend((planes.numel(), resized.numel()))
        return resized

    monkeypatch.setattr(torch.nn.functional, "interpolate", watched)
    image = Image.new("RGB", size, (90, 120, 60))
    forms = ["PNG"] if max(size) > 65_500 else ["PNG", "JPEG"]
    for data in (encoded(image, form) for form in forms):
        pixels = CLIP_PIXELS(data)
        assert pixels.shape == (224, 224, 3)
        assert np.abs(pixels.astype(int) - (90, 120, 60)).max() <= 2
    assert max(made) <= (LONGEST + 1) * 224 * 224 * 3
    # The slow way resizes this.
    assert max(middle_window(image).size) <= (LONGEST + 1) * min(size)


def test_what_resizing_raises_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nwith a trace")

    monkeypatch.setattr(torch.nn.functional, "interpolate", fail)
    with pytest.raises(ImageError, match=r"cannot be resized: DefaultCPUAllocator: can't allocate memory$") as caught:
        CLIP_PIXELS(FORMS["png"])
    assert caught.value.reason is RejectReason.UNREADABLE


def test_transforms_that_are_not_known_are_left_to_open_clip() -> None:
    assert PixelTransform.like(PreprocessCfg(size=224, resize_mode="squash")) is None
    assert PixelTransform.like(PreprocessCfg(size=(224, 336))) is None
    assert PixelTransform.like(PreprocessCfg(size=(336, 336), interpolation="bilinear")) == PixelTransform(
        336, "bilinear"
    )
    siglip = open_clip.get_model_config("ViT-B-16-SigLIP")["vision_cfg"]
    assert siglip["image_size"] == 224
