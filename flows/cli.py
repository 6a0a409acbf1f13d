"""The command line ``placeprint``. Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import polars.selectors as cs
import typer
from rich.console import Console
from rich.table import Table

from flows.answers import Form, choose_form
from flows.environment import default_store, quiet_terminal, use_store
from storage.errors import PlaceprintError
from storage.s3_path import StorePath, store_path
from tasks.settings import SettingsError

if TYPE_CHECKING:
    from flows.settings import Settings
    from storage.retention import Removal

app = typer.Typer(
    name="placeprint",
    help="From place-labelled photographs to CLIP embedding tables, heads, and metric tables that can be defended.",
    epilog="Start with `placeprint run` (the demo), then `placeprint sql`, `placeprint search` and `placeprint ui`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
store_app = typer.Typer(help="Look into the store: its table versions and their manifests.", no_args_is_help=True)
app.add_typer(store_app, name="store")
dedup_app = typer.Typer(invoke_without_command=True)
app.add_typer(dedup_app, name="dedup")

output = Console()

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="Settings file, such as configs/demo.yaml. Default: the demo.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="NAME=VALUE", help="Override one setting, such as split.seed=7. Repeatable."),
]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        help="The store's folder, or s3://bucket/folder. Default: the setting, $PLACEPRINT_STORE, or `store`.",
    ),
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show Prefect's log and full tracebacks.")]


def main() -> None:
    """Entry point: errors that a user can mend are one line."""
    try:
        app()
    except PlaceprintError as error:
        _complain(error)
        if "--verbose" in sys.argv or "-v" in sys.argv:
            raise
        sys.exit(2 if isinstance(error, SettingsError) else 1)


def _complain(error: PlaceprintError) -> None:
    Console(stderr=True).print(f"[bold red]error[/]: {_escaped(str(error))}", highlight=False, soft_wrap=True)


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("[", "\\[")


def _settings(config: Path | None, overrides: list[str] | None, store: Path | None, verbose: bool) -> Settings:
    """Read the settings and prepare Prefect's surroundings, before any flow is imported."""
    from flows.settings import load_settings

    settings = load_settings(config, overrides or [])
    if store is not None:
        settings = settings.model_copy(update={"store": store_path(store)})
    _open_store(settings.store)
    use_store(settings.store)
    if not verbose:
        quiet_terminal()
    return settings


def _open_store(root: StorePath | None) -> object:
    from storage.store import Store

    return Store(root or default_store())


@app.command()
def run(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Run the whole pipeline: collect, encode, dedup, split, fit, publish. What is there already is not done again.

    Example: `placeprint run -c configs/folder.yaml -s collect.sources.0.path=~/photos`
    """
    settings = _settings(config, set_, store, verbose)
    from flows.plan import Plan
    from storage.store import Store

    # Asked before Prefect's server is started, which takes longer than to see that there is nothing to do.
    plan = Plan.of(settings)
    page = plan.finished_page(Store(settings.store), settings) if plan is not None else None
    if page is not None:
        output.print("Everything is there already: nothing to do.")
        _refresh(settings)
    else:
        from flows.pipeline import pipeline

        page = pipeline(settings)
    if page is not None:
        _print_results(settings.store)
        output.print(f"Report: {page}", soft_wrap=True, highlight=False)
    _next_steps(settings.store)


def _print_results(store: StorePath) -> None:
    from storage.store import Store
    from tasks.report.steps import main_results

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
            table.add_row(*(_escaped(str(cell)) for cell in row))
        output.print(table)


def _next_steps(store: StorePath) -> None:
    # The command as the user can type it: inside a virtual environment it may not be on the path.
    folder = Path(sys.argv[0]).absolute().parent
    on_path = str(folder) in os.environ.get("PATH", "").split(os.pathsep)
    command = "placeprint" if on_path else os.path.relpath(folder / "placeprint")
    option = "" if store == default_store() else f" --store {store}"
    output.print("\nTry next:", highlight=False)
    for line in (
        f'{command} sql{option} "select label, count(*) as images from images group by label order by 2 desc limit 5"',
        f'{command} search{option} "a satellite photo of Egypt"',
        f"{command} ui{option}",
    ):
        output.print(f"  {line}", soft_wrap=True, highlight=False, markup=False)


# What the argument after the kind of a source is.
TARGETS = {"folder": "path", "kaggle": "dataset", "osf": "project"}


@app.command()
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
    settings = _settings(config, overrides, store, verbose)
    if kind is not None:
        wanted = tuple(section for section in settings.collect.sources if section.kind == kind)
        settings = settings.model_copy(update={"collect": settings.collect.model_copy(update={"sources": wanted})})
    _run_stage("collect", settings)


@app.command()
def describe(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Document every collection of the images collected last: `images`, `rejects` -> cards in `collections/`."""
    settings = _settings(config, set_, store, verbose)
    from flows.describe import describe as flow

    flow(settings)


@app.command()
def encode(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Embed the images collected last, and the prompts: `images` -> `embeddings`, `prompts`, index."""
    settings = _settings(config, set_, store, verbose)
    from storage.store import Store
    from tasks.encode.recipes import already_encoded

    # Asked before Prefect is imported, which takes longer than to see that there is nothing to do.
    found = already_encoded(Store(settings.store), settings.encode, settings.labels)
    if found is not None:
        output.print(f"encode: nothing to do, embeddings {found} are there", highlight=False)
        _refresh(settings)
    else:
        _run_stage("encode", settings)


@app.command()
def split(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Share the images collected last that dedup keeps out to train and test: `images`, `duplicates` -> `splits`."""
    _run_stage("split", _settings(config, set_, store, verbose))


@app.command()
def fit(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Fit heads and judge them: `embeddings`, `prompts`, `splits` -> `predictions`, `metrics`."""
    _run_stage("fit", _settings(config, set_, store, verbose))


@app.command()
def publish(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Write tables and the HTML report on the metrics made last."""
    settings = _settings(config, set_, store, verbose)
    from flows.publish import publish as flow

    output.print(f"Report: {flow(settings)}", soft_wrap=True, highlight=False)


@app.command("case-study")
def case_study(
    config: ConfigOption = None, set_: SetOption = None, store: StoreOption = None, verbose: VerboseOption = False
) -> None:
    """Run the case study: zero-shot experiment, heads under several losses, tests, verdicts, and a report of all.

    Example: `placeprint case-study -c configs/case_study_demo.yaml`
    """
    settings = _settings(config, set_, store, verbose)
    from flows.case_study import case_study as flow

    output.print(f"Report: {flow(settings)}", soft_wrap=True, highlight=False)


def _run_stage(name: str, settings: Settings) -> None:
    """Run the flow of that name in the module of that name, imported only now: Prefect's surroundings are ready."""
    getattr(import_module(f"flows.{name}"), name)(settings)
    _refresh(settings)


def _refresh(settings: Settings) -> None:
    from storage.catalog import refresh_catalog
    from storage.store import Store

    refresh_catalog(Store(settings.store))


@app.command()
def sql(
    query: Annotated[
        str | None,
        typer.Argument(
            help="A SQL query; every table of the store is a view. Without one: a prompt, or standard input."
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Read the query from a file; - is standard input.")
    ] = None,
    named: Annotated[str | None, typer.Option("--named", metavar="NAME", help="A query that ships here.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the named queries.")] = False,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Value of the query's $NAME, as text. Repeatable."),
    ] = None,
    form: Annotated[
        Form | None, typer.Option("--format", help="Default: as the output's name ends, or a table.")
    ] = None,
    output_file: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the answer to a file.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Short for --format csv.")] = False,
    store: StoreOption = None,
) -> None:
    """Ask DuckDB a question. Views: images, rejects, embeddings, prompts, pairs, duplicates, splits, predictions, metrics;
    of the case study class_metrics, training, tests, verdicts.

    An older version of a table is `images_at('<fingerprint>')`, all of them are `images_all()`; the view `versions` names them.

    Example: `placeprint sql "select part, count(*) from splits group by part"`
    """
    from flows.named_queries import named_queries, summary
    from flows.sql import ask, find_query, read_parameters
    from storage.store import Store

    if list_:
        for name, text in named_queries().items():
            output.print(f"[bold]{name}[/]: {_escaped(summary(text))}", highlight=False, soft_wrap=True)
        return
    opened = Store(store or default_store())
    answer = partial(
        ask,
        opened,
        form=choose_form("csv" if csv else form, output_file),
        output=output_file,
        width=output.width if output.is_terminal else 200,
    )
    found = find_query(query, file, named)
    if found is not None:
        answer(found, read_parameters(param or []))
    elif output_file is not None or param:
        raise SettingsError("sql: --output and --param go with a query")
    else:
        from flows.sql_prompt import prompt

        prompt(opened, answer, say=_say, complain=_complain)


def _say(line: str) -> None:
    output.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="A text, or the path of an image file.")],
    k: Annotated[int, typer.Option("--k", min=1, max=1000, help="How many images.")] = 10,
    store: StoreOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …")] = "auto",
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Show near-duplicates that were removed, too.")
    ] = False,
) -> None:
    """Find the images nearest to a text or an image; prints them and writes a page.

    Example: `placeprint search "a satellite photo of Egypt"`
    """
    from flows.search import search as find
    from flows.search import write_page
    from storage.store import Store

    opened = Store(store or default_store())
    hits = find(opened, query, k=k, device=device, duplicates=duplicates)
    table = Table()
    for name in ("", "cosine", "label", "source", "path"):
        table.add_column(name)
    for number, hit in enumerate(hits, start=1):
        table.add_row(
            str(number), f"{hit.cosine:.3f}", _escaped(hit.label or ""), _escaped(hit.source), _escaped(hit.path)
        )
    output.print(table)
    output.print(f"Page: {write_page(opened, query, hits)}", soft_wrap=True, highlight=False)


@app.command()
def ui(
    store: StoreOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 4200,
) -> None:
    """Print where reports and store are, and start the Prefect server with the runs of this store. Ctrl-C stops it."""
    import subprocess

    from flows.links import address, newest_reports
    from storage.store import Store

    root = Store(store or default_store()).root
    use_store(root)
    server = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "PREFECT_SERVER_UI_API_URL": f"{server}/api"}
    environment.pop("PREFECT_API_URL", None)
    for line in (
        f"Runs:   {server} (to have new runs appear at once: export PREFECT_API_URL={server}/api)",
        *(f"Report: {page}" for page in newest_reports(root)),
        f"Store:  {address(root)}",
    ):
        _say(line)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    try:
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)  # noqa: S603  (our own arguments)
    except KeyboardInterrupt:
        sys.exit(0)


DeploymentName = Annotated[str, typer.Option("--name", help="Of the deployments: `pipeline/NAME`, `encode/NAME`, …")]


@app.command()
def serve(
    config: ConfigOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    verbose: VerboseOption = False,
    name: DeploymentName = "placeprint",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of the server, if none is named by PREFECT_API_URL.")
    ] = 4200,
) -> None:
    """Run every flow at its schedule, or when the Prefect UI says so, in this one process. Stop it with Ctrl-C.

    Example: `placeprint serve -c configs/demo.yaml -s "schedules={pipeline: {cron: '0 3 * * *'}}"`
    """
    settings = _settings(config, set_, store, verbose)
    from flows.deployments import serve_all

    serve_all(settings, name, port)


@app.command()
def deploy(
    config: ConfigOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    verbose: VerboseOption = False,
    name: DeploymentName = "placeprint",
    pool: Annotated[
        str, typer.Option("--pool", help="Work pool, made as one of processes where there is none.")
    ] = "placeprint",
) -> None:
    """Register every flow with the server of PREFECT_API_URL, for the workers of a pool.

    Example: `placeprint deploy -c configs/demo.yaml`, and beside it `prefect worker start --pool placeprint`
    """
    settings = _settings(config, set_, store, verbose)
    from flows.deployments import deploy_all

    for made in deploy_all(settings, name, pool):
        output.print(made, highlight=False)
    output.print(f"Run them with: prefect worker start --pool {pool}", highlight=False)


@dedup_app.callback()
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
    settings = _settings(config, set_, store, verbose)
    if not settings.dedup.enabled:
        raise PlaceprintError("dedup: the setting dedup is off")
    from storage.store import Store
    from tasks.dedup.recipes import already_deduplicated

    # Asked before Prefect is imported, which takes longer than to see that there is nothing to do.
    found = already_deduplicated(Store(settings.store), settings.dedup, settings.encode)
    if found is not None:
        output.print(f"dedup: nothing to do, duplicates {found} are there", highlight=False)
        _refresh(settings)
    else:
        _run_stage("dedup", settings)


@dedup_app.command("label")
def label_pairs(
    store: StoreOption = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Who answers. Default: the login name.")
    ] = None,
    mode: Annotated[
        Literal["random", "stratified"],
        typer.Option(
            help="Pairs at random, or spread over the cosines where the model is unsure; each is an image with its nearest."
        ),
    ] = "random",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 is any free one.")] = 4280,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Thresholds have converged when they stay within this of the newest …")
    ] = 0.002,
    last: Annotated[int, typer.Option(min=2, help="… over so many answers.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the pairs.")] = 0,
) -> None:
    """Say of pairs of images whether they are duplicates, on a page of this machine. Ctrl-C ends; go on at any time.

    Example: `placeprint dedup label --mode stratified`
    """
    from flows.label import serve
    from storage.store import Store

    serve(
        Store(store or default_store()),
        labelled_by=_login_name() if by is None else by,
        mode=mode,
        port=port,
        announce=lambda address: output.print(
            f"Label pairs at {address} (Ctrl-C ends; every answer is kept at once)", soft_wrap=True, highlight=False
        ),
        n_last=last,
        tolerance=tolerance,
        seed=seed,
    )


def _login_name() -> str:
    from getpass import getuser

    try:
        return getuser()
    except (ImportError, KeyError, OSError):  # a container's user may have a number only
        raise PlaceprintError("label: this user has no name: give --by NAME") from None


@app.command()
def gc(
    keep_last: Annotated[
        int, typer.Option("--keep-last", min=1, help="Versions of each table and step to keep, whatever their age.")
    ] = 2,
    older_than: Annotated[
        str, typer.Option("--older-than", help="Remove only what did not change for so long: 30d, 12h, 45m.")
    ] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    store: StoreOption = None,
) -> None:
    """Remove what is not needed any more: old table versions, and what killed runs left. Answers of people stay.

    Example: `placeprint gc --older-than 30d --dry-run`
    """
    import time

    from storage.catalog import refresh_catalog
    from storage.retention import collect_garbage, plan_removals
    from storage.store import Store

    older_than_s = _duration_s(older_than)
    opened = Store(store or default_store())
    act = plan_removals if dry_run else collect_garbage
    removals = act(opened, keep_last=keep_last, older_than_s=older_than_s, now=time.time())
    _print_removals(removals, dry_run=dry_run)
    if removals and not dry_run and opened.catalog_path.is_file():
        refresh_catalog(opened)


def _duration_s(text: str) -> int:
    """Seconds of a duration such as ``30d``."""
    from tasks.settings import SettingsError

    match = re.fullmatch(r"([0-9]{1,6})([dhm])", text.strip())
    if match is None:
        raise SettingsError(
            f"--older-than: {text!r} is no duration: give a number of days, hours or minutes, as in 30d, 12h, 45m"
        )
    return int(match[1]) * {"d": 86_400, "h": 3_600, "m": 60}[match[2]]


def _print_removals(removals: Sequence[Removal], *, dry_run: bool) -> None:
    """A row for each kind and one for all, after each path in a dry run."""
    if not removals:
        output.print("Nothing to remove.")
        return
    if dry_run:
        for each in removals:
            output.print(f"{each.kind}: {each.path}", soft_wrap=True, highlight=False, markup=False)
    table = Table()
    for name in ("kind", "would go" if dry_run else "removed", "bytes"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind in (*dict.fromkeys(each.kind for each in removals), "all"):
        sizes = [each.bytes for each in removals if kind in (each.kind, "all")]
        table.add_row(kind, f"{len(sizes):,}", f"{sum(sizes):,}")
    output.print(table)


@store_app.command("list")
def list_versions(store: StoreOption = None) -> None:
    """List the table versions, oldest first; the one that is read by default is marked."""
    from storage.store import Store

    opened = Store(store or default_store())
    table = Table()
    for name in ("table", "version", "rows", "made", ""):
        table.add_column(name)
    for version in opened.versions():
        selected = opened.version(version.table).fingerprint == version.fingerprint
        table.add_row(
            version.table, version.fingerprint, f"{version.rows:,}", version.created_at, "selected" if selected else ""
        )
    output.print(table)


@store_app.command("show")
def show_manifest(
    table: Annotated[str, typer.Argument(help="Name of the table, such as images.")],
    version: Annotated[
        str | None, typer.Argument(help="Its fingerprint, or the first digits. Default: the selected one.")
    ] = None,
    store: StoreOption = None,
) -> None:
    """Show the manifest of a table version: what made it, its shards, its counts."""
    import json

    from storage.store import Store

    found = Store(store or default_store()).version(table, version)
    output.print_json(json.dumps(found.manifest), indent=2)


if __name__ == "__main__":
    main()
