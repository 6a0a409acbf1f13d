"""The names that settings know of losses, and the study's four: without torch, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

LossForm = Literal["nll", "double-softmax"]
RegionScale = Literal["none", "log-ratio"]
Precision = Literal["float32", "bfloat16"]

# The region's portion of the loss in epoch i = 0, 1, … is γ·ρ^i (the case study's section 5.3.2).
PRESETS: Mapping[str, Mapping[str, float]] = {
    "L0": {"gamma": 0.0, "rho": 1.0},
    "L25": {"gamma": 0.25, "rho": 1.0},
    "L50": {"gamma": 0.5, "rho": 1.0},
    "LDYN": {"gamma": 0.8, "rho": 0.75},
}
