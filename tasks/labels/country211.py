"""The 211 countries of CLIP's zero-shot label set, with ISO 3166 codes and UN M49 regions."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Country:
    """One label: `name` is CLIP's; `m49` a three-digit string; `region` the UN M49 (intermediate, else sub-) region."""

    name: str
    iso2: str
    iso3: str
    m49: str
    region: str
    continent: str


@cache
def country_table() -> tuple[Country, ...]:
    """All 211 countries in CLIP's order (ISO alpha-2). Codes are text: Namibia's ``NA`` is not a missing value."""
    text = files("tasks.labels").joinpath("country211.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return tuple(Country(*(row[key] for key in Country.__annotations__)) for row in rows)
