"""The most similar image from another place: surely no duplicate, and as like one as there is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.dedup.pairs import pair_cosines

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

EARTH_RADIUS_KM = 6371.0088  # mean radius, IUGG
UNKNOWN = -1
_COLUMNS = 1 << 13  # compared at once


@dataclass(frozen=True)
class Places:
    """Where images were taken, and what they show.

    Parameters
    ----------
    latitude, longitude
        (n,) in degrees, NaN where it is not known.
    label
        (n,) int64, a number for each label, -1 for none.
    """

    latitude: Floats
    longitude: Floats
    label: Rows

    def are_elsewhere(self, row: int, others: slice, min_distance_km: float) -> npt.NDArray[np.bool_]:
        """Which of the others are known to be of another place than `row`: by distance, and without it by label."""
        distance = great_circle_km(
            self.latitude[row], self.longitude[row], self.latitude[others], self.longitude[others]
        )
        label = self.label[others]
        other_label = (label != self.label[row]) & (label != UNKNOWN) & (self.label[row] != UNKNOWN)
        return np.asarray(np.where(np.isnan(distance), other_label, distance >= min_distance_km), dtype=np.bool_)


def great_circle_km(latitude_a: float, longitude_a: float, latitude_b: Floats, longitude_b: Floats) -> Floats:
    """Distance on a sphere by the haversine formula, in km; NaN where a coordinate is.

    Parameters
    ----------
    latitude_a, longitude_a, latitude_b, longitude_b
        In degrees.

    Examples
    --------
    >>> great_circle_km(52.5, 13.4, np.array([48.9, np.nan]), np.array([2.4, 0.0])).round().tolist()
    [871.0, nan]
    """
    a, b = np.radians(latitude_a), np.radians(latitude_b)
    across = np.radians(longitude_b - longitude_a)
    haversine = np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(across / 2) ** 2
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(haversine, 0, 1))))


def nearest_elsewhere(
    embeddings: npt.NDArray[np.float32], rows: Rows, places: Places, *, min_distance_km: float
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """For each of some rows the most similar row of another place; of equally similar ones the lowest.

    Parameters
    ----------
    embeddings
        (n, d) float32, L2-normalised.
    rows
        (m,) those that are asked about.
    places
        Of all n.
    min_distance_km
        That makes another place.

    Returns
    -------
    row
        (m,) int64; -1 where no other place is known.
    cosine
        (m,) float32, as `pair_cosines` scores it; NaN where there is none.
    """
    best = np.full(len(rows), UNKNOWN, dtype=np.int64)
    highest = np.full(len(rows), -np.inf, dtype=np.float32)
    wide = embeddings[rows].astype(np.float64)
    for start in range(0, len(embeddings), _COLUMNS):
        others = slice(start, start + _COLUMNS)
        # In float64, so that the order of equally similar rows does not hang on how many threads there are.
        products = (wide @ embeddings[others].astype(np.float64).T).astype(np.float32)
        for at, row in enumerate(rows.tolist()):
            products[at, ~places.are_elsewhere(row, others, min_distance_km)] = -np.inf
        column = products.argmax(axis=1)
        value = products[np.arange(len(rows)), column]
        better = value > highest
        best[better], highest[better] = column[better] + start, value[better]
    cosine = np.full(len(rows), np.nan, dtype=np.float32)
    found = best != UNKNOWN
    cosine[found] = pair_cosines(embeddings, rows[found], best[found])
    return best, cosine
