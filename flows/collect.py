"""Flow `collect`: sources -> images, rejects."""

from __future__ import annotations

from prefect import flow

from flows.collecting import collect_images
from flows.settings import Settings
from flows.shortfalls import see_if_it_fell_short


@flow(name="collect", flow_run_name="collect {settings.collect.title}", on_completion=[see_if_it_fell_short])
def collect(settings: Settings) -> str:
    """Collect every source of the settings; returns the fingerprint of the tables."""
    return collect_images(settings)
