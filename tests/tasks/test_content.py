"""What a picture shows is told from what fills it up, and the crop holds nothing else."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tasks.collect.content import content_mask, content_rectangle, content_share, crop

FILLS = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "own": (90, 100, 110)}
MODES = (
    "1",
    "L",
    "P",
    "RGB",
    "RGBA",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "LA",
    "PA",
    "RGBX",
    "RGBa",
    "La",
    "I;16",
)


def photo(seed: int = 1, size: tuple[int, int] = (560, 480)) -> Image.Image:
    """A picture with noise, as a camera gives it; its extremes are clipped, as a camera's are."""
    noise = np.random.default_rng(seed).normal(0, 6, (*size[::-1], 3))
    return Image.fromarray((np.asarray(picture(seed, size)) + noise).clip(0, 255).astype(np.uint8))


def rotated(angle_deg: float = 20, size: tuple[int, int] = (560, 480)) -> tuple[Image.Image, np.ndarray]:
    """A rotated picture on a transparent ground, and where it is."""
    image = photo(size=size).convert("RGBA").rotate(angle_deg, Image.Resampling.BICUBIC, expand=True)
    return image, np.asarray(image.getchannel("A")) >= 128


def laid_on(fill: tuple[int, int, int], image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, (*fill, 255)), image).convert("RGB")


def compressed(image: Image.Image, format_: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")


def test_transparent_surroundings() -> None:
    image, truth = rotated()
    mask = content_mask(image)
    assert mask.shape == (image.height, image.width)
    assert content_share(mask) == pytest.approx(truth.mean(), abs=0.01)
    assert not mask[~truth].any()


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize("angle_deg", [1, 20, 45])
def test_filled_surroundings(fill: tuple[int, int, int], angle_deg: float) -> None:
    image, truth = rotated(angle_deg)
    mask = content_mask(laid_on(fill, image))
    assert content_share(mask) == pytest.approx(truth.mean(), abs=0.01)
    assert (mask == truth).mean() > 0.99


@pytest.mark.parametrize("fill", FILLS.values(), ids=FILLS)
@pytest.mark.parametrize(
    ("format_", "options"), [("JPEG", {"quality": 95}), ("JPEG", {"quality": 80}), ("WEBP", {"quality": 80})]
)
@pytest.mark.parametrize("angle_deg", [3, 20])
def test_filled_surroundings_after_compression(
    fill: tuple[int, int, int], format_: str, options: dict[str, int], angle_deg: float
) -> None:
    image, truth = rotated(angle_deg)
    mask = content_mask(compressed(laid_on(fill, image), format_, **options))
    assert content_share(mask) == pytest.approx(truth.mean(), abs=0.01)
    x, y, width, height = content_rectangle(mask) or (0, 0, 0, 0)
    assert truth[y : y + height, x : x + width].mean() > 0.999
    assert width * height > 0.2 * truth.sum()


@pytest.mark.parametrize("fill", [0, 255])
def test_water_and_snow_inside_are_content(fill: int) -> None:
    image, truth = rotated()
    values = np.array(image)
    values[200:400, 250:450, :3] = fill
    inside = Image.fromarray(values)
    assert truth[200:400, 250:450].all()
    assert content_mask(inside)[200:400, 250:450].all()
    assert content_mask(laid_on((fill, fill, fill), inside))[200:400, 250:450].all()


@pytest.mark.parametrize(
    "dark",
    [
        lambda noise, _: noise.integers(0, 13, (300, 400)),
        lambda noise, _: np.abs(noise.normal(0, 3, (300, 400))).round(),
        lambda noise, _: noise.normal(0, 3, (300, 400)).round().clip(0),  # half of it is exactly black
        lambda _, ramp: ramp * 8 // 400,
        lambda _, ramp: 4 + 4 * np.sin(ramp / 20),
    ],
    ids=["even", "folded", "clipped", "gradient", "waves"],
)
@pytest.mark.parametrize("negative", [False, True])
def test_dark_and_bright_photographs_that_vary_are_content(dark: object, negative: bool) -> None:
    values = dark(np.random.default_rng(0), np.arange(400) + np.zeros((300, 1)))  # type: ignore[operator]
    values = 255 - values if negative else values
    assert content_mask(grey(values)).all()


def test_clipped_roof_and_shadow_at_the_border_are_content() -> None:
    values = np.array(photo())
    values[:6, 100:112], values[-9:, 300:312], values[50:58, :4] = 255, 0, 0
    assert content_mask(Image.fromarray(values)).all()


def test_even_side_of_a_photograph_is_content_unless_it_is_black_or_white() -> None:
    values = np.array(photo())
    values[:100] = (90, 100, 110)
    assert content_mask(Image.fromarray(values)).all()
    values[:100] = 0
    assert content_share(content_mask(Image.fromarray(values))) == pytest.approx(380 / 480, abs=0.001)


@pytest.mark.parametrize("colour", [*FILLS.values(), (255, 0, 0), (3, 2, 4)])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (2, 2), (64, 48)])
def test_image_of_one_colour_has_no_content(colour: tuple[int, int, int], size: tuple[int, int]) -> None:
    mask = content_mask(Image.new("RGB", size, colour))
    assert content_share(mask) == 0
    assert content_rectangle(mask) is None


def test_photograph_is_content_to_its_border() -> None:
    for seed in range(5):
        mask = content_mask(photo(seed))
        assert content_share(mask) == 1
        assert content_rectangle(mask) == (0, 0, 560, 480)


def test_colours_under_transparency_do_not_matter() -> None:
    image, truth = rotated()
    values = np.array(image)
    hidden = values[..., 3] == 0
    expected = content_mask(image)
    for colour in (0, 255, np.random.default_rng(0).integers(0, 256, (int(hidden.sum()), 3))):
        values[hidden, :3] = colour
        np.testing.assert_array_equal(content_mask(Image.fromarray(values)), expected)
    assert truth.any()


def test_opaque_alpha_over_a_filled_border() -> None:
    image, truth = rotated()
    opaque = laid_on((0, 0, 0), image).convert("RGBA")
    assert content_share(content_mask(opaque)) == pytest.approx(truth.mean(), abs=0.01)


def test_dark_content_beside_transparency_is_content() -> None:
    """Where alpha tells, black beside it is water."""
    image, _ = rotated()
    values = np.array(image)
    values[..., :3] = 0
    np.testing.assert_array_equal(content_mask(Image.fromarray(values)), values[..., 3] >= 250)


def test_two_fills() -> None:
    values = np.array(photo())
    values[:, :100], values[:, -100:] = 0, 255
    assert content_share(content_mask(Image.fromarray(values))) == pytest.approx(360 / 560, abs=0.001)


def test_palette_with_a_transparent_entry() -> None:
    image = photo().quantize(32)
    values = np.array(image)
    values[:, :100] = 31
    image.putdata(values.ravel().tolist())
    image.info["transparency"] = 31
    assert not content_mask(image)[:, :100].any()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode: str) -> None:
    opaque = photo().convert("L").point(lambda value: 60 + value // 2)
    image = Image.new("L", (660, 480))
    image.paste(opaque, (50, 0))
    if mode in ("La", "LAB"):
        image = image.convert("LA").convert("La") if mode == "La" else Image.merge("LAB", [image] * 3)
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(image, np.uint16) * 257)
    else:
        image = image.convert("RGB" if mode in ("HSV", "YCbCr", "LAB", "CMYK", "PA", "RGBa") else mode)
        image = image.convert("RGBA").convert(mode) if mode == "RGBa" else image
        image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    assert image.mode == mode
    mask = content_mask(image)
    assert mask.dtype == np.bool_
    assert mask.shape == (480, 660)
    if mode not in ("1", "LAB"):  # dithered to black and white; zeros are not black there
        assert content_rectangle(mask) == (51, 0, 558, 480)
    part = crop(image, (51, 0, 558, 480))
    assert (part.mode, part.size) == ("RGB", (558, 480))
    if mode in ("L", "I", "F", "RGB", "RGBA", "LA", "La", "RGBa", "RGBX", "I;16"):
        np.testing.assert_array_equal(np.asarray(part)[..., 1], np.asarray(opaque)[:, 1:-1])


def test_crop_keeps_colours_and_drops_alpha() -> None:
    image, _ = rotated()
    rectangle = content_rectangle(content_mask(image))
    assert rectangle is not None
    x, y, width, height = rectangle
    part = crop(image, rectangle)
    np.testing.assert_array_equal(np.asarray(part), np.asarray(image)[y : y + height, x : x + width, :3])


MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.booleans())


@given(MASKS, st.integers(0, 3))
def test_rectangle_keeps_its_distance_from_all_that_is_not_content(mask: np.ndarray, erode_px: int) -> None:
    rectangle = content_rectangle(mask, erode_px=erode_px)
    if rectangle is None:
        assert erode_px > 0 or not mask.any()
        return
    x, y, width, height = rectangle
    assert width > 0 < height
    around = mask[max(y - erode_px, 0) : y + height + erode_px, max(x - erode_px, 0) : x + width + erode_px]
    assert around.all()


@given(
    arrays(
        np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(4)), elements=st.sampled_from([0, 9, 255])
    )
)
def test_crop_holds_content_alone(values: np.ndarray) -> None:
    image = Image.fromarray(values)
    mask = content_mask(image)
    assert not mask[values[..., 3] < 250].any()
    rectangle = content_rectangle(mask)
    if rectangle is not None:
        x, y, width, height = rectangle
        assert mask[y : y + height, x : x + width].all()
        assert crop(image, rectangle).size == (width, height)
