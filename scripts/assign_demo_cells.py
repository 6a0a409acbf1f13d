"""Share out the cells of the world between the demo and the training of its encoder: writes ``demo_cells.json``.

Blocks of the demo's side are then set apart for validation: choices about the encoder are made there and nowhere else.
A patch counts for a side only when it lies wholly in that side's cells. Simulated annealing over single cells looks for
the assignment under which most countries can be sampled on both sides, while the demo keeps room for its images.
Takes about two minutes; the same seed gives the same file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from tasks.collect.countries import area_km2, country_shapes, sample_points
from tasks.collect.earthmaps import EarthmapsSettings, has_enough_land
from tasks.collect.grid import CellGrid
from tasks.collect.world_map import MAX_LATITUDE_DEG

OUTPUT = Path(__file__).parent.parent / "tasks/collect/data/demo_cells.json"
KM_PER_DEG = 111.195
BLOCK_DEG = 8.0
BLOCK_SEED = 5


def in_validation_blocks(grid: CellGrid, cells: np.ndarray) -> np.ndarray:
    """Whether each cell lies in one of the blocks of 8 degrees that are set apart, about one in eight."""
    latitude, longitude = grid.centres(cells)
    blocks = zip(np.floor(latitude / BLOCK_DEG).astype(int), np.floor(longitude / BLOCK_DEG).astype(int), strict=True)
    return np.array(
        [np.random.default_rng([row + 90, column + 180, BLOCK_SEED]).random() < 0.12 for row, column in blocks]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell-side-deg", type=float, default=2.0)
    parser.add_argument("--patch-side-deg", type=float, default=EarthmapsSettings().patch_side_deg)
    parser.add_argument("--dry-run", action="store_true", help="print what could be sampled, leave the file alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweeps", type=int, default=250)
    # In patches that do not overlap; more than twice as many fit when they may overlap by half.
    parser.add_argument("--demo-patches", type=float, default=1500.0)
    parser.add_argument("--encoder-patches", type=float, default=700.0)
    options = parser.parse_args()
    settings = EarthmapsSettings(patch_side_deg=options.patch_side_deg)
    rng = np.random.default_rng(options.seed)

    points, owner, weight = [], [], []
    for index, country in enumerate(country_shapes()):
        area = area_km2(country.geometry)
        found = sample_points(
            country.geometry, int(np.clip(area / 2000, 200, 3000)), MAX_LATITUDE_DEG - settings.patch_side_deg / 2, rng
        )
        if not len(found):
            continue
        patches = area / (settings.patch_side_deg * KM_PER_DEG) ** 2 / len(found)
        found = found[has_enough_land(found, area, settings)]
        points.append(found)
        owner.append(np.full(len(found), index))
        weight.append(np.full(len(found), patches))
    latitude, longitude = np.concatenate(points).T
    country_of, patches_of = np.concatenate(owner), np.concatenate(weight)
    n_countries = len(country_shapes())

    grid = CellGrid(options.cell_side_deg)
    cells, inverse = np.unique(grid.touched(latitude, longitude, settings.patch_side_deg), return_inverse=True)
    touches = np.zeros((len(latitude), len(cells)), dtype=bool)
    touches[np.arange(len(latitude))[:, None], inverse.reshape(len(latitude), -1)] = True
    n_touched = touches.sum(axis=1)
    points_of = [np.flatnonzero(column) for column in touches.T]

    is_demo = rng.random(len(cells)) < 0.6
    n_demo = (touches & is_demo).sum(axis=1)

    def country_score(demo: np.ndarray, encoder: np.ndarray) -> np.ndarray:
        """What a country with so many usable points on each side is worth."""
        both = (demo >= 2) & (encoder >= 2)
        return 2.0 * both + 0.5 * (demo >= 2) + 0.05 * np.minimum(demo, 6) + 0.03 * np.minimum(encoder, 6)

    def room_score(demo: float, encoder: float) -> float:
        return -(max(0.0, options.demo_patches - demo) + max(0.0, options.encoder_patches - encoder)) / 15.0

    def usable(n_demo_cells: np.ndarray, n_cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (n_demo_cells == n_cells).astype(float), (n_demo_cells == 0).astype(float)

    demo_points, encoder_points = (
        np.bincount(country_of, weights=side, minlength=n_countries) for side in usable(n_demo, n_touched)
    )
    demo_room, encoder_room = (float(patches_of @ side) for side in usable(n_demo, n_touched))
    for sweep in range(options.sweeps):
        temperature = 0.01 ** (sweep / (options.sweeps - 1))
        for cell in rng.permutation(len(cells)):
            rows = points_of[cell]
            changed = n_demo[rows] + (-1 if is_demo[cell] else 1)
            before, after = usable(n_demo[rows], n_touched[rows]), usable(changed, n_touched[rows])
            countries, local = np.unique(country_of[rows], return_inverse=True)
            demo = demo_points[countries] + np.bincount(local, weights=after[0] - before[0])
            encoder = encoder_points[countries] + np.bincount(local, weights=after[1] - before[1])
            new_demo_room = demo_room + patches_of[rows] @ (after[0] - before[0])
            new_encoder_room = encoder_room + patches_of[rows] @ (after[1] - before[1])
            gain = (
                country_score(demo, encoder).sum()
                - country_score(demo_points[countries], encoder_points[countries]).sum()
                + room_score(new_demo_room, new_encoder_room)
                - room_score(demo_room, encoder_room)
            )
            if gain >= 0 or rng.random() < np.exp(gain / temperature):
                is_demo[cell] = not is_demo[cell]
                n_demo[rows] = changed
                demo_points[countries], encoder_points[countries] = demo, encoder
                demo_room, encoder_room = new_demo_room, new_encoder_room

    demo = cells[is_demo]
    validation = in_validation_blocks(grid, demo)
    content = {
        "side_deg": options.cell_side_deg,
        "demo": demo[~validation].tolist(),
        "validation": demo[validation].tolist(),
        "encoder": cells[~is_demo].tolist(),
    }
    if not options.dry_run:
        OUTPUT.write_text(json.dumps(content) + "\n")
    both = (demo_points >= 2) & (encoder_points >= 2)
    print(
        f"countries with two points or more: demo {(demo_points >= 2).sum()}, encoder {(encoder_points >= 2).sum()}, "
        f"both {both.sum()}; room for patches without overlap: demo {demo_room:.0f}, encoder {encoder_room:.0f}"
    )


if __name__ == "__main__":
    main()
