"""How fast a picture is told from what fills it up: one of a million pixels, and the decoding of its JPEG.

Run it with: python benchmarks/content.py. Appends to RESULTS.md.
"""

from __future__ import annotations

import io
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from tasks.collect.content import content_mask

RESULTS = Path(__file__).parent / "RESULTS.md"
SIDE_PX = 1000
N_RUNS = 9
GOAL_S = 0.2


def rotated_picture() -> Image.Image:
    """A noisy picture, rotated, on black."""
    noise = np.random.default_rng(0).normal(128, 40, (700, 800, 3)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(noise).convert("RGBA").rotate(20, Image.Resampling.BICUBIC, expand=True)
    ground = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return Image.alpha_composite(ground, picture).convert("RGB").resize((SIDE_PX, SIDE_PX))


def median_s(work: Callable[[], object]) -> float:
    times_s = []
    for _ in range(N_RUNS):
        started_s = time.perf_counter()
        work()
        times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s)


def main() -> None:
    image = rotated_picture()
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    mask_s = median_s(lambda: content_mask(image))
    decode_s = median_s(lambda: Image.open(io.BytesIO(buffer.getvalue())).load())
    line = (
        f"| {datetime.now(UTC):%Y-%m-%d} | content of a picture of {SIDE_PX} x {SIDE_PX}, and decoding its JPEG "
        f"| {os.cpu_count()} cores, {platform.machine()} | {1000 * mask_s:.0f} ms (goal: under {1000 * GOAL_S:.0f} ms); "
        f"decoding {1000 * decode_s:.0f} ms (medians of {N_RUNS}) | {mask_s / decode_s:.2f}x decoding |"
    )
    print(line)
    with RESULTS.open("a") as stream:
        stream.write(line + "\n")


if __name__ == "__main__":
    main()
