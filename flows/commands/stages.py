"""Commands that run flows: the pipeline, its stages, and the case study."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from flows.commands.options import ConfigOption, SetOption, StoreOption, VerboseOption, escaped, output, read_settings
from flows.environment import default_store
from flows.own_server import own_server
from storage.errors import PlaceprintError
from storage.s3_path import StorePath
from tasks.settings import SettingsError

if TYPE_CHECKING:
    from flows.settings import Settings


def run(
    photos: Annotated[
        Path | None,
        typer.Argument(help="A folder of images, one subfolder a label, or a table with a column of their paths."),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Run the whole pipeline: collect, encode, dedup, split, fit, publish. What is there already is not done again.

    Example: `placeprint run ~/photos`
    """
    own = [] if photos is None else settings_of(photos)
    if photos is not None and config is None:  # the defaults are the demo's, whose labels are countries
        own.append("encode.templates=['{label}', 'a photo of {label}']")
    settings = read_settings(config, [*own, *(set_ or [])], store, verbose)
    from flows.plan import Plan
    from storage.store import Store

    # Asked before Prefect's server is started, which takes longer than to see that there is nothing to do.
    plan = Plan.of(settings)
    page = plan.finished_page(Store(settings.store), settings) if plan is not None else None
    if page is not None:
        output.print("Everything is there already: nothing to do.")
        refresh(settings)
    else:
        page = _run_flow("pipeline", settings)
    if page is not None:
        _print_results(settings.store)
        output.print(f"Report: {page}", soft_wrap=True, highlight=False)
    _next_steps(settings.store)


def settings_of(photos: Path) -> list[str]:
    """The settings of a folder of images, or of the images that a table names.

    Raises
    ------
    SettingsError
        When it is neither.
    """
    photos = photos.expanduser()
    if photos.is_dir():
        source = f"{{kind: folder, path: {str(photos)!r}}}"
    elif photos.is_file():
        folder, name = str(photos.absolute().parent), photos.stem
        table = str(photos.absolute())
        source = f"{{kind: folder, path: {folder!r}, metadata: {table!r}, listed_only: true, name: {name!r}}}"
    else:
        raise SettingsError(
            f"run: {photos} does not exist: give a folder of images, or a table with a column of their paths"
        )
    return ["labels=from-data", f"collect.sources=[{source}]"]


def _print_results(store: StorePath) -> None:
    import polars.selectors as cs

    from storage.store import Store
    from tasks.report.results import main_results

    results = main_results(Store(store))
    shown = results.select("head", "configuration", "accuracy %", "top-5 %", cs.matches("^region|^mixed F1$"))
    for split in results["split"].unique(maintain_order=True):
        table = Table(
            title=f"Split {split}, test part, all collections, with 95 % intervals",
            title_justify="left",
            title_style="bold",
        )
        for name in shown.columns:
            table.add_column(name)
        for row in shown.filter(results["split"] == split).iter_rows():
            table.add_row(*(escaped(str(cell)) for cell in row))
        output.print(table)


def _next_steps(store: StorePath) -> None:
    # The command as the user can type it: inside a virtual environment it may not be on the path.
    folder = Path(sys.argv[0]).absolute().parent
    on_path = str(folder) in os.environ.get("PATH", "").split(os.pathsep)
    command = "placeprint" if on_path else os.path.relpath(folder / "placeprint")
    option = "" if store == default_store() else f" --store {store}"
    label = _common_label(store)
    output.print("\nTry next:", highlight=False)
    for line in (
        f'{command} sql{option} "select label, count(*) as images from images group by label order by 2 desc limit 5"',
        *([] if label is None else [f"{command} search{option} {shlex.quote(f'a photo of {label}')}"]),
        f"{command} ui{option}",
    ):
        output.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


def _common_label(store: StorePath) -> str | None:
    """The label of most images; None where there is none."""
    from collections import Counter

    from storage.store import Store

    labels = Counter(Store(store).version("images").read(["label"])["label"].drop_null().to_pylist())
    return str(labels.most_common(1)[0][0]) if labels else None


# What the argument after the kind of a source is.
TARGETS = {"folder": "path", "kaggle": "dataset", "osf": "project"}


def collect(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="A source alone: `folder`, `kaggle`, `osf`, `openaerialmap` or `earthmaps`; those of that kind in the settings, "
            "if there are any. Default: all of the settings."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Argument(help="The folder, the dataset of `kaggle` (owner/name), or the project of `osf`.")
    ] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask services again what they have.")] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Collect images: sources -> `images`, `rejects`. What is there already is not asked for again.

    Example: `placeprint collect folder ~/photos -s labels=from-data`
    """
    from flows.settings import load_settings

    overrides = [*(set_ or []), *(["collect.refresh=true"] if refresh else [])]
    given = [section.kind for section in load_settings(config).collect.sources] if target is None else []
    if kind is not None and kind not in given:
        if target is not None and kind not in TARGETS:
            raise SettingsError(f"collect {kind} takes no {target!r}: use --set collect.sources.0.NAME=VALUE")
        section = f"kind: {kind}" + (f", {TARGETS[kind]}: {target!r}" if target is not None else "")
        overrides.insert(0, f"collect.sources=[{{{section}}}]")
    settings = read_settings(config, overrides, store, verbose)
    if kind is not None:
        wanted = tuple(section for section in settings.collect.sources if section.kind == kind)
        settings = settings.model_copy(update={"collect": settings.collect.model_copy(update={"sources": wanted})})
    from flows.direct import can_run_directly
    from tasks.collect.service import ServiceSettings

    # What asks services has its retries, and the rates that runs share, from Prefect.
    if any(isinstance(each, ServiceSettings) for each in settings.collect.sources) or not can_run_directly():
        _run_stage("collect", settings)
    else:
        from flows.collecting import collect_images

        _run_stage_directly(collect_images, settings, verbose)


def describe(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Document every collection of the images collected last: `images`, `rejects` -> cards in `collections/`."""
    settings = read_settings(config, set_, store, verbose)
    _run_flow("describe", settings)


def encode(
    verify_images: Annotated[
        int | None, typer.Argument(metavar="[N]", help="With --verify: how many images are compared.", min=1)
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="First encode N images (default 32) and all prompts the reference's way too; refuse a cosine below 0.999.",
        ),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute every vector, also those that the store has already.")
    ] = False,
    config: ConfigOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Embed the images collected last, and the prompts: `images` -> `embeddings`, `prompts`, index.

    A vector that the store has, in whatever version, is taken over.

    Example: `placeprint encode --verify 100`
    """
    if verify_images is not None and not verify:
        raise SettingsError(f"encode takes no {verify_images}: a number of images goes with --verify")
    asked = [*(["encode.fresh=true"] if fresh else []), *([f"encode.verify={verify_images or 32}"] if verify else [])]
    settings = read_settings(config, [*(set_ or []), *asked], store, verbose)
    from storage.store import Store
    from tasks.encode.recipes import already_encoded

    # Asked before Prefect is imported, which takes longer than to see that there is nothing to do.
    found = None if verify else already_encoded(Store(settings.store), settings.encode, settings.labels)
    if found is not None:
        output.print(f"encode: nothing to do, embeddings {found} are there", highlight=False)
        refresh(settings)
        return
    from flows.direct import can_run_directly
    from flows.encoding import encode_images, runs_in_this_process

    if can_run_directly() and runs_in_this_process(settings.encode):
        _run_stage_directly(encode_images, settings, verbose)
    else:
        _run_stage("encode", settings)


def dedup(
    context: typer.Context,
    config: ConfigOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Find near-duplicates among the images encoded last: `embeddings` -> `pairs`, `duplicates`.

    The threshold is fitted to labelled pairs: yours (`placeprint dedup label`), a file's, or synthetic ones.

    Example: `placeprint dedup -s dedup.labels=pairs.csv`
    """
    if context.invoked_subcommand is not None:
        return
    settings = read_settings(config, set_, store, verbose)
    if not settings.dedup.enabled:
        raise PlaceprintError("dedup: the setting dedup is off")
    from storage.store import Store
    from tasks.dedup.recipes import already_deduplicated

    # Asked before Prefect is imported, which takes longer than to see that there is nothing to do.
    found = already_deduplicated(Store(settings.store), settings.dedup, settings.encode)
    if found is not None:
        output.print(f"dedup: nothing to do, duplicates {found} are there", highlight=False)
        refresh(settings)
    else:
        _run_stage("dedup", settings)


def split(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Share the images collected last that dedup keeps out to train and test: `images`, `duplicates` -> `splits`."""
    _run_stage("split", read_settings(config, set_, store, verbose))


def fit(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Fit heads and judge them: `embeddings`, `prompts`, `splits` -> `predictions`, `metrics`."""
    _run_stage("fit", read_settings(config, set_, store, verbose))


def publish(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Write tables and the HTML report on the metrics made last."""
    settings = read_settings(config, set_, store, verbose)
    output.print(f"Report: {_run_flow('publish', settings)}", soft_wrap=True, highlight=False)


def case_study(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Run the case study: zero-shot experiment, heads under several losses, tests, verdicts, and a report of all.

    Example: `placeprint case-study -c configs/case_study_demo.yaml`
    """
    settings = read_settings(config, set_, store, verbose)
    output.print(f"Report: {_run_flow('case_study', settings)}", soft_wrap=True, highlight=False)


def _run_stage(name: str, settings: Settings) -> None:
    _run_flow(name, settings)
    refresh(settings)


def _run_stage_directly(stage: Callable[[Settings], object], settings: Settings, verbose: bool) -> None:
    """Run what the flow of a stage does, in this process and without Prefect."""
    from flows.direct import run_directly

    run_directly(stage, settings, verbose=verbose)
    refresh(settings)


def _run_flow(name: str, settings: Settings) -> Any:
    """Run the flow of that name in the module of that name, imported only now: Prefect's surroundings are ready."""
    with own_server() as wait_for_server:
        flow = getattr(import_module(f"flows.{name}"), name)
        wait_for_server()
        return flow(settings)


def refresh(settings: Settings) -> None:
    from storage.catalog import refresh_catalog
    from storage.store import Store

    refresh_catalog(Store(settings.store))
