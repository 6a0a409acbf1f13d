"""Runs that did their work but fell short of what the settings ask: they end as `Warning`, red in the Prefect UI, not green."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.progress import say
from flows.quality import QualitySettings
from storage.runs import RunRecord, last_tables
from storage.schemas import Part, RejectReason
from storage.store import Store, TableVersion
from tasks.step import under_prefect

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

    from tasks.encode.telemetry import Times

# Of an encoding that is shorter, the loading of its first batch is a large share, which says nothing.
MIN_MEASURED_S = 60.0
_N_NAMED = 3

# Why an input is refused that nobody wanted: no loss.
UNWANTED = (
    RejectReason.EXACT_DUPLICATE,
    RejectReason.DELETED_LABEL,
    RejectReason.OUTSIDE_COUNTRY,
    RejectReason.OUT_OF_SCALE,
    RejectReason.LITTLE_CONTENT,
    RejectReason.NOT_CHOSEN,
)

_shortfalls: dict[UUID, list[str]] = defaultdict(list)


def see_if_it_fell_short(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001  (Prefect's names)
    """Of a flow run that has completed and fell short: change its state to `Warning`, of the type of failed ones.

    A hook of all flows. The flow's caller has its value nevertheless, so that a pipeline goes on.
    """
    texts = _shortfalls.pop(flow_run.id, [])
    if texts:
        from prefect.client.orchestration import get_client
        from prefect.states import Failed

        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Failed(name="Warning", message="; ".join(texts)), force=True)


def check_rejects(run: RunRecord, settings: QualitySettings, stage: str, n_inputs: int, rejects: TableVersion) -> None:
    """Fall short where too many of the inputs that the settings want were rejected."""
    reasons = Counter(rejects.read(["reason"])["reason"].to_pylist())
    n_unwanted = sum(reasons.pop(reason.value, 0) for reason in UNWANTED)
    limit, n_wanted, n_rejected = settings.max_reject_share, n_inputs - n_unwanted, reasons.total()
    if limit is None or n_rejected <= limit * n_wanted:
        return
    named = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common(_N_NAMED))
    _fall_short(
        run,
        f"{stage}: {n_rejected} of {n_wanted} inputs were rejected, more than quality.max_reject_share {limit:.0%}: {named}",
    )


def check_starved(run: RunRecord, settings: QualitySettings, times: Times) -> None:
    """Fall short where the device waited for images too long."""
    limit, measured_s = settings.max_starved_share, times.waited_s + times.computed_s
    if limit is not None and measured_s >= MIN_MEASURED_S and times.starved_share > limit:
        _fall_short(
            run,
            f"encode: the device waited for images {times.starved_share:.0%} of the time, more than "
            f"quality.max_starved_share {limit:.0%}",
        )


def check_recall(run: RunRecord, settings: QualitySettings, recall: float | None) -> None:
    """Fall short where the index finds too few of the nearest images."""
    if settings.min_index_recall is not None and recall is not None and recall < settings.min_index_recall:
        _fall_short(
            run,
            f"encode: recall@10 of the index is {recall:.3f}, less than quality.min_index_recall {settings.min_index_recall}",
        )


def check_metrics(run: RunRecord, settings: QualitySettings, store: Store, metrics: TableVersion) -> None:
    """Fall short where a metric of the test parts lies below its interval of the run before."""
    import polars as pl

    from tasks.metrics.drop import drops

    before = next(
        (each for each in last_tables(store, "metrics") if each != metrics.fingerprint and store.has("metrics", each)),
        None,
    )
    if before is None:
        return
    now, known = (pl.DataFrame(each.read()) for each in (metrics, store.version("metrics", before)))
    of_test = (pl.col("part") == Part.TEST.value) & (pl.col("source") == "all")
    for row in drops(now.filter(of_test), known, settings.metrics).head(_N_NAMED).iter_rows(named=True):
        what = " ".join(str(row[name]) for name in ("split", "head", "configuration", "metric") if row[name])
        _fall_short(
            run,
            f"fit: {what} is {row['value']:.3f}, below the interval of metrics {before}: "
            f"{row['value_before']:.3f}, from {row['lower_before']:.3f}",
        )


def _fall_short(run: RunRecord, text: str) -> None:
    """Say it, note it in the run's manifest, and let a flow run of Prefect's and the one that called it end as `Warning`."""
    run.warnings.append(text)
    say("warning: %s", text)
    if not under_prefect():
        return
    from prefect.context import FlowRunContext
    from prefect.runtime import flow_run as this_flow_run

    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        own = context.flow_run.id
        for each in {own, UUID(str(this_flow_run.root_flow_run_id or own))}:
            _shortfalls[each].append(text)
