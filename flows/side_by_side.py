"""Steps that run beside one another: as Prefect's tasks in a run of Prefect's, elsewhere in an executor."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from flows.stopping import stoppable
from tasks.step import Step, under_prefect

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture
    from prefect.task_runners import TaskRunner

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Submit(Protocol):
    """Begins a step with these parameters as soon as there is room for it; its future is for `gather`."""

    def __call__(
        self, step: Step[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result] | PrefectFuture[Result]: ...


def threads(n: int) -> Executor | TaskRunner[Any]:
    """`n` threads, for `side_by_side`."""
    if not under_prefect():
        return ThreadPoolExecutor(n)
    from prefect.task_runners import ThreadPoolTaskRunner

    return ThreadPoolTaskRunner(max_workers=n)


@contextmanager
def side_by_side(pool: Executor | TaskRunner[Any]) -> Iterator[Submit]:
    """Submit steps to a pool. When the block ends by an error, those that have not begun never do.

    Parameters
    ----------
    pool
        A task runner of Prefect's, in a run of Prefect's; elsewhere an executor.
    """
    if isinstance(pool, Executor):
        try:
            with stoppable():
                yield pool.submit
        finally:
            pool.shutdown(cancel_futures=True)
        return
    from prefect.utilities.callables import get_call_parameters

    def submit(
        step: Step[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> PrefectFuture[Result]:
        future: PrefectFuture[Result] = pool.submit(step.task, get_call_parameters(step.fn, args, kwargs))
        return future

    with pool, stoppable():
        yield submit
