"""Settings of the stage `fit`."""

from __future__ import annotations

from pydantic import Field

from tasks.settings import Section


class LogisticSettings(Section):
    """Multinomial logistic regression."""

    C: float = Field(0.1, gt=0, description="inverse strength of the L2 penalty")
    max_iter: int = Field(300, ge=1)


class FitSettings(Section):
    """Which heads are fitted, and how they are judged."""

    experiment: str = "baseline"
    zero_shot: bool = True
    logistic: LogisticSettings | None = LogisticSettings()
    seed: int = Field(0, ge=0, description="of the fit and of the bootstrap")
    n_resamples: int = Field(1000, ge=100, description="bootstrap resamples for the 95 % intervals")
