"""Label sets: the class names of a study, in a fixed order, with their regions where they have any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from storage.errors import PlaceprintError
from tasks.labels.country211 import country_table

COUNTRY211 = "country211"
FROM_DATA = "from-data"


@dataclass(frozen=True)
class LabelSet:
    """Class names in order; `regions` and `continents` give one name a class, or are None."""

    names: tuple[str, ...]
    regions: tuple[str, ...] | None = None
    continents: tuple[str, ...] | None = None

    @cached_property
    def index(self) -> dict[str, int]:
        """Class index of each name."""
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def region_names(self) -> tuple[str, ...]:
        """The regions in alphabetical order; the classes themselves where there are none."""
        return tuple(sorted(set(self.regions))) if self.regions is not None else self.names

    @cached_property
    def region_index(self) -> npt.NDArray[np.int64]:
        """Class index -> region index, (n_classes,). Without regions each class is its own: no partial credit."""
        if self.regions is None:
            return np.arange(len(self.names))
        order = {name: position for position, name in enumerate(self.region_names)}
        return np.array([order[name] for name in self.regions], dtype=np.int64)

    def check(self, labels: Iterable[str], setting: str) -> None:
        """Refuse labels that the set does not have.

        Raises
        ------
        PlaceprintError
            Naming the first such label, its nearest known ones, and the setting to change.
        """
        unknown = sorted(set(labels) - set(self.names))
        if not unknown:
            return
        near = get_close_matches(unknown[0], self.names, n=2, cutoff=0.6)
        hint = f" (nearest: {', '.join(near)})" if near else ""
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise PlaceprintError(
            f"collect: the label {unknown[0]!r}{hint}{more} is not in the label set {setting!r}: "
            f"rename it, or set labels={FROM_DATA} to take the labels as they are"
        )


def load_label_set(setting: str, labels_of_data: Iterable[str]) -> LabelSet:
    """The label set that a setting names.

    Parameters
    ----------
    setting
        ``country211``, ``from-data``, or the path of a CSV with a column `name` and optionally `region`, `continent`.
    labels_of_data
        Labels of the images, used by ``from-data``.
    """
    if setting == COUNTRY211:
        table = country_table()
        return LabelSet(
            tuple(country.name for country in table),
            tuple(country.region for country in table),
            tuple(country.continent for country in table),
        )
    if setting == FROM_DATA:
        return LabelSet(tuple(sorted(set(labels_of_data))))
    return _read_label_set(Path(setting).expanduser())


def _read_label_set(path: Path) -> LabelSet:
    if not path.is_file():
        raise PlaceprintError(f"labels: {str(path)!r} is neither {COUNTRY211}, {FROM_DATA} nor a CSV file")
    table = pl.read_csv(path, infer_schema=False).fill_null("")
    if "name" not in table.columns or table["name"].is_duplicated().any() or not table.height:
        raise PlaceprintError(f"labels: {path} must have a column `name`, with every label once")
    columns = {
        name: tuple(table[name].to_list()) if name in table.columns else None for name in ("region", "continent")
    }
    return LabelSet(tuple(table["name"].to_list()), columns["region"], columns["continent"])
