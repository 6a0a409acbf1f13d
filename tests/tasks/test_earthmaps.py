from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from storage.image_files import image_id
from tasks.collect.countries import area_km2, country_shapes, land_mask, sample_points
from tasks.collect.earthmaps import MAX_OVERLAP, EarthmapsSettings, overlap, places, planted_copies
from tasks.collect.grid import demo_cells
from tasks.collect.web import OFFLINE
from tasks.collect.world_map import MAX_LATITUDE_DEG, WORLD_MAPS, cut_patch, load_pixels, patch_box
from tasks.images import decode_rgb
from tasks.labels.country211 import country_table

DEFAULTS = EarthmapsSettings()


@pytest.fixture(scope="module")
def centres() -> np.ndarray:
    return np.array([(place.latitude, place.longitude) for place in places(DEFAULTS)])


def test_label_table_has_211_countries_and_namibia_has_its_code() -> None:
    table = country_table()
    assert len(table) == 211
    assert len({country.region for country in table}) == 23
    assert len({country.continent for country in table}) == 6
    assert next(country.iso2 for country in table if country.name == "Namibia") == "NA"


@pytest.mark.parametrize(
    ("label", "km2"),
    [
        # Land area as published; Russia, Fiji and Antarctica reach over the antimeridian or the pole.
        ("Russia", 17.1e6),
        ("Fiji", 18.3e3),
        ("Brazil", 8.51e6),
        ("Egypt", 1.00e6),
        ("Namibia", 825e3),
        ("France", 550e3),  # without its overseas departments, which are labels of their own
        ("French Guiana", 84e3),
        ("Kosovo", 10.9e3),
    ],
)
def test_country_areas(label: str, km2: float) -> None:
    geometry = next(country.geometry for country in country_shapes() if country.label == label)
    assert area_km2(geometry) == pytest.approx(km2, rel=0.03)


def test_points_are_uniform_on_the_sphere_not_in_degrees() -> None:
    geometry = next(country.geometry for country in country_shapes() if country.label == "Canada")
    points = sample_points(geometry, 20_000, 75.0, np.random.default_rng(0))
    assert len(points) == 20_000
    south = np.sin(np.radians(points[:, 0]))
    # Area of the country below each latitude, by clipping the polygon itself.
    from shapely import clip_by_rect

    total = area_km2(clip_by_rect(geometry, -180, -90, 180, 75))
    for latitude in (50.0, 55.0, 60.0, 65.0, 70.0):
        share = area_km2(clip_by_rect(geometry, -180, -90, 180, latitude)) / total
        assert (south < np.sin(np.radians(latitude))).mean() == pytest.approx(share, abs=0.015)


def test_defaults_give_the_promised_collection(centres: np.ndarray) -> None:
    counts = Counter(place.label for place in places(DEFAULTS))
    assert len(counts) >= 120
    assert 2700 <= sum(counts.values()) <= 3300
    few = [n for n in counts.values() if n <= 10]
    assert len(few) >= 5
    assert max(counts.values()) > 10 * np.median(list(counts.values()))
    assert np.abs(centres[:, 0]).max() + DEFAULTS.patch_side_deg / 2 <= MAX_LATITUDE_DEG


def test_patches_overlap_by_less_than_half(centres: np.ndarray) -> None:
    latitude, longitude = centres.T
    for row in range(len(centres) - 1):
        shares = overlap(
            latitude[row], longitude[row], latitude[row + 1 :], longitude[row + 1 :], DEFAULTS.patch_side_deg
        )
        assert shares.max() < MAX_OVERLAP


def test_overlap_is_that_of_the_pixel_boxes() -> None:
    first, second = patch_box(40.0, 10.0, 2.0, 60.0), patch_box(40.5, 10.8, 2.0, 60.0)
    width = min(first.right, second.right) - max(first.left, second.left)
    height = min(first.lower, second.lower) - max(first.upper, second.upper)
    share = width * height / ((first.right - first.left) * (first.lower - first.upper))
    assert overlap(*map(np.float64, (40.0, 10.0, 40.5, 10.8)), 2.0) == pytest.approx(share, abs=0.02)


def test_places_lie_on_their_land(centres: np.ndarray) -> None:
    assert (
        land_mask().share(centres[:, 0], centres[:, 1], DEFAULTS.patch_side_deg).min() >= DEFAULTS.min_land_share_small
    )


def test_demo_and_training_of_its_encoder_share_no_pixel(centres: np.ndarray) -> None:
    """Paint every pixel that the demo reads, shifted copies included, then look under patches of the encoder's cells."""
    parts, side = demo_cells(), DEFAULTS.patch_side_deg
    copies = planted_copies(DEFAULTS, places(DEFAULTS))
    shifted = [
        (each.original.latitude + each.north_deg, each.original.longitude + each.east_deg)
        for each in copies
        if each.edit == "shift"
    ]
    assert shifted
    painted = np.zeros((2700, 5400), dtype=bool)
    for latitude, longitude in [*centres, *shifted]:
        box = patch_box(latitude, longitude, side, 15.0)
        painted[box.upper : box.lower, np.arange(box.left, box.right) % 5400] = True
    generator = np.random.default_rng(0)
    candidates = np.column_stack(
        [np.degrees(np.arcsin(generator.uniform(-0.95, 0.95, 60_000))), generator.uniform(-180, 180, 60_000)]
    )
    for cells in (parts.encoder, parts.validation):
        inside = candidates[parts.lies_in(cells, candidates[:, 0], candidates[:, 1], side)]
        assert len(inside) > 300
        for latitude, longitude in inside:
            box = patch_box(latitude, longitude, side, 15.0)
            assert not painted[box.upper : box.lower, np.arange(box.left, box.right) % 5400].any()


def test_touched_cells_are_those_of_every_pixel() -> None:
    parts, generator = demo_cells(), np.random.default_rng(1)
    for latitude, longitude in zip(generator.uniform(-73, 73, 50), generator.uniform(-180, 180, 50), strict=True):
        touched = set(parts.grid.touched(np.array([latitude]), np.array([longitude]), 2.0)[0].tolist())
        box = patch_box(latitude, longitude, 2.0, 15.0)
        rows, columns = np.mgrid[box.upper : box.lower, box.left : box.right]
        pixel_latitude = 90 - (rows.ravel() + 0.5) / 15
        pixel_longitude = ((columns.ravel() + 0.5) / 15) % 360 - 180
        assert set(parts.grid.cells(pixel_latitude, pixel_longitude).tolist()) <= touched


def test_same_settings_same_bytes_and_other_seed_other_places() -> None:
    small = EarthmapsSettings(images_per_country=2)
    source = small.sources()[0]
    items = list(source.items(OFFLINE))
    places.cache_clear()
    planted_copies.cache_clear()
    again = EarthmapsSettings(images_per_country=2).sources()[0]
    assert list(again.items(OFFLINE)) == items
    assert [source.fetch(item, OFFLINE) for item in items[:20]] == [again.fetch(item, OFFLINE) for item in items[:20]]
    other = [place.path for place in places(EarthmapsSettings(images_per_country=2, seed=1))]
    assert set(other) != {place.path for place in places(small)}


def test_planted_copies_name_their_originals_and_are_near_them() -> None:
    source = EarthmapsSettings(images_per_country=4, planted_share=0.2).sources()[0]
    items = list(source.items(OFFLINE))
    originals = {image_id(source.fetch(item, OFFLINE)): item for item in items if item.planted_copy_of is None}
    copies = [item for item in items if item.planted_copy_of is not None]
    assert len(copies) == round(0.2 * len(originals))
    nearer = 0
    for number, copy in enumerate(copies):
        original = originals[str(copy.planted_copy_of)]
        assert original.label == copy.label
        other = list(originals.values())[(number * 37) % len(originals)]
        pictures = [
            np.asarray(decode_rgb(source.fetch(item, OFFLINE))[0].resize((24, 24)), float)
            for item in (copy, original, other)
        ]
        nearer += np.abs(pictures[0] - pictures[1]).mean() < np.abs(pictures[0] - pictures[2]).mean()
    assert nearer > 0.95 * len(copies)


def test_patch_crosses_the_antimeridian() -> None:
    pixels = load_pixels(WORLD_MAPS[0])
    west, east = (np.asarray(cut_patch(pixels, -17.0, longitude, 2.0, 32), int) for longitude in (-180.0, 180.0))
    np.testing.assert_array_equal(west, east)
    with pytest.raises(ValueError, match="beyond a pole"):
        cut_patch(pixels, 89.5, 0.0, 2.0, 32)


def test_small_islands_do_not_fall_out() -> None:
    labels = {
        place.label for place in places(EarthmapsSettings(images_per_country=1, demo_cells_only=False, planted_share=0))
    }
    assert {"Malta", "Singapore", "Mauritius", "Cuba", "Jamaica", "Cyprus", "Luxembourg"} <= labels
    assert len(labels) >= 180


def test_shipped_label_table_is_whole() -> None:
    path = Path(__file__).parents[2] / "tasks/labels/country211.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [int(row["index"]) for row in rows] == list(range(211))
    assert [row["iso2"] for row in rows] == sorted(row["iso2"] for row in rows)
