"""Real edits of real images: patches of a world map, edited, and the most similar other patch of each as what is no duplicate.

Thresholds are fitted to four fifths of the pairs and judged on the rest, beside the constants of other tools. What six
samples of places gave is in docs/dedup.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.collect.earthmaps import EarthmapsSettings
from tasks.dedup.edits import EDITS, edited
from tasks.dedup.judge import judge
from tasks.dedup.pairs import nearest_neighbours, pair_cosines
from tasks.dedup.threshold import fit_thresholds
from tasks.encode.encoder import load_encoder
from tasks.encode.weights import EncoderSettings

# A frame changes a picture of 32 x 32 pixels, which is what the encoder sees, more than another place does.
MADE = tuple(edit for edit in EDITS if edit not in ("border", "brightness"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and labels: patches of five degrees with an edit each, and with the nearest other patch each."""
    folder = tmp_path_factory.mktemp("patches")
    settings = EarthmapsSettings(
        patch_side_deg=5, size_px=224, images_per_country=1, maps=("satellite",), planted_share=0, demo_cells_only=False
    )
    generator = np.random.default_rng(0)
    originals: list[Path] = []
    copies: list[Path] = []
    (source,) = settings.sources()
    web: Any = None  # these images are cut from maps that are at hand
    for number, item in enumerate(source.items(web)):
        originals.append(folder / f"{number}.jpg")
        originals[-1].write_bytes(source.fetch(item, web))
        copies.append(folder / f"{number}-copy.jpg")
        copies[-1].write_bytes(edited(Image.open(originals[-1]), MADE[number % len(MADE)], generator)[0])
    encoder = load_encoder(EncoderSettings(model="placeprint-demo", device="cpu"))
    vectors = np.concatenate([encoder.encode_images(originals), encoder.encode_images(copies)])
    n = len(originals)
    _, nearest = nearest_neighbours(vectors[:n])
    cosine = np.concatenate([pair_cosines(vectors, np.arange(n), np.arange(n) + n), nearest])
    return np.clip(cosine, -1, 1), np.arange(2 * n) < n


def test_suspected_misses_hardly_a_copy_and_constants_do_worse(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    assert fit_thresholds(*pairs, n_resamples=100).auc > 0.94
    # The second threshold is that of an even chance.
    rules = {rule.name: rule for rule in judge(*pairs, probabilities=(0.01, 0.5), seed=0).rules}
    suspected, even = rules["fitted, suspected"], rules["fitted, certain"]
    constants = [rule for name, rule in rules.items() if name.startswith("constant")]
    precision = {rule.name: rule.precision or 0 for rule in rules.values()}
    assert suspected.recall >= 0.97
    assert precision[suspected.name] > max(0.58, precision["constant 0.90"])
    assert even.recall >= 0.9
    assert precision[even.name] > max(0.8, *(precision[rule.name] for rule in constants))
