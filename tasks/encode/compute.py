"""Pictures through an encoder, batch by batch, and where the time went."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from storage.errors import PlaceprintError, StoreError
from storage.vectors import Vectors
from tasks.encode.encoder import Encoder, padded
from tasks.encode.loader import Loader
from tasks.encode.telemetry import Times
from tasks.images import ImageError
from tasks.stop import end_if_stopped

# Batches on a GPU that may be under way: more would only fill its memory.
_IN_FLIGHT = 2


@dataclass(frozen=True)
class Encoded:
    """Embeddings (n, d) and features (n, w) of the pictures at `rows`, and why the others have none."""

    rows: list[int]
    embeddings: Vectors
    features: Vectors | None
    errors: dict[int, ImageError]
    times: Times


def encode_pictures(encoder: Encoder, loader: Loader) -> Encoded:
    """Encode what a loader gives; the loader starts to load before it is this shard's turn on the device.

    Raises
    ------
    StoreError
        When the encoder gives vectors that are not finite.
    PlaceprintError
        When the device has too little memory for a batch.
    """
    rows: list[int] = []
    errors: dict[int, ImageError] = {}
    embeddings, features = [], []
    with loader, encoder.lock:
        clock = _Clock(encoder.device)
        for batch in loader:
            end_if_stopped()
            clock.got_batch()
            rows += batch.rows
            errors |= batch.errors
            if batch.pixels is not None:
                n = len(batch.pixels)
                # Every batch of a GPU has one shape, so that a row's bits do not depend on how many others there are.
                pixels = batch.pixels if encoder.device == "cpu" else padded(batch.pixels, loader.batch_size)
                try:
                    embedding, pooled = encoder.encode_pixels(pixels)
                except torch.OutOfMemoryError as error:
                    raise PlaceprintError(
                        f"encode.batch_size: {len(batch.rows)} images are too many for the memory of {encoder.device}: {str(error).splitlines()[0]}"
                    ) from error
                embeddings.append(embedding[:n])
                features += [] if pooled is None else [pooled[:n]]
            clock.sent_batch()
        waited_s, computed_s = clock.stop()
    vectors = _array(embeddings, encoder.dimension)
    if not np.isfinite(vectors).all() or not np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3):
        raise StoreError(
            "encode: the encoder gave vectors that are not finite or not of unit length: is the checkpoint whole?"
        )
    pooled_vectors = _array(features, encoder.n_features) if encoder.n_features else None
    return Encoded(rows, vectors, pooled_vectors, errors, Times(len(rows), waited_s, computed_s, 0.0))


class _Clock:
    """Tells waiting from computing. A GPU computes on its own: what it did is asked of it, at the end."""

    def __init__(self, device: str) -> None:
        self._is_gpu = device.startswith("cuda")
        self._started_s = self._asked_s = time.perf_counter()
        self._waited_s = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def got_batch(self) -> None:
        self._waited_s += time.perf_counter() - self._asked_s
        if self._is_gpu:
            events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._events.append(events)
            events[0].record()

    def sent_batch(self) -> None:
        if self._is_gpu:
            self._events[-1][1].record()
            if len(self._events) > _IN_FLIGHT:
                self._events[-1 - _IN_FLIGHT][1].synchronize()
        self._asked_s = time.perf_counter()

    def stop(self) -> tuple[float, float]:
        """Seconds waited, and seconds computed."""
        if self._is_gpu:
            torch.cuda.synchronize()
            computed_s = sum(start.elapsed_time(end) for start, end in self._events) / 1000
            return max(0.0, time.perf_counter() - self._started_s - computed_s), computed_s
        return self._waited_s, time.perf_counter() - self._started_s - self._waited_s


def _array(parts: list[torch.Tensor], width: int) -> Vectors:
    if not parts:
        return np.empty((0, width), dtype=np.float32)
    return np.asarray(torch.cat(parts).cpu().numpy(), dtype=np.float32)
