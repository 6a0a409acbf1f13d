"""Batches of pixels, made by threads while the device works on those before.

Threads, not processes: reading, decoding and resizing run outside Python's lock, and a process would first have to import
torch (docs/encode.md has the measurement). What is under way is bounded, so memory does not grow with the number of images.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from storage.s3_path import StorePath
from tasks.encode.overlays import Rectangle
from tasks.images import ImageError, read_picture


class Picture(NamedTuple):
    """A file, and what is blanked in it."""

    path: StorePath
    overlay: Sequence[Rectangle] = ()


# The pixels of a file: uint8 (height, width, 3), or float32 (3, height, width) where the encoder's own transform made them.
Prepare = Callable[[bytes, Sequence[Rectangle]], Tensor]


@dataclass(frozen=True)
class Batch:
    """Pixels of the pictures at `rows` that could be read, stacked, and why the others could not."""

    rows: list[int]
    pixels: Tensor | None
    errors: dict[int, ImageError]


class Loader:
    """Batches of pictures in their order; iterate over it once, inside a ``with``.

    It starts to load when it is made.

    Parameters
    ----------
    prepare
        Makes pixels of a file's bytes; called from several threads.
    n_threads
        That read, decode and resize.
    n_ahead
        Batches that may be under way beside the one that is used.
    pin
        Whether the pixels are to lie in memory that a GPU copies from on its own.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        prepare: Prepare,
        *,
        batch_size: int,
        n_threads: int,
        n_ahead: int = 3,
        pin: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self._prepare = prepare
        self._pin = pin
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="load")
        rows = list(enumerate(pictures))
        self._waiting = iter([rows[start : start + batch_size] for start in range(0, len(rows), batch_size)])
        self._under_way: deque[list[tuple[int, Future[Tensor]]]] = deque()
        for _ in range(n_ahead + 1):
            self._start_next()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Iterator[Batch]:
        while self._under_way:
            started = self._under_way.popleft()
            self._start_next()
            yield self._batch(started)

    def _start_next(self) -> None:
        pictures = next(self._waiting, None)
        if pictures is not None:
            self._under_way.append([(row, self._pool.submit(self._load, picture)) for row, picture in pictures])

    def _load(self, picture: Picture) -> Tensor:
        return self._prepare(read_picture(picture.path), picture.overlay)

    def _batch(self, started: list[tuple[int, Future[Tensor]]]) -> Batch:
        loaded, errors = {}, {}
        for row, future in started:
            try:
                loaded[row] = future.result()
            except ImageError as error:
                errors[row] = error
        if not loaded:
            return Batch([], None, errors)
        pixels = torch.stack(list(loaded.values()))
        return Batch(list(loaded), pixels.pin_memory() if self._pin else pixels, errors)
