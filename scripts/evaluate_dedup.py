"""Near-duplicates of real images under real edits: the table and the picture of docs/dedup.md.

Run it with: python scripts/evaluate_dedup.py. Each sample is a set of patches of a satellite map, one edit of each as the
duplicate, and the most similar other patch of each as the other pair. Thresholds are judged on pairs that they were not
fitted to. Everything is drawn from seeds.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from tasks.collect.earthmaps import EarthmapsSettings
from tasks.dedup.edits import EDITS, edited
from tasks.dedup.judge import Rule, judge
from tasks.dedup.pairs import nearest_neighbours, pair_cosines
from tasks.dedup.threshold import fit_thresholds
from tasks.encode.encoder import load_encoder
from tasks.encode.weights import EncoderSettings
from tasks.report.figures import threshold_curve

DOCS = Path(__file__).parents[1] / "docs"
N_SAMPLES = 6
# A frame, or another brightness, changes a picture of 32 x 32 pixels, which is what the encoder sees, as much as another
# place does.
MADE = tuple(edit for edit in EDITS if edit not in ("border", "brightness"))
# Suspected, and an even chance.
PROBABILITIES = (0.01, 0.5)


def edited_patches(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines (2 n,) of n patches with their edits and then with the nearest other patch, and whether they are copies."""
    settings = EarthmapsSettings(
        patch_side_deg=5,
        size_px=224,
        images_per_country=1,
        maps=("satellite",),
        planted_share=0,
        demo_cells_only=False,
        seed=seed,
    )
    generator = np.random.default_rng(seed)
    (source,) = settings.sources()
    web: Any = None  # these images are cut from maps that are at hand
    encoder = load_encoder(EncoderSettings(model="placeprint-demo", device="cpu"))
    originals: list[Path] = []
    copies: list[Path] = []
    with TemporaryDirectory() as folder:
        for number, item in enumerate(source.items(web)):
            originals.append(Path(folder) / f"{number}.jpg")
            originals[-1].write_bytes(source.fetch(item, web))
            copies.append(Path(folder) / f"{number}-copy.jpg")
            copies[-1].write_bytes(edited(Image.open(originals[-1]), MADE[number % len(MADE)], generator)[0])
        vectors = np.concatenate([encoder.encode_images(originals), encoder.encode_images(copies)])
    n = len(originals)
    _, nearest = nearest_neighbours(vectors[:n])
    cosine = np.concatenate([pair_cosines(vectors, np.arange(n), np.arange(n) + n), nearest])
    return np.clip(cosine, -1, 1), np.arange(2 * n) < n


def table(samples: list[tuple[np.ndarray, np.ndarray]]) -> str:
    """Least and greatest value of each rule over the samples, in Markdown."""
    judged = [judge(*sample, probabilities=PROBABILITIES, seed=0).rules for sample in samples]
    names = {"fitted, suspected": "fitted, P ≥ 1 %", "fitted, certain": "fitted, P ≥ 50 %"}
    lines = ["| threshold | cosine | precision | recall |", "| --- | --- | --- | --- |"]
    for rules in zip(*judged, strict=True):
        rule: Rule = rules[0]
        cosine = _range([each.cosine for each in rules], 3) if rule.name in names else f"{rule.cosine:.2f}"
        precision, recall = (_range([getattr(each, name) for each in rules], 2) for name in ("precision", "recall"))
        lines.append(f"| {names.get(rule.name, 'constant')} | {cosine} | {precision} | {recall} |")
    n = [len(sample[0]) // 2 for sample in samples]
    return "\n".join(lines) + f"\n\n{len(samples)} samples of {min(n)} to {max(n)} places.\n"


def _range(values: list[float], digits: int) -> str:
    return f"{min(values):.{digits}f}–{max(values):.{digits}f}"


def main() -> None:
    samples = [edited_patches(seed) for seed in range(N_SAMPLES)]
    page = DOCS / "dedup.md"
    marked = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- end -->)", re.DOTALL)
    page.write_text(marked.sub(lambda match: match[1] + table(samples) + match[2], page.read_text(encoding="utf-8")))
    cosine, is_duplicate = samples[0]
    model = fit_thresholds(cosine, is_duplicate)
    thresholds = {
        "suspected": (model.suspected, *model.interval_suspected),
        "certain": (model.certain, *model.interval_certain),
    }
    picture = threshold_curve(cosine.astype(np.float32), is_duplicate, model.probability, thresholds)
    (DOCS / "images" / "dedup-threshold.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
