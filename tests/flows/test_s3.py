"""A store on S3 holds what a store in a folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import start
from loopback import Loopback
from services import FakeOsf, jpeg

from flows.settings import Settings, load_settings
from storage.errors import PlaceprintError
from storage.faiss_index import SearchIndex
from storage.s3_path import S3Path, StorePath
from storage.store import Store
from storage.vectors import read_vectors

pytestmark = pytest.mark.usefixtures("prefect_server")
CONFIGS = Path(__file__).parents[2] / "configs"
SETS = ["fit.n_resamples=100", "encode.shard_size=8", "collect.shard_size=10"]


def folder_settings(store: StorePath, photos: Path) -> Settings:
    return load_settings(CONFIGS / "folder.yaml", [f"store={store}", f"collect.sources.0.path={photos}", *SETS])


def versions(store: StorePath) -> dict[tuple[str, str], object]:
    """Every table version, with hash and rows of its shards."""
    return {
        (version.table, version.fingerprint): (version.manifest["shards"], dict(version.counts))
        for version in Store(store).versions()
    }


def test_the_whole_pipeline_on_s3_gives_the_tables_of_a_folder(photos: Path, tmp_path: Path, bucket: S3Path) -> None:
    from flows.pipeline import pipeline

    (photos / "broken.jpg").write_bytes(b"no picture")
    local, remote = tmp_path / "store", bucket / "somewhere" / "store"
    pages = [pipeline(folder_settings(store, photos)) for store in (local, remote)]
    assert versions(remote) == versions(local)
    assert len(versions(local)) == 10
    assert all(page is not None and page.is_file() for page in pages)
    on_s3, in_folder = Store(remote), Store(local)
    embeddings = on_s3.version("embeddings")
    vectors = read_vectors(embeddings)
    for each in zip(
        SearchIndex(on_s3, embeddings).search(vectors, 5),
        SearchIndex(in_folder, in_folder.version("embeddings")).search(vectors, 5),
        strict=True,
    ):
        assert (each[0] == each[1]).all()
    # Again: nothing is done, and nothing is written anew.
    before = {path.key: path.stat().st_mtime for path in (remote / "tables").glob("*/*/*.parquet")}
    pipeline(folder_settings(remote, photos))
    assert {path.key: path.stat().st_mtime for path in (remote / "tables").glob("*/*/*.parquet")} == before


def test_command_line_on_s3(photos: Path, tmp_path: Path, bucket: S3Path) -> None:
    store = ["--store", f"{bucket}/store"]
    made = [
        [
            "run",
            "-c",
            str(CONFIGS / "folder.yaml"),
            "-s",
            f"collect.sources.0.path={photos}",
            "-s",
            "fit.n_resamples=100",
        ],
        [
            "sql",
            "select count(*) as images, count(distinct label) as labels from images join embeddings using (image_id)",
        ],
        ["search", "Egypt"],
    ]
    outputs = []
    for arguments in made:
        process = start(*arguments, *store, home=tmp_path / "home")
        outputs.append(process.communicate(timeout=240)[0])
        assert process.returncode == 0, outputs[-1]
    assert "24" in outputs[1]
    assert "Egypt/" in outputs[2]
    assert not list(tmp_path.glob("s3:*"))


def test_service_is_collected_to_s3_and_resumed(loopback: Loopback, bucket: S3Path) -> None:
    from flows.collect import collect

    FakeOsf(loopback, {f"Egypt/{number}.jpg": jpeg(number) for number in range(6)})
    section = {"kind": "osf", "project": "pe453", "base_url": f"{loopback.url}/v2", "requests_per_second": None}
    settings = Settings.model_validate(
        {"store": f"{bucket}/store", "labels": "from-data", "collect": {"sources": [section]}}
    )
    collect(settings)
    loopback.requests.clear()
    collect(settings)
    assert not loopback.requests
    assert Store(settings.store).version("images").rows == 6
    assert list((bucket / "store" / "listings").glob("*/0001/answers/*.json.gz"))


def test_bucket_that_is_not_there_is_one_line(photos: Path, bucket: S3Path) -> None:  # noqa: ARG001
    from flows.collect import collect

    with pytest.raises(PlaceprintError, match="s3://nowhere: no such bucket"):
        collect(
            load_settings(None, ["store=s3://nowhere/store", f"collect.sources=[{{kind: folder, path: {photos}}}]"])
        )


def test_settings_show_the_address(bucket: S3Path) -> None:
    settings = load_settings(None, [f"store={bucket}/store"])
    assert settings.store == bucket / "store"
    assert settings.model_dump(mode="json")["store"] == "s3://bucket/store"
    assert Settings.model_validate_json(settings.model_dump_json()).store == settings.store
