"""Draw ``docs/images/overlays.png``: a made-up screen of 1536 x 662 pixels with the four parts of `geoguessr` blanked."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from tasks.encode.overlays import PRESETS, blank

OUTPUT = Path(__file__).parent.parent / "docs/images/overlays.png"
WIDTH, HEIGHT = 1536, 662
HORIZON = 300


def screen() -> Image.Image:
    """A road that runs to the horizon."""
    image = Image.new("RGB", (WIDTH, HEIGHT), (110, 140, 80))
    draw = ImageDraw.Draw(image)
    for y in range(HORIZON):
        draw.line([(0, y), (WIDTH, y)], (120 + y // 4, 165 + y // 6, 225 + y // 12))
    draw.polygon([(0, HORIZON), (330, 190), (620, 270), (1010, 170), (WIDTH, HORIZON)], (85, 115, 75))
    draw.polygon([(740, HORIZON), (796, HORIZON), (1300, HEIGHT), (236, HEIGHT)], (95, 95, 100))
    draw.polygon([(765, HORIZON), (771, HORIZON), (790, HEIGHT), (746, HEIGHT)], (235, 225, 190))
    return image


if __name__ == "__main__":
    blank(screen(), PRESETS["geoguessr"]).resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.LANCZOS).save(
        OUTPUT, optimize=True
    )
