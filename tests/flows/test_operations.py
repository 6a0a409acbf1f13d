"""What an operator meets, on the real thing: PostgreSQL, a Prefect server with a password, a worker, an S3 server, a webhook."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import write_photos
from loopback import Answer, Loopback
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from stack import Stack, StackError

from flows.automations import BLOCK, WEBHOOK_URL, register_automations
from flows.pipeline import pipeline
from flows.retry import retry
from flows.settings import load_settings
from storage.errors import PlaceprintError
from storage.store import Store

CONFIG = Path(__file__).parents[2] / "configs/folder.yaml"
N_MANY = 1000  # encoded one by one: seconds in which a run can be cancelled
TOKEN = "token-of-the-webhook"  # noqa: S105  (planted, to be looked for)


@pytest.fixture(scope="module")
def hook() -> Iterator[Loopback]:
    server = Loopback()
    server.routes["/hook"] = Answer(b"thanks")
    yield server
    server.close()


@pytest.fixture(scope="module")
def stack(hook: Loopback) -> Iterator[Stack]:
    """All of it, with every flow deployed, outside of pytest's folders: PostgreSQL's user may not look into these."""
    folder = Path(tempfile.mkdtemp(prefix="placeprint-operations-"))
    folder.chmod(0o711)
    stack = Stack(folder / "stack")
    try:
        stack.up()
    except StackError as error:
        if "apt-get install" in str(error):
            pytest.skip(str(error))
        raise
    try:
        environment = {**os.environ, **stack.environment, "PREFECT_HOME": str(folder / "home")}
        environment[WEBHOOK_URL] = f"{hook.url}/hook?{TOKEN}"
        command = [sys.executable, "-m", "flows.cli", "deploy", "-c", str(CONFIG), "--store", str(folder / "unused")]
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=240)
        with temporary_settings(
            {
                PREFECT_API_URL: stack.environment["PREFECT_API_URL"],
                PREFECT_API_AUTH_STRING: stack.environment["PREFECT_API_AUTH_STRING"],
            }
        ):
            yield stack
    finally:
        stack.down()
        shutil.rmtree(folder)


@pytest.fixture
def client(stack: Stack) -> Iterator[SyncPrefectClient]:  # noqa: ARG001  (its server)
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("given") / "photos", 48)


def overrides(store: object, photos: Path) -> list[str]:
    return [f"store={store}", f"collect.sources.0.path={photos}", "fit.n_resamples=100"]


def wanted(store: object, photos: Path, *more: str) -> dict[str, Any]:
    return {"settings": load_settings(CONFIG, [*overrides(store, photos), *more]).model_dump(mode="json")}


def start(client: SyncPrefectClient, parameters: dict[str, Any]) -> FlowRun:
    deployment = client.read_deployment_by_name("pipeline/placeprint")
    return client.create_flow_run_from_deployment(deployment.id, parameters=parameters)


def wait_until(condition: Callable[[], Any], limit_s: float = 180.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def all_of(read: Callable[..., list[Any]]) -> list[Any]:
    """Every entry that the server has of a kind: it gives at most 200 at once."""
    found: list[Any] = []
    while page := read(limit=200, offset=len(found)):
        found += page
    return found


def wait_for_end(client: SyncPrefectClient, run: FlowRun, state: str) -> FlowRun:
    wait_until(lambda: (now := client.read_flow_run(run.id).state) is not None and now.is_final())
    ended = client.read_flow_run(run.id)
    assert ended.state_name == state, f"{ended.state}"
    return ended


def process_of(store: Path) -> int:
    """The process that has a run under way in a store."""
    wait_until(lambda: list(store.glob("leases/run-*.lease")))
    (lease,) = store.glob("leases/run-*.lease")
    return int(json.loads(lease.read_bytes())["pid"])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_that_failed_is_told_and_its_retry_makes_the_same_bytes(
    stack: Stack, client: SyncPrefectClient, hook: Loopback, photographs: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    in_the_way = store / "tables" / "metrics"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("no folder can be made here")
    run = start(client, wanted(store, photographs))
    ended = wait_for_end(client, run, "Failed")
    wait_until(lambda: hook.asked("/hook"), 30)
    (told,) = [json.loads(request.body) for request in hook.asked("/hook")]
    assert told["state"] == "Failed"
    assert told["flow"] == "pipeline"
    assert told["text"].startswith(f"placeprint: {ended.name} ended as Failed: ")
    assert str(run.id) in told["url"]
    assert TOKEN in hook.asked("/hook")[0].query
    block = client.read_block_document_by_name(BLOCK, "webhook", include_secrets=False)
    assert TOKEN not in str(block.data)

    in_the_way.unlink()
    assert "waits for a worker" in retry(str(run.id))
    again = wait_for_end(client, run, "Completed")
    assert again.run_count == 2
    with pytest.raises(PlaceprintError, match="Completed: nothing to retry"):
        retry(ended.name)
    pipeline(load_settings(CONFIG, overrides(tmp_path / "other", photographs)))
    assert files(store) == files(tmp_path / "other")
    assert stack.runs("worker")


def files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for part in ("tables", "indexes")
        for path in sorted((root / part).rglob("*"))
        if path.is_file()
        and path.suffix != ".tmp"
        and path.name not in ("_manifest.json", "manifest.json", "recall.json")
    }


def test_a_cancelled_run_stops_within_ten_seconds_and_can_be_resumed(
    stack: Stack, client: SyncPrefectClient, tmp_path: Path
) -> None:
    photos, store = write_photos(tmp_path / "many", N_MANY), tmp_path / "store"
    settings = wanted(store, photos, "encode.batch_size=1", "encode.shard_size=200", "dedup.enabled=false")
    run = start(client, settings)
    pid = process_of(store)
    wait_until(lambda: list(store.glob("tables/embeddings/*/*.parquet")))
    client.set_flow_run_state(run.id, Cancelling())
    wait_until(lambda: not is_alive(pid), 10)
    wait_for_end(client, run, "Cancelled")
    assert not Store(store).versions("embeddings")
    retry(str(run.id))
    wait_for_end(client, run, "Completed")
    assert Store(store).version("embeddings").rows == N_MANY
    assert stack.runs("worker")


def test_a_run_whose_machine_was_switched_off_is_seen_and_resumed(
    stack: Stack, client: SyncPrefectClient, photographs: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    register_automations(client, silent_s=10.0)
    try:
        run = start(client, wanted(store, photographs))
        pid = process_of(store)
        os.killpg(stack.known["pids"]["worker"], signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: client.read_flow_run(run.id).state_name == "Crashed", 90)
    finally:
        register_automations(client)
    assert "fell silent" in str(client.read_flow_run(run.id).state)
    stack.up()
    assert retry(None).startswith(client.read_flow_run(run.id).name)
    wait_for_end(client, run, "Completed")
    assert Store(store).version("metrics").rows > 0


def test_a_run_outlives_its_server(stack: Stack, client: SyncPrefectClient, photographs: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run = start(client, wanted(store, photographs))
    process_of(store)
    stack.stop("server", signal.SIGKILL)
    time.sleep(2)
    stack.up()
    # The run fails for want of its server, or does not notice. Where the killed server lost an event, its automations may take
    # the first retry for the silent run, too (docs/runbook.md).
    for _ in range(3):
        wait_until(lambda: (now := client.read_flow_run(run.id).state) is not None and now.is_final())
        if client.read_flow_run(run.id).state_name == "Completed":
            break
        retry(str(run.id))
    wait_for_end(client, run, "Completed")
    assert list(store.glob("reports/*/index.html"))


def test_two_pipelines_at_once_on_one_store_on_s3_and_no_secret_is_in_what_they_leave(
    stack: Stack, client: SyncPrefectClient, photographs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in stack.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PLACEPRINT_CACHE", str(tmp_path / "cache"))
    parameters = wanted("s3://placeprint/store", photographs)
    by_worker = start(client, parameters)
    command = [sys.executable, "-m", "flows.cli", "run", "-c", str(CONFIG), "--store", "s3://placeprint/store"]
    command += ["-s", f"collect.sources.0.path={photographs}", "-s", "fit.n_resamples=100"]
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "home")}
    by_hand = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert by_hand.returncode == 0, by_hand.stderr
    wait_for_end(client, by_worker, "Completed")
    from storage.s3_path import store_path

    store = Store(store_path("s3://placeprint/store"))
    assert store.version("images").counts["kept"] == 48
    assert len(store.versions("metrics")) == 1
    said = by_hand.stdout + by_hand.stderr + (stack.folder / "worker.log").read_text()
    said += "".join(log.message for log in all_of(client.read_logs))
    said += str([(each.data, each.description) for each in all_of(client.read_artifacts)])
    said += str([(run.parameters, run.state) for run in all_of(client.read_flow_runs)])
    kept = b"".join(path.read_bytes() for path in (tmp_path / "home").rglob("*") if path.is_file())
    kept += b"".join(
        path.read_bytes()
        for pattern in ("runs/*.json", "tables/*/*/_manifest.json", "reports/*/*")
        for path in store.root.glob(pattern)
    )
    assert len(said) > 10_000
    for secret in (stack.known["password"], stack.known["auth"].partition(":")[2], TOKEN):
        assert secret not in said
        assert secret.encode() not in kept


def test_strangers_are_refused(stack: Stack) -> None:
    url = stack.environment["PREFECT_API_URL"]
    assert httpx.post(f"{url}/flow_runs/filter", json={}).status_code == 401
    assert httpx.post(f"{url}/flow_runs/filter", json={}, auth=("admin", "guessed")).status_code == 401
    name, _, password = stack.environment["PREFECT_API_AUTH_STRING"].partition(":")
    assert httpx.post(f"{url}/flow_runs/filter", json={}, auth=(name, password)).status_code == 200
