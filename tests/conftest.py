"""Shared surroundings: Prefect's home in a temporary folder, one server for the session, small folders of images."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before anything imports Prefect, which reads its settings once.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="placeprint-prefect-")
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
from loopback import Loopback
from PIL import Image
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server on loopback for all flows of the session."""
    with (
        prefect_test_harness(server_startup_timeout=120),
        # The heartbeat costs every flow a second at its end.
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
    ):
        yield


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A small picture with some structure, different for every seed."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def write_photos(
    root: Path, n: int = 24, labels: tuple[str, ...] = ("Egypt", "France", "Japan"), size: tuple[int, int] = (40, 30)
) -> Path:
    """A folder with `n` good pictures, shared out to the labels in turn: ``Egypt/00.jpg``, ``France/01.jpg``, …"""
    for number in range(n):
        folder = root / labels[number % len(labels)]
        folder.mkdir(parents=True, exist_ok=True)
        picture(number, size).save(folder / f"{number:02d}.jpg")
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three labels with eight good pictures each."""
    return write_photos(tmp_path / "photos")


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    """A server on this machine that answers what a test says."""
    server = Loopback()
    yield server
    server.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a store may be made."""
    return tmp_path / "store"
