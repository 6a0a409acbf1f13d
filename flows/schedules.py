"""Settings of schedules: when which flow runs by itself."""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field, field_validator, model_validator

from tasks.settings import Section

FlowName = Literal["pipeline", "case-study", "collect", "describe", "encode", "dedup", "split", "fit", "publish"]


class ScheduleSettings(Section):
    """When a flow runs: exactly one of `cron`, `interval_s` and `rrule`."""

    cron: str | None = Field(None, description="such as `0 3 * * *`: every night at three")
    interval_s: float | None = Field(None, gt=0, description="seconds from one start to the next")
    rrule: str | None = Field(None, description="a recurrence of RFC 5545, such as `FREQ=WEEKLY;BYDAY=MO`")
    timezone: str = Field("UTC", description="of cron and rrule, such as Europe/Berlin")
    active: bool = True

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError("no such time zone: names are like Europe/Berlin")
        return str(ZoneInfo(name))

    @model_validator(mode="after")
    def _one(self) -> ScheduleSettings:
        if sum(each is not None for each in (self.cron, self.interval_s, self.rrule)) != 1:
            raise ValueError("give exactly one of cron, interval_s and rrule")
        return self
