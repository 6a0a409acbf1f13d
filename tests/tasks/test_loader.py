"""Every picture comes once, in its order, or with its error; and what is under way is bounded."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import PlaceprintError
from storage.schemas import RejectReason
from tasks.encode.compute import encode_pictures
from tasks.encode.loader import Loader, Picture
from tasks.images import ImageError


def prepare(data: bytes, overlay: Sequence[object]) -> torch.Tensor:  # noqa: ARG001
    if not data:
        raise ImageError(RejectReason.EMPTY, "nothing")
    return torch.tensor([int(data)], dtype=torch.uint8)


@settings(max_examples=40)
@given(
    good=st.lists(st.booleans(), max_size=30),
    batch_size=st.integers(1, 8),
    n_threads=st.integers(1, 4),
    n_ahead=st.integers(1, 3),
)
def test_every_picture_once_in_order(
    tmp_path_factory: object, good: list[bool], batch_size: int, n_threads: int, n_ahead: int
) -> None:
    folder: Path = tmp_path_factory.mktemp("loader")  # type: ignore[attr-defined]
    paths = [folder / str(number) for number in range(len(good))]
    for number, path in enumerate(paths):
        path.write_bytes(str(number).encode() if good[number] else b"")
    with Loader(
        [Picture(path) for path in paths], prepare, batch_size=batch_size, n_threads=n_threads, n_ahead=n_ahead
    ) as loader:
        batches = list(loader)
    assert [row for batch in batches for row in batch.rows] == [row for row, is_good in enumerate(good) if is_good]
    assert {row for batch in batches for row in batch.errors} == {
        row for row, is_good in enumerate(good) if not is_good
    }
    for batch in batches:
        assert len(batch.rows) + len(batch.errors) <= batch_size
        if batch.pixels is not None:
            assert batch.pixels[:, 0].tolist() == batch.rows
        else:
            assert not batch.rows


def test_missing_file_is_an_error_of_that_picture_alone(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"0")
    with Loader([Picture(tmp_path / "0"), Picture(tmp_path / "1")], prepare, batch_size=2, n_threads=1) as loader:
        (batch,) = loader
    assert batch.rows == [0]
    assert (batch.errors[1].reason, batch.errors[1].detail) == (
        RejectReason.UNREADABLE,
        "1: No such file or directory",
    )


def test_what_is_under_way_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"0")
    lock, n_loaded = threading.Lock(), 0

    def counted(data: bytes, overlay: Sequence[object]) -> torch.Tensor:
        nonlocal n_loaded
        with lock:
            n_loaded += 1
        return prepare(data, overlay)

    with Loader([Picture(tmp_path / "0")] * 1000, counted, batch_size=10, n_threads=4, n_ahead=2) as loader:
        for number, _ in enumerate(loader, start=1):
            time.sleep(0.01)
            assert n_loaded <= 10 * (number + 3)
            if number == 5:
                break
    assert n_loaded < 100


def test_an_error_of_the_device_ends_the_threads(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"0")
    before = threading.active_count()
    try:
        with Loader([Picture(tmp_path / "0")] * 100, prepare, batch_size=10, n_threads=4) as loader:
            next(iter(loader))
            raise MemoryError
    except MemoryError:
        pass
    assert threading.active_count() == before


class TooLarge:
    """An encoder whose device has too little memory."""

    device = "cpu"
    lock = threading.Lock()

    def encode_pixels(self, pixels: torch.Tensor) -> None:
        raise torch.OutOfMemoryError(f"tried to allocate {len(pixels)} GiB\nmore lines")


def test_too_large_a_batch_is_one_line_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"0")
    loader = Loader([Picture(tmp_path / "0")] * 7, prepare, batch_size=7, n_threads=1)
    with pytest.raises(PlaceprintError, match=r"encode.batch_size: 7 images are too many for the memory of cpu: tried"):
        encode_pictures(TooLarge(), loader)
