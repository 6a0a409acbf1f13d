"""What a command collects without Prefect: the tables of the flow, and no server; when it does ask Prefect; how it ends."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from command_line import start, start_alone
from conftest import write_photos
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

from flows.direct import can_run_directly
from flows.progress import gather
from flows.settings import load_settings
from flows.side_by_side import side_by_side
from flows.stopping import Terminated, sigterm_raises
from storage.errors import PlaceprintError
from tasks.collect.steps import collect_shard
from tasks.step import Step, run_logger, step, under_prefect


def collect_alone(photos: Path, store: Path, *more: str) -> tuple[int, str]:
    """Exit code and what is printed."""
    process = begin(photos, store, *more)
    out, err = process.communicate(timeout=240)
    return process.returncode, out + err


def begin(photos: Path, store: Path, *more: str) -> subprocess.Popen[str]:
    given = ["-s", "labels=from-data", "--store", str(store), *more]
    return start_alone("collect", "folder", str(photos), *given, folder=photos.parent)


def tables(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.glob("tables/*/*/*.parquet")}


def runs(store: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(store.glob("runs/*.json"))]


@pytest.mark.usefixtures("prefect_server")
def test_the_tables_are_those_of_the_flow_and_nothing_of_prefect_is_there(photos: Path, tmp_path: Path) -> None:
    from flows.collect import collect

    (photos / "Egypt" / "again.jpg").write_bytes(next((photos / "Egypt").glob("0*.jpg")).read_bytes())
    (photos / "Egypt" / "damaged.jpg").write_bytes(b"\xff\xd8\xff")
    given = ["labels=from-data", f"collect.sources=[{{kind: folder, path: '{photos}'}}]", "collect.shard_size=5"]
    collect(load_settings(None, [*given, f"store={tmp_path / 'by-flow'}"]))
    code, said = collect_alone(photos, tmp_path / "alone", "-s", "collect.shard_size=5")
    assert code == 0, said
    assert said == "collect: 26 inputs = 24 kept + 1 rejected + 1 exact duplicates\n"
    assert tables(tmp_path / "alone") == tables(tmp_path / "by-flow")
    assert len(tables(tmp_path / "alone")) == 2
    assert list((tmp_path / "alone/.prefect").iterdir()) == [], "no database, and no log of a server"
    (alone,), (by_flow,) = runs(tmp_path / "alone"), runs(tmp_path / "by-flow")
    assert alone.keys() == by_flow.keys()
    assert alone["seconds"].keys() == by_flow["seconds"].keys()
    for same in ("flow", "status", "tables", "reused", "figures", "warnings", "packages"):
        assert alone[same] == by_flow[same]
    assert (tmp_path / "alone/catalog.duckdb").is_file()
    code, said = collect_alone(photos, tmp_path / "alone")
    assert (code, said) == (0, f"collect: nothing to do, images {alone['tables']['images']} are there\n")


def test_prefect_is_not_even_imported() -> None:
    modules = "flows.cli, flows.settings, flows.direct, flows.collecting, storage.catalog"
    code = f"import sys, {modules}; print('prefect' in sys.modules, 'scipy' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 3


def test_a_run_that_fell_short_says_so(photos: Path, tmp_path: Path) -> None:
    for number in range(3):
        (photos / "Egypt" / f"damaged-{number}.jpg").write_bytes(b"\xff\xd8\xff no more than a beginning")
    code, said = collect_alone(photos, tmp_path / "store", "--verbose")
    assert code == 0, said
    warning = "collect: 3 of 27 inputs were rejected, more than quality.max_reject_share 5%"
    assert f"\nwarning: {warning}" in said
    assert "INFO    | collect: shard 1 of 1, 27 of 27 images" in said
    (run,) = runs(tmp_path / "store")
    assert run["status"] == "completed"
    assert [each.partition(":")[2].strip().startswith("3 of 27") for each in run["warnings"]] == [True]


def test_a_run_that_fails_is_one_line_and_has_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "text.jpg").write_text("no image")
    code, said = collect_alone(tmp_path / "photos", tmp_path / "store")
    assert (code, said) == (1, "error: collect: none of 1 inputs is a usable image: 1 not_an_image\n")
    assert [run["status"] for run in runs(tmp_path / "store")] == ["failed"]
    assert list((tmp_path / "store").glob("leases/*")) == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures whose content takes a while to find, beside a store with what an undisturbed run makes of them."""
    root = tmp_path_factory.mktemp("large")
    write_photos(root / "photos", 40, size=(1200, 900))
    code, said = collect_alone(root / "photos", root / "undisturbed", *SLOWLY)
    assert code == 0, said
    return root


SLOWLY = ("-s", "collect.shard_size=12", "-s", "collect.sources.0.min_content_share=0.01")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_run_that_is_stopped_ends_at_once_and_the_next_one_goes_on(
    large: Path, sent: signal.Signals, code: int
) -> None:
    store = large / sent.name
    process = begin(large / "photos", store, *SLOWLY)
    while not list(store.glob("images/*/*.jpg")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(sent)
    sent_s = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - sent_s < 10
    assert (process.returncode, out) == (code, "")
    assert err == "stopped: what was finished is kept, run again to go on\n"
    assert tables(store) == {}
    assert [run["status"] for run in runs(store)] == ["failed"]
    assert list(store.glob("leases/*")) == []
    assert len(list(store.glob("images/*/*.jpg"))) < 40
    again, said = collect_alone(large / "photos", store, *SLOWLY)
    assert again == 0, said
    assert tables(store) == tables(large / "undisturbed")


def test_a_server_that_is_named_is_told(prefect_server: None, tmp_path: Path) -> None:  # noqa: ARG001
    photos = write_photos(tmp_path / "told-to-the-server", 3)
    given = ["-s", "labels=from-data", "--store", str(tmp_path / "store")]
    process = start("collect", "folder", str(photos), *given, home=tmp_path)
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    with get_client(sync_client=True) as client:
        named = FlowRunFilter(name=FlowRunFilterName(any_=["collect told-to-the-server"]))
        (run,) = client.read_flow_runs(flow_run_filter=named)
        assert run.state is not None
        assert run.state.is_completed()


@pytest.mark.parametrize("beside_a_folder", [False, True])
def test_services_are_asked_by_prefect(beside_a_folder: bool, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "store/.prefect/own-server.log").mkdir(parents=True)  # so that a server cannot start
    folder = f"{{kind: folder, path: '{photos}'}}, " if beside_a_folder else ""
    sources = f"collect.sources=[{folder}{{kind: osf, project: pe453, base_url: 'http://127.0.0.1:9'}}]"
    process = start_alone("collect", "-s", sources, "--store", str(tmp_path / "store"), folder=tmp_path)
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 1
    assert said.startswith("error: Prefect's server cannot be started: ")


def test_when_prefect_may_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert not can_run_directly(), "its settings were read, and may name a server"
    monkeypatch.delitem(sys.modules, "prefect")
    assert can_run_directly()
    monkeypatch.setenv("PREFECT_API_URL", "http://server/api")
    assert not can_run_directly()


@step(name="seconds")
def sleep_then(value: int, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    if value < 0:
        raise PlaceprintError("negative")
    return value


def test_steps_are_plain_functions_and_tasks() -> None:
    assert isinstance(collect_shard, Step)
    assert pickle.loads(pickle.dumps(collect_shard)) is collect_shard  # noqa: S301
    assert not under_prefect()
    assert run_logger().name == "placeprint"
    assert sleep_then(3) == 3
    assert sleep_then.with_options(retries=4).task.retries == 4
    assert (sleep_then.task.name, sleep_then.task.retries) == ("seconds", 0)


def test_results_come_in_the_order_in_which_they_were_asked_for() -> None:
    with side_by_side(ThreadPoolExecutor(3)) as submit:
        futures = [submit(sleep_then, number, (5 - number) / 50) for number in range(6)]
        assert gather("steps", futures, [1] * 6) == list(range(6))


def test_after_an_error_what_has_not_begun_never_does() -> None:
    futures: list[Any] = []

    def run() -> None:
        with side_by_side(ThreadPoolExecutor(1)) as submit:
            futures.extend(submit(sleep_then, number) for number in (1, -1))
            futures.extend(submit(sleep_then, number, 0.2) for number in range(20))
            gather("steps", futures, [1] * len(futures))

    with pytest.raises(PlaceprintError):
        run()
    assert sum(future.cancelled() for future in futures) >= 18


def test_sigterm_raises_in_the_block_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def run() -> None:
        with sigterm_raises():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    with pytest.raises(Terminated):
        run()
    assert signal.getsignal(signal.SIGTERM) is before
