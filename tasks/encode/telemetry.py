"""Where the time of encoding went, and what is to be expected of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# Above this share of the time without work for the device, something is worth changing.
STARVED_SHARE = 0.20


@dataclass(frozen=True)
class Times:
    """Images, and the seconds in which their device waited for pixels, computed, and their file was written."""

    images: int
    waited_s: float
    computed_s: float
    written_s: float

    @classmethod
    def sum(cls, parts: Iterable[Times]) -> Times:
        """Of all shards of a run."""
        parts = list(parts)
        return cls(
            sum(part.images for part in parts),
            sum(part.waited_s for part in parts),
            sum(part.computed_s for part in parts),
            sum(part.written_s for part in parts),
        )

    @property
    def images_per_second(self) -> float:
        """Of one device, while it waited or computed; 0 when nothing was encoded."""
        seconds = self.waited_s + self.computed_s
        return self.images / seconds if seconds else 0.0

    @property
    def starved_share(self) -> float:
        """Share of the time in which the device had nothing to do, 0 to 1."""
        seconds = self.waited_s + self.computed_s
        return self.waited_s / seconds if seconds else 0.0


def warning(total: Times, n_threads: int, n_cores: int) -> str | None:
    """What to change when the device waits too long; None when it does not."""
    if total.starved_share <= STARVED_SHARE:
        return None
    if n_threads < n_cores:
        cure = f"set encode.loader_threads to {n_cores}, the number of cores (it is {n_threads})"
    else:
        cure = (
            "every core decodes already: keep the store on a faster disk, collect smaller files, or use fewer devices"
        )
    return f"encode: the device waited for images {total.starved_share:.0%} of its time: {cure}"


def table(shards: Iterable[tuple[str, Times]]) -> str:
    """A Markdown table of shards, by name, with their sum."""
    shards = list(shards)
    total = Times.sum(times for _, times in shards)
    lines = [
        "| shard | images | waited | computed | written | images/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {times.images} | {times.waited_s:.2f} s | {times.computed_s:.2f} s | {times.written_s:.2f} s "
        f"| {times.images_per_second:.0f} |"
        for name, times in [*shards, ("all", total)]
    ]
    return "\n".join([*lines, "", f"The device waited for images {total.starved_share:.0%} of the time."])


@dataclass(frozen=True)
class Estimate:
    """What a run is about to do."""

    images: int
    read_bytes: int
    written_bytes: int
    memory_bytes: int
    seconds: float | None

    def __str__(self) -> str:
        time = f"about {self.seconds / 60:.1f} min" if self.seconds is not None else "how long is known after one shard"
        return (
            f"{self.images} images, {self.read_bytes / 1e6:.1f} MB to read, {self.written_bytes / 1e6:.1f} MB to write, "
            f"{self.memory_bytes / 1e6:.0f} MB for batches under way, {time}"
        )


def estimate(
    *,
    images: int,
    read_bytes: int,
    vector_bytes: int,
    picture_bytes: int,
    batch_size: int,
    n_ahead: int,
    images_per_second: float | None,
) -> Estimate:
    """What encoding will take.

    Parameters
    ----------
    images, read_bytes
        What is still to be encoded, and the size of its files.
    vector_bytes, picture_bytes
        Of one embedding as it is stored, and of one image as the encoder sees it.
    batch_size, n_ahead
        Images of a batch, and batches under way beside the one on the device.
    images_per_second
        As seen in an earlier run on this machine; None when there was none.
    """
    return Estimate(
        images=images,
        read_bytes=read_bytes,
        written_bytes=images * vector_bytes,
        memory_bytes=(n_ahead + 2) * batch_size * picture_bytes,
        seconds=images / images_per_second if images_per_second else None,
    )
