"""Shared surroundings: Prefect's home in a temporary folder, one server for the session, small folders of images."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports Prefect, which reads its settings once.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="placeprint-prefect-")
os.environ["DO_NOT_TRACK"] = "1"
# Two workers of pytest are two machines to each other: neither waits for the other's encodings.
os.environ["PLACEPRINT_LOCKS"] = tempfile.mkdtemp(prefix="placeprint-locks-")
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
# OpenBLAS reads it once, too. Its threads spin while they wait for one another: with two workers on two cores, and processes
# beside them, a fit of a head takes ten times as long. Torch and Faiss keep their threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# As the command line sets it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import numpy as np
import pytest
from loopback import Loopback
from PIL import Image
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from s3_server import S3Server

    from storage.s3_path import S3Path

# The same examples in every run, and no deadline: what fails, fails for its code. `pytest --hypothesis-profile=search` looks further.
hypothesis.settings.register_profile("same", deadline=None, derandomize=True)
hypothesis.settings.register_profile("search", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("same")


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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for Torch: small blocks are only slowed down by a second one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 server for the session."""
    from s3_server import S3Server

    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Path]:
    """An empty bucket, and the environment in which it is found."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("PLACEPRINT_CACHE", str(tmp_path / "cache"))
    s3_server.forget()
    s3_server.ask("POST", "/moto-api/reset")
    s3_server.ask("PUT", "/bucket")
    from storage.s3_path import S3Path, store_path

    path = store_path("s3://bucket")
    assert isinstance(path, S3Path)
    yield path
    s3_server.forget()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium, or a skipped test where there is none. Not for the session: its event loop would stay in other tests' way."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        options = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-background-networking",
            "--disable-component-update",
        ]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()
