"""Cells of about equal area on the sphere, and their assignment to the demo or to the training of its encoder.

A band of latitude `side_deg` high is cut into ``round(360 * cos(latitude) / side_deg)`` cells, so that a cell is about
square on the ground everywhere. The demo encoder is trained on patches that lie wholly in cells that the demo never
samples; `demo_cells` says which are which.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from tasks.collect.world_map import COARSEST_PX_PER_DEG

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_COLUMNS_PER_ROW = 1000  # ids are row * 1000 + column; 360 / side_deg stays below


@dataclass(frozen=True)
class CellGrid:
    """Grid of cells `side_deg` high (degrees of latitude) and about as wide on the ground."""

    side_deg: float

    def columns(self, row: Ints) -> Ints:
        """Number of cells around the Earth in each band."""
        middle = np.radians((row + 0.5) * self.side_deg - 90.0)
        return np.asarray(np.maximum(1, np.round(360.0 * np.cos(middle) / self.side_deg)), dtype=np.int64)

    def cells(self, latitude: Floats, longitude: Floats) -> Ints:
        """Cell id of each point, (n,)."""
        row = np.floor((latitude + 90.0) / self.side_deg).astype(np.int64)
        n_columns = self.columns(row)
        column = np.floor((longitude + 180.0) / 360.0 * n_columns).astype(np.int64) % n_columns
        return row * _COLUMNS_PER_ROW + column

    def centres(self, cells: Ints) -> tuple[Floats, Floats]:
        """Latitude and longitude of the middle of each cell."""
        row, column = cells // _COLUMNS_PER_ROW, cells % _COLUMNS_PER_ROW
        latitude = np.asarray((row + 0.5) * self.side_deg - 90.0, dtype=np.float64)
        return latitude, (column + 0.5) * 360.0 / self.columns(row) - 180.0

    def touched(self, latitude: Floats, longitude: Floats, patch_side_deg: float) -> Ints:
        """Every cell that a patch of that side reaches, (n, k), with repeats.

        The patch is widened by one pixel of the coarsest map on each side: pixel boxes are rounded.
        """
        margin = 1.0 / COARSEST_PX_PER_DEG
        half_height = patch_side_deg / 2 + margin
        half_width = patch_side_deg / 2 / np.cos(np.radians(latitude)) + margin
        # Points no further apart than half a cell cannot jump over one.
        steps = int(np.ceil(2 * (patch_side_deg + 4 * margin) / self.side_deg)) + 2
        shares = np.linspace(-1.0, 1.0, steps)
        rows = np.repeat(latitude[:, None] + shares * half_height, steps, axis=1)
        columns = np.tile(longitude[:, None] + shares * half_width[:, None], (1, steps))
        return self.cells(np.clip(rows, -89.999, 89.999), (columns + 180.0) % 360.0 - 180.0)


@dataclass(frozen=True)
class CellParts:
    """Sorted cell ids: those the demo samples, those for choices about its encoder, those the encoder is trained on."""

    grid: CellGrid
    demo: Ints
    validation: Ints
    encoder: Ints

    def lies_in(self, cells: Ints, latitude: Floats, longitude: Floats, patch_side_deg: float) -> npt.NDArray[np.bool_]:
        """Whether the patch around each point lies wholly in `cells`, (n,)."""
        return np.asarray(np.isin(self.grid.touched(latitude, longitude, patch_side_deg), cells).all(axis=1))


@cache
def demo_cells() -> CellParts:
    """The assignment that ships with the project, made by ``scripts/assign_demo_cells.py``."""
    content = json.loads(files("tasks.collect").joinpath("data/demo_cells.json").read_text(encoding="utf-8"))
    return CellParts(
        CellGrid(content["side_deg"]), *(np.array(content[part]) for part in ("demo", "validation", "encoder"))
    )
