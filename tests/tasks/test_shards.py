"""A shard is believed only when it was read again: its images, their number, and vectors that are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage.errors import StoreError
from storage.schemas import RejectReason
from storage.store import write_parquet
from tasks.encode.shards import Rejected, checked_shard, shard_table
from tasks.encode.telemetry import Times, estimate, table, warning
from tasks.images import ImageError

IDS = [f"{number:032x}" for number in range(5)]
ERRORS = {3: ImageError(RejectReason.TRUNCATED, "cut off")}


def unit(n: int, d: int = 8) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(path: Path, vectors: np.ndarray, features: np.ndarray | None = None, dtype: str = "float32") -> Path:
    write_parquet(path, shard_table(IDS, [0, 1, 2, 4], vectors, features, ERRORS, dtype))
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_whole_shard_accounts_for_every_image(tmp_path: Path, dtype: str) -> None:
    path = write(tmp_path / "a.parquet", unit(4, 512), unit(4, 7) * 30, dtype)
    assert checked_shard(path, IDS) == [Rejected(IDS[3], "truncated", "cut off")]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (unit(4) * 1.01, "unit length"),
        (np.where(np.arange(4)[:, None] == 2, np.nan, unit(4)), "not finite"),
        (np.zeros((4, 8), np.float32), "unit length"),
    ],
)
def test_vectors_that_are_not_whole_are_found(tmp_path: Path, vectors: np.ndarray, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        checked_shard(write(tmp_path / "a.parquet", vectors), IDS)


def test_features_that_are_not_finite_are_found(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="features that are not finite"):
        checked_shard(write(tmp_path / "a.parquet", unit(4), np.full((4, 3), np.inf, np.float32)), IDS)


@pytest.mark.parametrize("ids", [IDS[:4], [*IDS, "f" * 32], IDS[::-1], [*IDS[:4], "f" * 32]])
def test_shard_of_other_images_is_not_believed(tmp_path: Path, ids: list[str]) -> None:
    with pytest.raises(StoreError, match="does not hold the images"):
        checked_shard(write(tmp_path / "a.parquet", unit(4)), ids)


def damage_end(data: bytes) -> bytes:
    return data[:-100]


@pytest.mark.parametrize("damage", [damage_end, lambda _: b"", lambda data: b"\0" * len(data)])
def test_damaged_file_is_found(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write(tmp_path / "a.parquet", unit(4, 64))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreError, match="cannot be read"):
        checked_shard(path, IDS)


def test_every_flipped_bit_of_a_small_shard_is_found_or_changes_nothing(tmp_path: Path) -> None:
    """Parquet's page checksums, the footer, the ids and the lengths together; not the text of a reject's detail."""
    path = write(tmp_path / "a.parquet", unit(4))
    whole = path.read_bytes()
    expected = checked_shard(path, IDS)
    n_found = 0
    for at in range(4, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            assert [each.image_id for each in checked_shard(path, IDS)] == [each.image_id for each in expected]
        except StoreError:
            n_found += 1
    assert n_found > 0.2 * len(range(4, len(whole), 7))


def test_shard_of_nothing_but_rejects(tmp_path: Path) -> None:
    errors = {row: ImageError(RejectReason.EMPTY, "nothing") for row in range(5)}
    write_parquet(tmp_path / "a.parquet", shard_table(IDS, [], unit(0), None, errors, "float32"))
    assert [each.image_id for each in checked_shard(tmp_path / "a.parquet", IDS)] == IDS


def test_times_add_up_and_starving_has_a_cure() -> None:
    busy, starved = Times(100, 0.1, 1.9, 0.2), Times(100, 3.0, 1.0, 0.2)
    total = Times.sum([busy, starved])
    assert (total.images, total.images_per_second) == (200, pytest.approx(200 / 6))
    assert total.starved_share == pytest.approx(3.1 / 6)
    assert warning(busy, 1, 8) is None
    assert "set encode.loader_threads to 8, the number of cores (it is 1)" in str(warning(starved, 1, 8))
    assert "every core decodes already" in str(warning(starved, 8, 8))
    assert "| all | 200 | 3.10 s | 2.90 s | 0.40 s | 33 |" in table([("a", busy), ("b", starved)])
    assert Times.sum([]).images_per_second == Times.sum([]).starved_share == 0.0


def test_estimate() -> None:
    given = {"images": 1000, "read_bytes": 5_000_000, "vector_bytes": 2048, "picture_bytes": 150_528}
    known = estimate(**given, batch_size=64, n_ahead=3, images_per_second=20.0)
    assert (known.written_bytes, known.memory_bytes, known.seconds) == (2_048_000, 5 * 64 * 150_528, 50.0)
    assert "1000 images, 5.0 MB to read, 2.0 MB to write, 48 MB" in str(known)
    assert "known after one shard" in str(estimate(**given, batch_size=64, n_ahead=3, images_per_second=None))
