"""The whole pipeline by the command line, killed while it encodes, and by two at once: the same bytes.

Kills while it collects: test_collect_killed.py; at each rename of an encoding: test_encode.py; between heads: test_case_study.py.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from command_line import start
from conftest import write_photos

from flows.settings import load_settings

pytestmark = pytest.mark.usefixtures("prefect_server")
CONFIG = Path(__file__).parents[2] / "configs/folder.yaml"


def files(root: Path) -> dict[str, bytes]:
    """What a store keeps, without what tells the time and without temporary files of a killed process."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for part in ("tables", "images", "indexes", "reports")
        for path in sorted((root / part).rglob("*"))
        if path.is_file()
        and path.suffix != ".tmp"
        and not (part == "tables" and path.name == "_manifest.json")
        and path.name != "recall.json"
    }


def overrides(photos: Path, store: Path) -> list[str]:
    sizes = ["collect.shard_size=4", "encode.shard_size=4", "fit.n_resamples=100"]
    return [f"store={store}", f"collect.sources.0.path={photos}", *sizes]


def options(photos: Path, store: Path) -> list[str]:
    return ["run", "-c", str(CONFIG), *(part for each in overrides(photos, store) for part in ("-s", each))]


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
    prefect_server: None,  # noqa: ARG001
) -> tuple[Path, Path]:
    """A folder of photographs and the store that one quiet run makes of it."""
    from flows.pipeline import pipeline

    photos = write_photos(tmp_path_factory.mktemp("quiet") / "photos", 60, size=(400, 300))
    store = photos.parent / "store"
    assert pipeline(load_settings(CONFIG, overrides(photos, store))) is not None
    return photos, store


def test_killed_run_is_finished_by_the_next_with_the_same_bytes(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    photos, quiet = undisturbed
    store = tmp_path / "store"
    process = start(*options(photos, store), home=tmp_path / "home")
    deadline = time.monotonic() + 240
    while not (store / "tables/embeddings").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (store / "tables/embeddings").exists()
    assert start(*options(photos, store), home=tmp_path / "home").wait(240) == 0
    assert files(store) == files(quiet)


def test_two_runs_at_once_make_one_good_store(undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    photos, quiet = undisturbed
    store = tmp_path / "store"
    processes = [start(*options(photos, store), home=tmp_path / name) for name in ("one", "two")]
    outputs = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert files(store) == files(quiet)
