"""Points on the Earth. Arrays in, arrays out; latitude before longitude, in degrees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def normal_points(latitude_deg: npt.ArrayLike, longitude_deg: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Each point written in one way: -0 is 0, longitude 180 is -180, and a pole has longitude 0.

    Parameters
    ----------
    latitude_deg, longitude_deg
        (n,) of the same length; NaN where they are not known.

    Returns
    -------
    ndarray
        (n, 2) float64, latitude first; both NaN where one is.

    Examples
    --------
    >>> normal_points([0.0, -0.0, 90.0], [180.0, -180.0, 17.0]).tolist()
    [[0.0, -180.0], [0.0, -180.0], [90.0, 0.0]]
    """
    points = np.stack(np.broadcast_arrays(latitude_deg, longitude_deg), axis=1).astype(np.float64)
    points[np.abs(points[:, 0]) == 90.0, 1] = 0.0
    points[points[:, 1] == 180.0, 1] = -180.0
    points[np.isnan(points).any(axis=1)] = np.nan
    return points + 0.0  # -0.0 + 0.0 is 0.0


def place_names(
    latitude_deg: npt.ArrayLike, longitude_deg: npt.ArrayLike, image_ids: Sequence[str]
) -> npt.NDArray[np.str_]:
    """A name of the place of each image: where it was taken, whatever it shows; the image itself where that is not known.

    What splits keep together, the gate against leaks looks at, and intervals resample.

    Parameters
    ----------
    latitude_deg, longitude_deg
        (n,), NaN where they are not known.
    image_ids
        (n,) ids.

    Returns
    -------
    ndarray
        (n,) of texts.

    Examples
    --------
    >>> place_names([1.5, 1.5, np.nan], [-180.0, 180.0, np.nan], ["a", "b", "c"]).tolist()
    ['1.5 -180.0', '1.5 -180.0', 'c']
    """
    points = normal_points(latitude_deg, longitude_deg)
    return np.array(
        [
            identity if np.isnan(latitude) else f"{latitude!r} {longitude!r}"
            for identity, (latitude, longitude) in zip(image_ids, points.tolist(), strict=True)
        ],
        dtype=str,
    )
