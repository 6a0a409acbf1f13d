"""Measure the small CLIP that ships with placeprint where it was neither trained nor chosen: in the demo's cells.

``python scripts/evaluate_demo_encoder.py`` writes ``docs/demo-encoder-figures.md``; every number in it is computed. Images
are the JPEG files that the source `earthmaps` gives to users. Beside the encoder stands the least that it has to beat:
logistic regression on the mean and the standard deviation of each colour channel.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image, ImageEnhance, ImageOps
from sklearn.model_selection import GroupKFold, KFold
from sklearn.pipeline import Pipeline
from train_demo_encoder import sample

from tasks.collect.countries import country_shapes
from tasks.collect.earthmaps import MAX_OVERLAP, EarthmapsSettings, EarthmapsSource, overlap
from tasks.collect.grid import CellGrid, demo_cells
from tasks.collect.source import Item
from tasks.collect.web import OFFLINE
from tasks.collect.world_map import COARSEST_PX_PER_DEG, MAX_LATITUDE_DEG, WORLD_MAPS, WorldMap
from tasks.encode.encoder import Encoder, Vectors, load_encoder
from tasks.encode.weights import EncoderSettings
from tasks.heads.logistic import logistic_regression
from tasks.labels.label_set import COUNTRY211, load_label_set
from tasks.metrics.accuracy import region_hits, share_interval, top_k_hits
from tasks.report.tables import markdown_table

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

OUTPUT = Path(__file__).parent.parent / "docs/demo-encoder-figures.md"
CLASSES = load_label_set(COUNTRY211, ())
SIDE_DEG = EarthmapsSettings().patch_side_deg
PROMPTS = ("{country}", "This image shows the country {country}")
# What train_demo_encoder.py samples by default: the same call gives the same places, hence the countries it knows.
TRAINING_PER_COUNTRY, TRAINING_SEED = 300, 0
COLOUR_PLACES_PER_COUNTRY = 60
N_FOLDS = 5
BLOCKS = CellGrid(6.0)
ORIGINAL_JPEG_QUALITY = 92  # that of the source, so that an edit changes nothing else


@dataclass(frozen=True)
class Places:
    """Centres of patches in degrees, (n,) each; `country` is the index in the label set."""

    latitude: Floats
    longitude: Floats
    country: Ints

    def __len__(self) -> int:
        return len(self.country)

    def rows(self, chosen: Ints | Bools) -> Places:
        return Places(self.latitude[chosen], self.longitude[chosen], self.country[chosen])

    @property
    def cells(self) -> Ints:
        """The cell of 2 degrees that each centre lies in, (n,)."""
        return demo_cells().grid.cells(self.latitude, self.longitude)


@dataclass(frozen=True)
class Views:
    """What one map shows at some places: embeddings (n, d), and mean and standard deviation of red, green, blue (n, 6)."""

    vectors: Vectors
    colours: Floats


@dataclass(frozen=True)
class Hits:
    """Whether the country is the first guess or among the first five, and whether the first guess lies in its region."""

    top1: Bools
    top5: Bools
    region: Bools


@dataclass(frozen=True)
class Scope:
    """Countries that can be guessed, and the places that lie in them."""

    title: str
    countries: Ints
    rows: Ints


@dataclass(frozen=True)
class Grouping:
    """Countries in larger groups: `of_country` is the index of each country's group in `names`."""

    level: str
    names: tuple[str, ...]
    of_country: Ints


def sampled_places(per_country: int, seed: int, cells: Ints) -> Places:
    """At most `per_country` places of each country whose patch lies wholly in `cells`, ordered by country."""
    points, owner = sample(per_country, seed, cells)
    class_of_shape = np.array([CLASSES.index[shape.label] for shape in country_shapes()])
    return first_of_each_country(Places(points[:, 0], points[:, 1], class_of_shape[owner]), per_country)


def first_of_each_country(places: Places, most: int) -> Places:
    """The first `most` places of each country; places of one country must follow each other."""
    _, start, size = np.unique(places.country, return_index=True, return_counts=True)
    return places.rows(
        np.sort(np.concatenate([np.arange(s, s + min(n, most)) for s, n in zip(start, size, strict=True)]))
    )


def joined(parts: Sequence[Places]) -> Places:
    return Places(
        np.concatenate([part.latitude for part in parts]),
        np.concatenate([part.longitude for part in parts]),
        np.concatenate([part.country for part in parts]),
    )


def spaced_rows(places: Places) -> Ints:
    """Rows of places that overlap no earlier one by half or more, as in the demo; countries with few places go first."""
    _, inverse, size = np.unique(places.country, return_inverse=True, return_counts=True)
    kept: list[int] = []
    for row in np.argsort(size[inverse], kind="stable"):
        latitude, longitude = places.latitude[row], places.longitude[row]
        shared = overlap(latitude, longitude, places.latitude[kept], places.longitude[kept], SIDE_DEG)
        if not (shared >= MAX_OVERLAP).any():
            kept.append(int(row))
    return np.sort(np.array(kept, dtype=np.int64))


def shares_ground(first: Places, second: Places) -> Bools:
    """Whether the patch of each place of `first` reaches into that of each place of `second`, (n, m).

    Patches are widened by one pixel of the coarsest map on each side: pixel boxes are rounded.
    """
    side = SIDE_DEG + 2.0 / COARSEST_PX_PER_DEG
    shared = overlap(
        first.latitude[:, None], first.longitude[:, None], second.latitude[None], second.longitude[None], side
    )
    return np.asarray(shared > 0)


def jpegs_of(world_map: WorldMap, places: Places) -> list[bytes]:
    """The files that users get of these places."""
    source = EarthmapsSource(EarthmapsSettings(), world_map)
    return [
        source.fetch(Item("", latitude=float(latitude), longitude=float(longitude)), OFFLINE)
        for latitude, longitude in zip(places.latitude, places.longitude, strict=True)
    ]


def encoded(encoder: Encoder, jpegs: Sequence[bytes]) -> Vectors:
    """Embeddings of the files, (n, d)."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(len(jpegs))]
        for path, content in zip(paths, jpegs, strict=True):
            path.write_bytes(content)
        return encoder.encode_images(paths, batch_size=256)


def colour_statistics(jpegs: Sequence[bytes]) -> Floats:
    """Mean and standard deviation of red, green and blue, (n, 6)."""
    statistics = np.empty((len(jpegs), 6))
    for row, content in enumerate(jpegs):
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.float64).reshape(-1, 3)
        statistics[row] = np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)])
    return statistics


def views_of(encoder: Encoder, world_map: WorldMap, places: Places) -> Views:
    jpegs = jpegs_of(world_map, places)
    return Views(encoded(encoder, jpegs), colour_statistics(jpegs))


def class_scores(model: Pipeline, features: npt.NDArray[Any], n_classes: int) -> Floats:
    """The model's score of every class, (n, n_classes); minus infinity for classes that it was not trained on."""
    scores = np.full((len(features), n_classes), -np.inf)
    scores[:, model.classes_] = model.decision_function(features)
    return scores


def country_hits(scores: npt.NDArray[np.floating], country: Ints, candidates: Ints) -> Hits:
    """Judge scores (n, n_candidates) of the sorted `candidates`."""
    y_true = np.searchsorted(candidates, country)
    predicted = np.asarray(scores.argmax(axis=1), dtype=np.int64)
    return Hits(
        top_k_hits(y_true, scores, 1),
        top_k_hits(y_true, scores, 5),
        region_hits(y_true, predicted, CLASSES.region_index[candidates]),
    )


def groupings() -> tuple[Grouping, Grouping]:
    """Regions of UN M49, and continents."""
    continents = CLASSES.continents or ()
    names = tuple(sorted(set(continents)))
    return (
        Grouping("region", CLASSES.region_names, CLASSES.region_index),
        Grouping("continent", names, np.array([names.index(continent) for continent in continents])),
    )


def scopes_of(places: Places, trained: Ints) -> tuple[Scope, Scope]:
    in_demo = np.unique(places.country)
    return (
        Scope("trained countries", trained, np.flatnonzero(np.isin(places.country, trained))),
        Scope("all countries of the demo", in_demo, np.arange(len(places))),
    )


def percent_with_interval(hits: Bools, cells: Ints) -> str:
    low, high = share_interval(hits, cells)
    return f"{100 * hits.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def points_with_interval(hits: Bools, others: Bools, cells: Ints) -> str:
    """By how many percentage points `hits` is above `others`, image by image."""
    # The interval of a share is one of a mean: -1, 0 and 1 do as well as false and true.
    difference = hits.astype(np.int64) - others.astype(np.int64)
    low, high = share_interval(difference, cells)  # type: ignore[arg-type]
    return f"{100 * difference.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def percent_with_sd(shares: Sequence[float]) -> str:
    return f"{100 * np.mean(shares):.1f} ± {100 * np.std(shares, ddof=1):.1f}"


def majority_share(values: Ints) -> float:
    return float(np.unique(values, return_counts=True)[1].max() / len(values))


def coverage_section(
    encoder: Encoder, places: Places, n_seeds: int, per_country: int, scopes: tuple[Scope, Scope]
) -> Iterator[str]:
    """What was measured, in numbers."""
    trained, in_demo = scopes
    known = places.rows(trained.rows)
    yield "## What was measured\n"
    yield (
        f"Patches of {SIDE_DEG:g} degrees that lie wholly in cells of the demo: none of their pixels was seen when the "
        "encoder was trained. At most "
        f"{per_country} places a country and seed; the places of all seeds are judged together. Intervals are 95 % "
        f"percentile bootstrap intervals that resample whole cells of {demo_cells().grid.side_deg:g} degrees, not images; "
        "patches of neighbouring cells may still share ground, which they do not account for.\n"
    )
    rows = {
        "encoder": encoder.encoder_id,
        "countries it was trained on": str(len(trained.countries)),
        "seeds": str(n_seeds),
        "places": str(len(places)),
        "of them in countries it was trained on": str(len(known)),
        "cells": str(len(np.unique(places.cells))),
        "countries of the demo": str(len(in_demo.countries)),
        "of them trained on": str(len(np.unique(known.country))),
        "places a country, median": f"{np.median(np.unique(places.country, return_counts=True)[1]):g}",
        **{
            f"chance among {len(scope.countries)} ({scope.title}), top-1 / top-5 %": f"{100 / len(scope.countries):.1f} "
            f"/ {500 / len(scope.countries):.1f}"
            for scope in scopes
        },
    }
    yield markdown_table(pl.DataFrame({"what": list(rows), "value": list(rows.values())}))


def zero_shot_section(
    encoder: Encoder,
    places: Places,
    views: dict[str, Views],
    colour_models: dict[tuple[str, str], Pipeline],
    scopes: tuple[Scope, Scope],
) -> Iterator[str]:
    """Zero-shot accuracy beside the colour baseline, which was trained on places of the encoder's training cells."""
    yield "## Zero-shot accuracy\n"
    yield (
        "In percent. The region is the one of the guessed country. *Colour* is logistic regression on mean and standard "
        f"deviation of red, green and blue, trained on at most {COLOUR_PLACES_PER_COUNTRY} places a country in the cells "
        "the encoder was trained on; it is supervised, but so was the encoder. *Gain* is the encoder less colour, in "
        "percentage points of the same images.\n"
    )
    for scope in scopes:
        yield f"### By country, {scope.title}\n"
        yield (
            f"{len(scope.rows)} places, {len(scope.countries)} countries to choose from. "
            f"{majority_sentence(places.rows(scope.rows))}\n"
        )
        yield markdown_table(country_table_of(encoder, places, views, colour_models, scope))
    yield "### By name of the region and of the continent\n"
    yield (
        "The prompt is the name alone; colour is trained on the groups themselves. *Majority* always guesses the most "
        "frequent group of these places.\n"
    )
    yield markdown_table(group_table_of(encoder, places, views, colour_models, scopes))


def majority_sentence(places: Places) -> str:
    regions = majority_share(CLASSES.region_index[places.country])
    return (
        f"Guessing always the most frequent country gives {100 * majority_share(places.country):.1f} %, "
        f"the most frequent region {100 * regions:.1f} %."
    )


def country_table_of(
    encoder: Encoder,
    places: Places,
    views: dict[str, Views],
    colour_models: dict[tuple[str, str], Pipeline],
    scope: Scope,
) -> pl.DataFrame:
    country, cells = places.country[scope.rows], places.cells[scope.rows]
    texts = {
        prompt: encoder.encode_texts([prompt.format(country=CLASSES.names[index]) for index in scope.countries])
        for prompt in PROMPTS
    }
    rows = []
    for source, seen in views.items():
        colour_scores = class_scores(colour_models[source, "country"], seen.colours[scope.rows], len(CLASSES.names))
        colour = country_hits(colour_scores[:, scope.countries], country, scope.countries)
        for prompt, text in texts.items():
            hits = country_hits(seen.vectors[scope.rows] @ text.T, country, scope.countries)
            gains = [
                points_with_interval(mine, other, cells)
                for mine, other in ((hits.top1, colour.top1), (hits.top5, colour.top5), (hits.region, colour.region))
            ]
            rows.append([source, f"'{prompt}'", *hit_cells(hits, cells), *gains])
        rows.append([source, "colour", *hit_cells(colour, cells), "", "", ""])
    columns = ["map", "guess by", "top-1", "top-5", "region", "gain top-1", "gain top-5", "gain region"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def hit_cells(hits: Hits, cells: Ints) -> list[str]:
    return [percent_with_interval(each, cells) for each in (hits.top1, hits.top5, hits.region)]


def group_table_of(
    encoder: Encoder,
    places: Places,
    views: dict[str, Views],
    colour_models: dict[tuple[str, str], Pipeline],
    scopes: tuple[Scope, Scope],
) -> pl.DataFrame:
    rows = []
    for scope in scopes:
        cells = places.cells[scope.rows]
        for grouping in groupings():
            candidates = np.unique(grouping.of_country[scope.countries])
            y_true = np.searchsorted(candidates, grouping.of_country[places.country[scope.rows]])
            text = encoder.encode_texts([grouping.names[index] for index in candidates])
            for source, seen in views.items():
                named = top_k_hits(y_true, seen.vectors[scope.rows] @ text.T, 1)
                scores = class_scores(
                    colour_models[source, grouping.level], seen.colours[scope.rows], len(grouping.names)
                )
                colour = top_k_hits(y_true, scores[:, candidates], 1)
                rows.append(
                    [
                        scope.title,
                        f"'{{{grouping.level}}}'",
                        str(len(candidates)),
                        source,
                        percent_with_interval(named, cells),
                        percent_with_interval(colour, cells),
                        points_with_interval(named, colour, cells),
                        f"{100 * majority_share(y_true):.1f}",
                    ]
                )
    columns = ["places in", "prompt", "names", "map", "encoder", "colour", "gain", "majority"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def fitted_colour_models(places: Places) -> dict[tuple[str, str], Pipeline]:
    """For each map, logistic regression from colour to country, region and continent; keys are (map, level)."""
    targets = {"country": places.country, **{each.level: each.of_country[places.country] for each in groupings()}}
    models = {}
    for world_map in WORLD_MAPS:
        colours = colour_statistics(jpegs_of(world_map, places))
        for level, target in targets.items():
            # Six numbers need no strong penalty: the baseline shall be as good as it can be.
            models[world_map.source, level] = logistic_regression(C=1.0, max_iter=1000).fit(colours, target)
    return models


def probe_section(places: Places, views: dict[str, Views]) -> Iterator[str]:
    """Linear probes on embeddings and on colours, where neighbours may leak and where they cannot."""
    folds = {"random": random_folds(places), "by block": block_folds(places)}
    blocks = BLOCKS.cells(places.latitude, places.longitude)
    yield "## Linear probe\n"
    yield (
        "Standardised features, logistic regression (C = 0.1, at most 300 iterations), "
        f"{N_FOLDS} folds of the {len(places)} places of the first seed, all countries of the demo; mean ± standard "
        "deviation over folds, in percent. The *random* split puts neighbours, which share ground, on both sides. *By "
        f"block* keeps whole blocks of about {BLOCKS.side_deg:g} degrees together ({len(np.unique(blocks))} blocks) and "
        "leaves out training places that share ground with a test place. *Reachable* is the share of test places whose "
        "country has a training place at all: no probe can do better; *top-1 of reachable* counts only those.\n"
    )
    rows = []
    for source, seen in views.items():
        for split, parts in folds.items():
            for name, features in (("embedding", seen.vectors), ("colour", seen.colours)):
                rows.append([source, split, name, *probe_cells(features, places, parts)])
    columns = [
        "map",
        "split",
        "features",
        "country top-1",
        "country top-5",
        "region",
        "reachable",
        "top-1 of reachable",
    ]
    yield markdown_table(pl.DataFrame(rows, schema=columns, orient="row"))
    sizes = {split: np.mean([len(train) for train, _ in parts]) for split, parts in folds.items()}
    yield "Training places a fold, mean: " + ", ".join(f"{split} {size:.0f}" for split, size in sizes.items()) + ".\n"


def random_folds(places: Places) -> list[tuple[Ints, Ints]]:
    return list(KFold(N_FOLDS, shuffle=True, random_state=0).split(places.country))


def block_folds(places: Places) -> list[tuple[Ints, Ints]]:
    """Folds of whole blocks; training places that share ground with a test place are left out."""
    blocks = BLOCKS.cells(places.latitude, places.longitude)
    folds = GroupKFold(N_FOLDS, shuffle=True, random_state=0).split(places.country, groups=blocks)
    return [
        (train[~shares_ground(places.rows(train), places.rows(test)).any(axis=1)], np.asarray(test))
        for train, test in folds
    ]


def probe_cells(features: npt.NDArray[Any], places: Places, folds: Sequence[tuple[Ints, Ints]]) -> list[str]:
    region = CLASSES.region_index[places.country]
    top1, top5, by_region, reachable = [], [], [], []
    for train, test in folds:
        country_model = logistic_regression(C=0.1, max_iter=300).fit(features[train], places.country[train])
        scores = class_scores(country_model, features[test], len(CLASSES.names))
        top1.append(float(top_k_hits(places.country[test], scores, 1).mean()))
        top5.append(float(top_k_hits(places.country[test], scores, 5).mean()))
        region_model = logistic_regression(C=0.1, max_iter=300).fit(features[train], region[train])
        by_region.append(float((region_model.predict(features[test]) == region[test]).mean()))
        reachable.append(float(np.isin(places.country[test], places.country[train]).mean()))
    of_reachable = [hit / most if most else np.nan for hit, most in zip(top1, reachable, strict=True)]
    return [percent_with_sd(shares) for shares in (top1, top5, by_region, reachable, of_reachable)]


def edits() -> dict[str, Callable[[bytes], bytes]]:
    """Changes to a file that leave the picture recognisable."""
    return {
        "JPEG quality 30": lambda jpeg: as_jpeg(opened(jpeg), quality=30),
        "resized to half": lambda jpeg: as_jpeg(half_size(opened(jpeg))),
        "brightness +10 %": lambda jpeg: as_jpeg(ImageEnhance.Brightness(opened(jpeg)).enhance(1.1)),
        "brightness −10 %": lambda jpeg: as_jpeg(ImageEnhance.Brightness(opened(jpeg)).enhance(0.9)),
        "mirrored left to right": lambda jpeg: as_jpeg(ImageOps.mirror(opened(jpeg))),
    }


def opened(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def half_size(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)


def as_jpeg(image: Image.Image, quality: int = ORIGINAL_JPEG_QUALITY) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def shifted(places: Places, share: float, seed: int) -> tuple[Ints, Places]:
    """Places moved by a share of the patch's side, each in a direction of its own, and the rows they come from.

    Places whose moved patch would leave the demo's cells are dropped.
    """
    angle = 2 * np.pi * np.random.default_rng(seed).random(len(places))
    latitude = places.latitude + share * SIDE_DEG * np.sin(angle)
    east = share * SIDE_DEG * np.cos(angle) / np.cos(np.radians(places.latitude))
    longitude = (places.longitude + east + 180.0) % 360.0 - 180.0
    parts = demo_cells()
    allowed = np.abs(latitude) + SIDE_DEG / 2 <= MAX_LATITUDE_DEG
    allowed &= parts.lies_in(parts.demo, latitude, longitude, SIDE_DEG)
    rows = np.flatnonzero(allowed)
    return rows, Places(latitude, longitude, places.country).rows(rows)


def similarity_section(encoder: Encoder, places: Places) -> Iterator[str]:
    """Cosines of edited and of different images."""
    yield "## Cosine under edits\n"
    yield (
        f"{len(places)} places of the first seed that overlap one another by less than {100 * MAX_OVERLAP:g} %, as in the "
        "demo. *Recall@1*: the original is the nearest of all originals of that map. Shifts go in a random direction, are "
        "rounded to whole pixels of the map, and stay in cells of the demo; a place whose shifted patch would not is left "
        "out. The encoder was trained to take mirror images and quarter turns for the same.\n"
    )
    edited_rows: list[list[str]] = []
    pair_rows: list[list[str]] = []
    for world_map in WORLD_MAPS:
        jpegs = jpegs_of(world_map, places)
        originals = encoded(encoder, jpegs)
        for number, share in enumerate((0.05, 0.1)):
            rows, moved = shifted(places, share, seed=number)
            vectors = encoded(encoder, jpegs_of(world_map, moved))
            edited_rows.append(
                [world_map.source, f"shifted by {100 * share:g} %", *edit_cells(vectors, originals, rows)]
            )
        for name, edit in edits().items():
            vectors = encoded(encoder, [edit(jpeg) for jpeg in jpegs])
            edited_rows.append([world_map.source, name, *edit_cells(vectors, originals, np.arange(len(places)))])
        pair_rows.extend([world_map.source, *cells] for cells in pair_cells(originals, places))
    columns = ["map", "edit", "images", "cosine, mean", "cosine, 5th percentile", "recall@1 %"]
    yield markdown_table(pl.DataFrame(edited_rows, schema=columns, orient="row"))
    yield "Different places, for comparison:\n"
    columns = ["map", "pairs of places", "pairs", "cosine, mean", "cosine, 99th percentile"]
    yield markdown_table(pl.DataFrame(pair_rows, schema=columns, orient="row"))


def edit_cells(edited: Vectors, originals: Vectors, rows: Ints) -> list[str]:
    """Compare edited images with the originals in `rows`."""
    cosine = (edited * originals[rows]).sum(axis=1)
    found = (edited @ originals.T).argmax(axis=1) == rows
    return [
        str(len(rows)),
        f"{cosine.mean():.3f}",
        f"{np.quantile(cosine, 0.05):.3f}",
        f"{100 * found.mean():.1f}",
    ]


def pair_cells(vectors: Vectors, places: Places) -> Iterator[list[str]]:
    """Cosines of different places of one country, with and without common ground, and of two countries."""
    first, second = np.triu_indices(len(places), k=1)
    cosine = (vectors @ vectors.T)[first, second]
    same = places.country[first] == places.country[second]
    apart = ~shares_ground(places, places)[first, second]
    for name, chosen in (
        ("of one country", same),
        ("of one country, no common ground", same & apart),
        ("of different countries", ~same),
    ):
        if chosen.any():
            values = cosine[chosen]
            yield [name, str(len(values)), f"{values.mean():.3f}", f"{np.quantile(values, 0.99):.3f}"]


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-country", type=positive, default=40, help="places of a country and seed, at most")
    parser.add_argument("--seeds", type=positive, default=3, help="how many samples of places are drawn")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    start = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {what}", flush=True)

    parts = demo_cells()
    encoder = load_encoder(EncoderSettings())
    training = sampled_places(TRAINING_PER_COUNTRY, TRAINING_SEED, parts.encoder)
    samples = [sampled_places(options.per_country, seed, parts.demo) for seed in range(options.seeds)]
    places = joined(samples)
    scopes = scopes_of(places, np.unique(training.country))
    say(f"{len(places)} places sampled")
    colour_models = fitted_colour_models(first_of_each_country(training, COLOUR_PLACES_PER_COUNTRY))
    say("colour baseline fitted")
    views = {world_map.source: views_of(encoder, world_map, places) for world_map in WORLD_MAPS}
    say("images encoded")
    sections = [*coverage_section(encoder, places, options.seeds, options.per_country, scopes)]
    sections += zero_shot_section(encoder, places, views, colour_models, scopes)
    say("zero-shot judged")
    n_first = len(samples[0])
    first_views = {source: Views(seen.vectors[:n_first], seen.colours[:n_first]) for source, seen in views.items()}
    sections += probe_section(samples[0], first_views)
    say("probes fitted")
    sections += similarity_section(encoder, samples[0].rows(spaced_rows(samples[0])))
    say("edits compared")

    heading = (
        "# Figures of the demo encoder\n",
        "Written by `python scripts/evaluate_demo_encoder.py "
        f"--per-country {options.per_country} --seeds {options.seeds}`; do not edit by hand.\n",
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n".join([*heading, *sections]), encoding="utf-8")
    say(f"{options.output} written")


if __name__ == "__main__":
    main()
