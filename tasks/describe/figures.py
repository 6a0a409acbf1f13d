"""Figures of one collection as the bytes of files: images of each label, and a map of the countries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tasks.collect.countries import country_shapes
from tasks.report.figures import images_per_label, world_map


def label_chart(labels: Mapping[str, int]) -> bytes | None:
    """Images of each label on a log axis, most first, as an SVG file; None without a label."""
    if not labels:
        return None
    # Renderers that tell a file's kind by its start want the declaration.
    return ('<?xml version="1.0" encoding="utf-8"?>\n' + images_per_label({"": labels})).encode()


def country_map(labels: Mapping[str, int], latitude: Sequence[float], longitude: Sequence[float]) -> bytes | None:
    """World map of images a country, log colours, with the places as dots, as a PNG file.

    Parameters
    ----------
    labels
        Label -> images.
    latitude, longitude
        Places in degrees.

    Returns
    -------
    bytes or None
        None where there is nothing to draw: no label is a country with a polygon, and no place is known.
    """
    if len(not_on_map(labels)) == len(labels) and not len(latitude):
        return None
    return world_map(labels, latitude, longitude)


def not_on_map(labels: Iterable[str]) -> list[str]:
    """The labels, sorted, that the map cannot show: no polygon has them."""
    drawn = {country.label for country in country_shapes()}
    return sorted(set(labels) - drawn)
