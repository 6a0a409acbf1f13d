"""Progress of steps: a bar at the terminal, and a log line; in a run of Prefect's an artifact, too."""

from __future__ import annotations

import concurrent.futures
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flows.stopping import stoppable
from tasks.step import run_logger, under_prefect

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture

Result = TypeVar("Result")

terminal = Console(stderr=True)
# Of a log line that was printed, too.
SAID = "placeprint_said"


def gather(title: str, futures: Sequence[Future[Result] | PrefectFuture[Result]], sizes: Sequence[int]) -> list[Result]:
    """Wait for steps that run beside one another, showing how far they are; results in the order of `futures`.

    Parameters
    ----------
    title
        What is done, such as ``encode``.
    sizes
        Images in each step.

    Raises
    ------
    Exception
        That of the first step that failed, once it is known; the others are not waited for.
    """
    logger, total = run_logger(), sum(sizes)
    size_of = dict(zip(futures, sizes, strict=True))
    show = _artifact(title, f"{title}: {total} images")
    done, reported_at = 0, 0.0
    with stoppable(), _bar() as bar:
        row = bar.add_task(title, total=total)
        for number, future in enumerate(_as_completed(futures), start=1):
            future.result()
            done += size_of[future]
            bar.update(row, completed=done)
            logger.info("%s: shard %d of %d, %d of %d images", title, number, len(futures), done, total)
            # The server takes a few milliseconds an update: once a second is enough for people.
            if done == total or time.monotonic() - reported_at > 1.0:
                show(100.0 * done / max(total, 1))
                reported_at = time.monotonic()
    return [future.result() for future in futures]


def _as_completed(futures: Sequence[Any]) -> Iterator[Any]:
    if not under_prefect():
        return concurrent.futures.as_completed(futures)
    from prefect.futures import as_completed

    return as_completed(list(futures))


@contextmanager
def working(title: str) -> Iterator[None]:
    """A spinner for one long step."""
    with _bar() as bar:
        row = bar.add_task(title, total=None)
        yield
        bar.update(row, total=1, completed=1)


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar at the terminal, an artifact and a log line in Prefect for one long step; the block says how much of it is done."""
    logger = run_logger()
    show = _artifact(title.replace(" ", "-"), title)
    with _bar() as bar:
        row = bar.add_task(title, total=total)

        def advance(done: int) -> None:
            bar.update(row, completed=done)
            logger.info("%s: %d of %d", title, done, total)
            show(100.0 * done / total)

        yield advance


def say(text: str, *args: Any) -> None:
    """One line for the terminal and for the run's log."""
    run_logger().info(text, *args, extra={SAID: True})
    terminal.print(text % args if args else text, highlight=False, markup=False, soft_wrap=True)


def say_who_is_waited_for(lock: str) -> None:
    """Of a lock that another run holds."""
    say("%s: another run of this machine is at it: waiting for it to end", lock)


def _artifact(key: str, description: str) -> Callable[[float], object]:
    """What shows a progress in percent in the Prefect UI, in a run of Prefect's."""
    if not under_prefect():
        return lambda _: None
    from prefect.artifacts import create_progress_artifact, update_progress_artifact

    artifact = cast(uuid.UUID, create_progress_artifact(0.0, key=f"{key}-progress", description=description))
    return lambda percent: update_progress_artifact(artifact, percent)


def _bar() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=terminal,
        disable=not terminal.is_terminal,
    )
