"""A stranger's pictures: each is decoded correctly, or refused with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import picture
from image_corpus import BAD, JPEG, encoded
from PIL import Image

from tasks.images import ImageError, decode_rgb


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused_with_its_reason(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(ImageError) as caught:
        decode_rgb(data)
    assert caught.value.reason is reason
    assert caught.value.detail


def test_large_picture_is_refused_by_setting_before_it_is_decoded() -> None:
    with pytest.raises(ImageError, match="200 x 150 pixels, allowed are 1000"):
        decode_rgb(JPEG, max_pixels=1000)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    plain = picture(1, (40, 30))
    image, _ = decode_rgb(encoded(plain, "PNG", exif=exif))
    np.testing.assert_array_equal(np.asarray(image), np.rot90(np.asarray(plain), -1))


def test_animation_gives_its_first_frame() -> None:
    frames = [picture(seed, (40, 30)) for seed in range(3)]
    image, suffix = decode_rgb(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (image.size, image.mode, suffix) == ((40, 30), "RGB", ".gif")
    distance = [np.abs(np.asarray(image, int) - np.asarray(frame, int)).mean() for frame in frames]
    assert int(np.argmin(distance)) == 0


def test_cmyk_becomes_rgb() -> None:
    plain = picture(2)
    image, _ = decode_rgb(encoded(plain.convert("CMYK"), "TIFF"))
    assert np.abs(np.asarray(image, int) - np.asarray(plain, int)).max() <= 2


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(1, -1).repeat(4, axis=0)
    image, _ = decode_rgb(encoded(Image.fromarray(ramp), "PNG"))
    np.testing.assert_array_equal(np.asarray(image)[0, :, 0], np.arange(256))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((10, 10, 10, 255), (0, 0, 4, 8))
    rgb, _ = decode_rgb(encoded(image.convert(mode) if mode != "PA" else image.convert("P"), "PNG"))
    if mode != "PA":
        assert rgb.getpixel((0, 0)) == (10, 10, 10)
        assert rgb.getpixel((7, 0)) == (255, 255, 255)
    assert rgb.mode == "RGB"


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF"])
def test_usual_formats_are_read(format_: str) -> None:
    image, _ = decode_rgb(encoded(picture(3), format_))
    assert (image.size, image.mode) == ((40, 30), "RGB")
