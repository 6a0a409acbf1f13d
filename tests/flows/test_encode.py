"""Encoding: every image once or rejected, whatever is killed when, on one device, on several, and on a Ray cluster."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import start
from conftest import write_photos
from image_corpus import BAD

from flows.settings import Settings, load_settings
from storage.errors import PlaceprintError, StoreError
from storage.leases import Leases
from storage.store import Store, TableVersion
from storage.vectors import column_vectors, read_vectors

pytestmark = pytest.mark.usefixtures("prefect_server")
ROOT = Path(__file__).parents[2]
N_IMAGES, SHARD_SIZE = 50, 8


def wanted(store: Path, photos: Path, *overrides: str) -> Settings:
    sets = [f"store={store}", "labels=from-data", f"collect.sources=[{{kind: folder, path: {photos}}}]"]
    return load_settings(None, [*sets, f"encode.shard_size={SHARD_SIZE}", "encode.batch_size=16", *overrides])


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:  # noqa: ARG001
    """A store with fifty images, not encoded yet; copy it."""
    from flows.collect import collect

    root = tmp_path_factory.mktemp("collected")
    write_photos(root / "photos", N_IMAGES, size=(400, 300))
    collect(wanted(root / "store", root / "photos"))
    return root


@pytest.fixture
def fresh(collected: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(collected / "store", tmp_path / "store"))


def encoded(store: Path, *overrides: str) -> TableVersion:
    from flows.encode import encode

    return Store(store).version("embeddings", encode(wanted(store, Path("unused"), *overrides))["embeddings"])


def contents(store: Path) -> dict[str, bytes]:
    """The Parquet files and the index of a store: what must be the same however it came to be."""
    kept = [*store.glob("tables/embedding*/*/*.parquet"), *store.glob("indexes/*/*.faiss")]
    return {str(path.relative_to(store)): path.read_bytes() for path in kept}


@pytest.fixture(scope="module")
def undisturbed(collected: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = Path(shutil.copytree(collected / "store", tmp_path_factory.mktemp("quiet") / "store"))
    encoded(store)
    return contents(store)


def test_rows_carry_the_id_of_their_image(fresh: Path) -> None:
    from tasks.encode.encoder import load_encoder
    from tasks.encode.weights import EncoderSettings

    version = encoded(fresh)
    rows = version.read(["image_id"])["image_id"].to_pylist()
    assert len(set(rows)) == N_IMAGES
    assert len(version.files) == -(-N_IMAGES // SHARD_SIZE)
    files = dict(Store(fresh).version("images").read(["image_id", "file"]).to_pandas().to_numpy().tolist())
    paths = [fresh / files[identity] for identity in rows]
    expected = load_encoder(EncoderSettings()).encode_images(paths, 16)
    assert (read_vectors(version) * expected).sum(axis=1).min() >= 0.999


def break_file(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def test_images_that_cannot_be_read_are_rows_of_embedding_rejects(fresh: Path) -> None:
    images = Store(fresh).version("images").read(["image_id", "file"]).to_pylist()
    broken = {**{kind: data for kind, (data, _) in BAD.items()}, "gone": None}
    reasons = {**{kind: reason.value for kind, (_, reason) in BAD.items()}, "gone": "unreadable"}
    by_id = {}
    for row, (kind, content) in zip(images[::5], broken.items(), strict=False):
        break_file(fresh / row["file"], content)
        by_id[row["image_id"]] = reasons[kind]
    version = encoded(fresh)
    rejects = Store(fresh).version("embedding_rejects").read().to_pylist()
    assert {row["image_id"]: row["reason"] for row in rejects} == by_id
    assert dict(version.counts) == {
        "images": N_IMAGES,
        "embedded": N_IMAGES - len(by_id),
        "reused": 0,
        "rejected": len(by_id),
    }
    embedded = set(version.read(["image_id"])["image_id"].to_pylist())
    assert embedded | by_id.keys() == {row["image_id"] for row in images}
    assert not embedded & by_id.keys()


def test_nothing_is_published_when_no_image_can_be_read(fresh: Path) -> None:
    for path in fresh.glob("images/*/*"):
        path.write_bytes(b"")
    with pytest.raises(PlaceprintError, match="none of 50 images can be read"):
        encoded(fresh)
    assert not Store(fresh).versions("embeddings")


def test_nothing_is_published_when_counts_do_not_reconcile(fresh: Path) -> None:
    from tasks.encode.recipes import embeddings_recipe
    from tasks.encode.settings import EncodeSettings
    from tasks.encode.steps import commit_embeddings, encode_shard

    settings, store = EncodeSettings(shard_size=30), Store(fresh)
    recipe = embeddings_recipe(settings, store.version("images").fingerprint)
    shard = encode_shard.fn(fresh, settings, recipe, 0, 0, 30, wait=True)
    assert shard is not None
    with pytest.raises(StoreError, match="50 images, but 30 embedded and 0 rejected"):
        commit_embeddings.fn(fresh, settings, recipe, [shard], N_IMAGES)
    assert not store.versions("embeddings")


class Children:
    """Encodes in processes that are killed where they are told: `encoding_child.py`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "encoding_child.py")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def encode(self, store: Path, **kill: object) -> int:
        """Renames done, or minus the signal."""
        if self.process.stdin is None or self.process.stdout is None:
            raise TypeError
        self.process.stdin.write(json.dumps({"store": str(store), "shard_size": SHARD_SIZE, **kill}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    started = Children()
    yield started
    started.process.kill()
    started.process.wait()


def test_killed_twenty_times_and_resumed_gives_the_same_bytes(
    fresh: Path, children: Children, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    generator = random.Random(4)  # noqa: S311
    n_killed = 0
    for number in range(20):
        # Each kill hits a store that was killed before, and every fifth begins anew.
        store = fresh if number % 5 else Path(shutil.copytree(fresh, tmp_path / f"store-{number}"))
        n_killed += children.encode(store, seconds=generator.uniform(0.05, 0.5)) == -14
    assert n_killed > 5
    assert children.encode(fresh) > 0
    assert contents(fresh) == undisturbed


def test_killed_before_and_after_each_rename_and_resumed_gives_the_same_bytes(
    collected: Path, children: Children, tmp_path: Path
) -> None:
    quiet = Path(shutil.copytree(collected / "store", tmp_path / "quiet"))
    n_renames = children.encode(quiet, shard_size=25)
    # Two leases, two shards, the rejects, two manifests and the pointers to them, the index and what describes it.
    assert n_renames >= 12
    for number in range(1, n_renames + 1):
        for before in (True, False):
            store = Path(shutil.copytree(collected / "store", tmp_path / f"{number}-{before}"))
            assert children.encode(store, shard_size=25, renames=number, before=before) == -9
            assert children.encode(store, shard_size=25) >= 0
            assert contents(store) == contents(quiet)


def test_killed_while_vectors_are_taken_over_and_resumed_gives_the_bytes_of_a_run_from_scratch(
    collected: Path, children: Children, tmp_path: Path
) -> None:
    from flows.collecting import collect_images

    before = Path(shutil.copytree(collected / "store", tmp_path / "before"))
    assert children.encode(before, shard_size=10) > 0
    photos = Path(shutil.copytree(collected / "photos", tmp_path / "photos"))
    write_photos(photos, N_IMAGES + 7, size=(400, 300))
    collect_images(wanted(before, photos))
    scratch = Path(shutil.copytree(before, tmp_path / "scratch"))
    for table in ("embeddings", "embedding_rejects"):
        shutil.rmtree(scratch / "tables" / table)
    shutil.rmtree(scratch / "indexes")
    assert children.encode(scratch, shard_size=20) > 0
    made = {name for name in contents(scratch) if ".faiss" not in name}
    n_renames = children.encode(Path(shutil.copytree(before, tmp_path / "quiet")), shard_size=20)
    for number in range(1, n_renames + 1):
        store = Path(shutil.copytree(before, tmp_path / f"{number}"))
        assert children.encode(store, shard_size=20, renames=number, before=bool(number % 2)) == -9
        assert children.encode(store, shard_size=20) >= 0
        version = Store(store).version("embeddings")
        assert version.counts["reused"] == N_IMAGES
        assert version.counts["embedded"] == 7
        found = contents(store)
        assert {name: found[name] for name in made} == {name: contents(scratch)[name] for name in made}


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-50], lambda _: b"", lambda data: data[:200] + b"\1" * 20 + data[220:]]
)
def test_damaged_shard_of_an_unfinished_version_is_made_again(
    fresh: Path, children: Children, undisturbed: dict[str, bytes], damage: Callable[[bytes], bytes]
) -> None:
    assert children.encode(fresh, renames=8) == -9
    shards = sorted(fresh.glob("tables/embeddings/*/part-*.parquet"))
    assert 1 < len(shards) < 7
    shards[0].write_bytes(damage(shards[0].read_bytes()))
    encoded(fresh)
    assert contents(fresh) == undisturbed


def test_only_missing_shards_are_made(fresh: Path, children: Children) -> None:
    assert children.encode(fresh, renames=8) == -9
    there = {path: path.stat().st_mtime_ns for path in fresh.glob("tables/embeddings/*/part-*.parquet")}
    encoded(fresh)
    assert there
    assert {path: path.stat().st_mtime_ns for path in there} == there
    (run,) = [json.loads(path.read_bytes()) for path in fresh.glob("runs/*.json") if "encode" in path.read_text()[:40]]
    made = set(run["figures"]["encode"]["shards"])
    assert made == {f"part-{index:05d}.parquet" for index in range(7)} - {path.name for path in there}


def test_second_run_does_nothing(fresh: Path) -> None:
    before = encoded(fresh)
    times = {path: path.stat().st_mtime_ns for path in before.files}
    assert encoded(fresh).fingerprint == before.fingerprint
    assert {path: path.stat().st_mtime_ns for path in before.files} == times


def test_shard_that_another_run_is_making_is_waited_for(fresh: Path, undisturbed: dict[str, bytes]) -> None:
    """Another machine has a lease, and vanishes: the run takes other shards first, and this one when the lease ended."""
    from tasks.encode.recipes import embeddings_recipe

    settings = wanted(fresh, Path("unused")).encode
    folder = Store(fresh).folder(
        "embeddings", embeddings_recipe(settings, Store(fresh).version("images").fingerprint).fingerprint
    )
    leases = Leases(folder / "leases", ttl_s=60.0)
    with leases.held("part-00002") as mine:
        assert mine
        thread = threading.Thread(target=encoded, args=(fresh,))
        thread.start()
        others = [folder / f"part-{index:05d}.parquet" for index in (0, 1, 3, 4, 5, 6)]
        for _ in range(600):
            if all(path.is_file() for path in others):
                break
            thread.join(0.1)
        assert all(path.is_file() for path in others)
        assert not (folder / "part-00002.parquet").exists()
    thread.join(60)
    assert contents(fresh) == undisturbed


def test_full_disk_is_one_line_and_loses_nothing(fresh: Path, undisturbed: dict[str, bytes]) -> None:
    code = "import resource, signal, sys; from pathlib import Path; from encoding_child import encode\n"
    code += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
    code += "encode(Path(sys.argv[1]), int(sys.argv[2]))"
    run = subprocess.run(
        [sys.executable, "-c", code, str(fresh), str(SHARD_SIZE)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no space left to write" in run.stderr.splitlines()[-1]
    assert not list(fresh.glob("tables/embeddings/*/*.parquet"))
    assert not list(fresh.glob("tables/embeddings/*/.*.tmp"))
    encoded(fresh)
    assert contents(fresh) == undisturbed


def assert_same_table(version: TableVersion, other: TableVersion) -> None:
    """Same rows in the same order; the number of threads of a process may move a vector's last bit."""
    assert version.read(["image_id"]).equals(other.read(["image_id"]))
    assert [path.name for path in version.files] == [path.name for path in other.files]
    np.testing.assert_allclose(read_vectors(version), read_vectors(other), atol=2e-6)


def test_two_processes_give_the_table_of_one(fresh: Path, tmp_path: Path) -> None:
    """One process a device, as with several GPUs."""
    alone = encoded(Path(shutil.copytree(fresh, tmp_path / "alone")))
    assert_same_table(encoded(fresh, "encode.encoder.device='cpu,cpu'"), alone)


def test_a_process_that_dies_ends_the_run_and_the_next_goes_on(fresh: Path, tmp_path: Path) -> None:
    given = ["-s", "labels=from-data", "-s", f"encode.shard_size={SHARD_SIZE}", "-s", "encode.batch_size=16"]
    process = start(
        "encode", "--store", str(fresh), *given, "-s", "encode.encoder.device='cpu,cpu'", home=tmp_path / "home"
    )
    deadline = time.monotonic() + 240
    while not list(fresh.glob("tables/embeddings/*/leases/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    (lease,) = list(fresh.glob("tables/embeddings/*/leases/*.lease"))[:1]
    os.kill(json.loads(lease.read_bytes())["pid"], signal.SIGKILL)
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 1
    assert "a process that encoded has died" in output
    assert not Store(fresh).versions("embeddings")
    assert encoded(fresh).rows == N_IMAGES


def test_ray_gives_the_table_of_one_process(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = encoded(Path(shutil.copytree(fresh, tmp_path / "alone")))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        version = encoded(fresh, "encode.runner=ray", "encode.ray_address=auto")
    finally:
        ray.shutdown()
    assert_same_table(version, alone)


def test_missing_extra_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    with pytest.raises(PlaceprintError, match=r"needs the extra `ray`: pip install 'placeprint\[ray\]'"):
        encoded(fresh, "encode.runner=ray")


def test_features_end_before_the_projection(fresh: Path) -> None:
    plain, both = encoded(fresh), encoded(fresh, "encode.features=true", "encode.dtype=float16")
    rows = both.read()
    assert rows["features"].type.list_size > rows["embedding"].type.list_size
    assert np.isfinite(column_vectors(rows["features"])).all()
    assert both.read(["image_id"]).equals(plain.read(["image_id"]))
    np.testing.assert_allclose(column_vectors(rows["embedding"]), read_vectors(plain), atol=2e-3)


def test_figures_of_the_run_are_in_its_manifest_and_in_prefect(fresh: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterName
    from prefect.client.schemas.sorting import FlowRunSort

    encoded(fresh)
    (path,) = [path for path in fresh.glob("runs/*.json") if json.loads(path.read_bytes())["flow"] == "encode"]
    figures = json.loads(path.read_bytes())["figures"]["encode"]
    assert figures["images"] == N_IMAGES
    assert figures["devices"] == ["cpu"]
    assert figures["images_per_second"] > 0
    assert 0 <= figures["starved_share"] <= 1
    assert sum(shard["images"] for shard in figures["shards"].values()) == N_IMAGES
    with get_client(sync_client=True) as client:
        named = FlowRunFilter(name=FlowRunFilterName(like_="encode "))
        (run,) = client.read_flow_runs(flow_run_filter=named, sort=FlowRunSort.START_TIME_DESC, limit=1)
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        keys = {artifact.key for artifact in client.read_artifacts(artifact_filter=of_run)}
    assert {"encode-times", "encode-progress"} <= keys


def test_shard_files_check_their_pages(fresh: Path) -> None:
    for path in encoded(fresh).files:
        assert pq.ParquetFile(path, page_checksum_verification=True).read().num_rows > 0
