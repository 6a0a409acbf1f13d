"""No image is embedded twice: whatever is added, removed, renamed or reordered, and to the bytes of a run from scratch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import placeprint
from conftest import picture

from flows.collecting import collect_images
from flows.encoding import encode_images
from flows.settings import Settings, load_settings
from storage.errors import StoreError
from storage.faiss_index import SearchIndex
from storage.store import Store, TableVersion
from storage.vectors import read_vectors
from tasks.collect.steps import unique_images
from tasks.encode.recipes import embeddings_recipe
from tasks.encode.reuse import plan_reuse

ROOT = Path(__file__).parents[2]
SHARD_SIZE = 8


def add(photos: Path, numbers: range, label: str) -> None:
    (photos / label).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture(number, (90, 70)).save(photos / label / f"{number:03d}.png")


def wanted(root: Path, *overrides: str) -> Settings:
    return load_settings(
        None,
        [
            f"store={root / 'store'}",
            "labels=from-data",
            f"collect.sources=[{{kind: folder, path: {root / 'photos'}}}]",
            f"encode.shard_size={SHARD_SIZE}",
            *overrides,
        ],
    )


def run(root: Path, *overrides: str) -> tuple[TableVersion, TableVersion]:
    """Collect and encode; the embeddings and the prompts."""
    settings = wanted(root, *overrides)
    made = encode_images(settings, collect_images(settings))
    store = Store(root / "store")
    return store.version("embeddings", made["embeddings"]), store.version("prompts", made["prompts"])


def counts(version: TableVersion) -> tuple[int, int, int, int]:
    found = version.counts
    assert found["images"] == found["embedded"] + found["reused"] + found["rejected"]
    assert version.rows == found["embedded"] + found["reused"]
    origins = version.notes["origins"].values()
    assert sum(each["embedded"] for each in origins) == found["embedded"]
    assert sum(n for each in origins for name, n in each.items() if name != "embedded") == found["reused"]
    return found["images"], found["embedded"], found["reused"], found["rejected"]


def files(version: TableVersion) -> list[bytes]:
    return [path.read_bytes() for path in version.files]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images of two labels, encoded; copy it."""
    root = tmp_path_factory.mktemp("started")
    add(root / "photos", range(15), "chile")
    add(root / "photos", range(15, 30), "peru")
    version, prompts = run(root)
    assert counts(version) == (30, 30, 0, 0)
    assert (prompts.counts["embedded"], prompts.counts["reused"]) == (4, 0)
    return root


@pytest.fixture
def root(started: Path, tmp_path: Path) -> Iterator[Path]:
    """The same folder each time, as it was: a listing's fingerprint holds paths and times."""
    shutil.copytree(started, tmp_path / "kept", copy_function=shutil.copy2)
    yield started
    shutil.rmtree(started)
    shutil.copytree(tmp_path / "kept", started, copy_function=shutil.copy2)


def from_scratch(root: Path, *overrides: str) -> TableVersion:
    """The same images in a store that has nothing yet."""
    shutil.move(root / "store", root / "other")
    version, _ = run(root, *overrides)
    assert version.counts["reused"] == 0
    return version


def added_at_the_end(photos: Path) -> tuple[int, int]:
    add(photos, range(30, 37), "zambia")
    return 7, 30


def added_in_the_middle(photos: Path) -> tuple[int, int]:
    add(photos, range(30, 33), "egypt")
    return 3, 30


def one_added(photos: Path) -> tuple[int, int]:
    picture(99, (90, 70)).save(photos / "chile" / "0005.png")
    return 1, 30


def removed(photos: Path) -> tuple[int, int]:
    for name in ("000", "007", "014"):
        (photos / "chile" / f"{name}.png").unlink()
    return 0, 27


def renamed(photos: Path) -> tuple[int, int]:
    (photos / "chile").rename(photos / "zimbabwe")
    return 0, 30


def all_at_once(photos: Path) -> tuple[int, int]:
    renamed(photos)
    (photos / "peru" / "020.png").unlink()
    add(photos, range(30, 32), "angola")
    return 2, 29


@pytest.mark.parametrize("change", [added_at_the_end, added_in_the_middle, one_added, removed, renamed, all_at_once])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_only_what_is_new_is_embedded_and_the_bytes_are_those_of_a_run_from_scratch(
    root: Path, change: Callable[[Path], tuple[int, int]], precision: str
) -> None:
    setting = f"encode.encoder.precision={precision}"
    run(root, setting)
    n_new, n_known = change(root / "photos")
    version, _ = run(root, setting)
    assert counts(version) == (n_new + n_known, n_new, n_known, 0)
    scratch = from_scratch(root, setting)
    assert scratch.fingerprint == version.fingerprint
    assert files(scratch) == files(Store(root / "other").version("embeddings", version.fingerprint))


@pytest.mark.usefixtures("prefect_server")
def test_the_line_that_says_it(root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    added_in_the_middle(root / "photos")
    given = ["-s", "labels=from-data", "-s", f"encode.shard_size={SHARD_SIZE}", "--store", str(root / "store")]
    placeprint("collect", "folder", str(root / "photos"), *given, monkeypatch=monkeypatch, capfd=capfd)
    code, _, err = placeprint("encode", *given, monkeypatch=monkeypatch, capfd=capfd)
    assert code == 0
    assert "encode: 33 images = 3 embedded + 30 reused + 0 rejected, with placeprint-demo@" in err
    assert "encode: 6 prompts = 2 embedded + 4 reused" in err
    code, out, _ = placeprint("encode", *given, monkeypatch=monkeypatch, capfd=capfd)
    assert (code, "encode: nothing to do, embeddings" in out) == (0, True)


def test_another_order_of_shards_and_another_type_are_no_reason(root: Path) -> None:
    wide, _ = run(root)
    version, prompts = run(root, "encode.shard_size=11", "encode.dtype=float16")
    assert counts(version) == (30, 0, 30, 0)
    assert prompts.counts["embedded"] == 0
    np.testing.assert_array_equal(read_vectors(version), read_vectors(wide).astype(np.float16).astype(np.float32))
    # Not the other way round: float16 has lost digits.
    shutil.rmtree(wide.folder)
    again, _ = run(root, "encode.shard_size=12")
    assert counts(again)[1] == 30


def test_another_identity_takes_nothing_over(root: Path) -> None:
    for setting in ("encode.encoder.image_resize_mode=squash", "encode.exact=true", "encode.features=true"):
        version, _ = run(root, setting)
        assert counts(version)[1] == 30, setting


def test_features_are_taken_over(root: Path) -> None:
    run(root, "encode.features=true")
    added_in_the_middle(root / "photos")
    version, _ = run(root, "encode.features=true")
    assert counts(version) == (33, 3, 30, 0)
    scratch = from_scratch(root, "encode.features=true")
    assert files(scratch) == files(Store(root / "other").version("embeddings", version.fingerprint))
    assert np.isfinite(read_vectors(version, "features")).all()


def test_second_source_with_some_of_the_same_images(root: Path) -> None:
    add(root / "more", range(25, 35), "bolivia")
    sources = f"collect.sources=[{{kind: folder, path: {root / 'photos'}}}, {{kind: folder, name: more, path: {root / 'more'}}}]"
    version, _ = run(root, sources)
    assert counts(version) == (35, 5, 30, 0)


def test_overlays_are_looked_at_by_collection(root: Path) -> None:
    add(root / "more", range(40, 45), "bolivia")
    sources = f"collect.sources=[{{kind: folder, path: {root / 'photos'}}}, {{kind: folder, name: more, path: {root / 'more'}}}]"
    plain, _ = run(root, sources)
    assert counts(plain) == (35, 5, 30, 0)
    blanked, _ = run(root, sources, "encode.overlays={more: [[0, 0, 1, 0.5]]}")
    assert counts(blanked) == (35, 5, 30, 0)
    twice, _ = run(root, sources, "encode.overlays={more: [[0, 0, 1, 0.5]], photos: [[0.5, 0, 1, 1]]}")
    assert counts(twice) == (35, 30, 5, 0)


def test_damaged_shard_is_not_inherited(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    old, _ = run(root)
    data = bytearray(old.files[1].read_bytes())
    data[300] ^= 1
    old.files[1].write_bytes(bytes(data))
    added_at_the_end(root / "photos")
    version, _ = run(root)
    assert counts(version) == (37, 7 + SHARD_SIZE, 30 - SHARD_SIZE, 0)
    scratch = from_scratch(root)
    assert files(scratch) == files(Store(root / "other").version("embeddings", version.fingerprint))
    capfd.readouterr()


def test_rejected_images_are_looked_at_again_without_being_encoded(root: Path) -> None:
    store = Store(root / "store")
    rows = store.version("images").read(["image_id", "file"]).to_pylist()
    lost, mended = (root / "store" / rows[at]["file"] for at in (2, 20))
    intact = mended.read_bytes()
    lost.write_bytes(intact[:50])
    mended.write_bytes(b"")
    # Of another encoder, so that nothing is known yet.
    setting = "encode.encoder.image_resize_mode=squash"
    first, _ = run(root, setting)
    assert counts(first) == (30, 28, 0, 2)
    mended.write_bytes(intact)
    version, _ = run(root, setting, "encode.shard_size=9")
    assert counts(version) == (30, 1, 28, 1)
    (left,) = store.version("embedding_rejects", version.fingerprint).read().to_pylist()
    assert left["image_id"] == rows[2]["image_id"]


def test_fresh_computes_all_and_gives_the_same_bytes(root: Path) -> None:
    added_in_the_middle(root / "photos")
    version, _ = run(root)
    before = files(version)
    again, prompts = run(root, "encode.fresh=true")
    assert again.fingerprint == version.fingerprint
    assert counts(again) == (33, 33, 0, 0)
    assert prompts.counts["reused"] == 0
    assert files(again) == before


def test_index_is_extended_where_images_are_added_at_the_end(root: Path) -> None:
    settings = wanted(root, "encode.shard_size=10")
    encode_images(settings, collect_images(settings))
    added_at_the_end(root / "photos")
    version, _ = run(root, "encode.shard_size=10")
    store = Store(root / "store")
    assert SearchIndex(store, version).manifest["extended_from"] is not None
    shutil.rmtree(root / "store" / "indexes")
    run(root, "encode.shard_size=10")
    assert SearchIndex(store, version).manifest["extended_from"] is None


SCRIPT = """
import sys
from flows.collecting import collect_images
from flows.encoding import encode_images
from flows.settings import load_settings
settings = load_settings(None, sys.argv[1:])
encode_images(settings, collect_images(settings))
print(sorted({"torch", "open_clip", "prefect"} & set(sys.modules)))
"""


def test_nothing_new_needs_neither_torch_nor_prefect(root: Path) -> None:
    (root / "photos" / "peru" / "020.png").unlink()
    (root / "photos" / "peru" / "021.png").rename(root / "photos" / "chile" / "100.png")
    sets = [
        f"store={root / 'store'}",
        "labels=from-data",
        f"collect.sources=[{{kind: folder, path: {root / 'photos'}}}]",
    ]
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT, *sets],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert "encode: 29 images = 0 embedded + 29 reused + 0 rejected" in found.stderr
    assert found.stdout.splitlines()[-1] == "[]"


def test_plan_takes_each_vector_once_and_in_its_place(root: Path) -> None:
    run(root, "encode.shard_size=7")
    added_in_the_middle(root / "photos")
    settings = wanted(root)
    images = Store(root / "store").version("images", collect_images(settings))
    rows = unique_images(images, ["image_id", "source"])
    store = Store(root / "store")
    plans = plan_reuse(store, embeddings_recipe(settings.encode, images.fingerprint), rows, 10)
    assert [plan.n_images for plan in plans] == [10, 10, 10, 3]
    assert sum(plan.n_missing for plan in plans) == 3
    for number, plan in enumerate(plans):
        positions = np.concatenate([source.positions for source in plan.sources])
        assert len(set(positions.tolist())) == len(positions)
        for source in plan.sources:
            held = pq.read_table(source.path)["image_id"].to_pylist()
            here = rows["image_id"].slice(10 * number, plan.n_images).to_pylist()
            assert [held[row] for row in source.rows] == [here[position] for position in source.positions]


def test_read_vectors_refuses_to_mix_encoders(root: Path) -> None:
    first, _ = run(root)
    second, _ = run(root, "encode.encoder.image_resize_mode=squash")
    assert read_vectors([*first.files[:1], *first.files[1:2]]).shape == (2 * SHARD_SIZE, 128)
    with pytest.raises(StoreError, match="of several encoders: placeprint-demo@"):
        read_vectors([first.files[0], second.files[0]])
    shutil.copy(second.files[0], first.files[0])
    with pytest.raises(StoreError, match=r"of several encoders|missing or damaged"):
        read_vectors(first)


def test_a_copied_file_says_what_it_is(root: Path) -> None:
    version, prompts = run(root)
    for table in (version, prompts):
        said = {key.decode(): value.decode() for key, value in pq.read_schema(table.files[0]).metadata.items()}
        assert said["placeprint.encoder_id"] == version.notes["encoder"]
        assert json.loads(said["placeprint.encoder"]) == version.notes["identity"]
        assert (said["placeprint.dimension"], said["placeprint.dtype"]) == ("128", "float32")
        assert (said["placeprint.normalised"], said["placeprint.metric"].split()[0]) == ("true", "cosine")
        assert said["placeprint.fingerprint"] == table.fingerprint
        assert said["placeprint.images"] == table.manifest["recipe"]["inputs"]["images"]
        assert said["placeprint.version"] == table.manifest["placeprint"]
