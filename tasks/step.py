"""A step of a flow: within a run of Prefect's a task, elsewhere the plain function, for which Prefect is not even imported."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from prefect.logging.loggers import LoggingAdapter
    from prefect.tasks import Task

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


# Of runs that are none of Prefect's.
LOG = "placeprint"


class Step(Generic[Parameters, Result]):
    """What `step` makes of a function.

    Parameters
    ----------
    fn
        The function itself.
    options
        Those of Prefect's decorator ``task``. They mean nothing outside of Prefect's runs, retries included.
    """

    def __init__(self, fn: Callable[Parameters, Result], options: dict[str, Any]) -> None:
        self.fn = fn
        self._options = options
        update_wrapper(self, fn)

    def __call__(self, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return self.task(*args, **kwargs) if under_prefect() else self.fn(*args, **kwargs)

    def __reduce__(self) -> str:
        """By name, so that other processes can be told to make a step."""
        return str(self.fn.__qualname__)

    def with_options(self, **options: Any) -> Step[Parameters, Result]:
        """The same step with more options, or with others."""
        return Step(self.fn, {**self._options, **options})

    @cached_property
    def task(self) -> Task[Parameters, Result]:
        """Prefect's view of the step."""
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        # The store's manifests say what is there, not a cache.
        made: Task[Parameters, Result] = task(**{"cache_policy": NO_CACHE, **self._options})(self.fn)
        return made


def step(**options: Any) -> Callable[[Callable[Parameters, Result]], Step[Parameters, Result]]:
    """Decorate a function as a step, with options of Prefect's decorator ``task``."""
    return lambda fn: Step(fn, options)


def under_prefect() -> bool:
    """Whether this is a part of a run of Prefect's; without Prefect imported there is none."""
    if "prefect" not in sys.modules:
        return False
    from prefect.context import FlowRunContext, TaskRunContext

    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def run_logger() -> logging.Logger | LoggingAdapter:
    """The log of the run: Prefect's in one of Prefect's, else Python's of the name `LOG`."""
    if not under_prefect():
        return logging.getLogger(LOG)
    from prefect import get_run_logger

    return get_run_logger()
