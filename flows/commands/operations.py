"""Commands for those who run placeprint for others: the Prefect UI, schedules, deployments."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flows.commands.options import ConfigOption, SetOption, StoreOption, VerboseOption, output, read_settings, say
from flows.environment import default_store, quiet_terminal, use_store
from storage.s3_path import store_path


def ui(
    store: StoreOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 4200,
) -> None:
    """Print where reports and store are, and start the Prefect server with the runs of this store. Ctrl-C stops it."""
    import subprocess

    from flows.links import address, newest_reports
    from flows.prefect_server import server_command, server_environment
    from storage.store import Store

    root = Store(store or default_store()).root
    use_store(root)
    server = f"http://127.0.0.1:{port}"
    environment = server_environment(port)
    environment.pop("PREFECT_API_URL", None)
    for line in (
        f"Runs:   {server} (to have new runs appear at once: export PREFECT_API_URL={server}/api)",
        *(f"Report: {page}" for page in newest_reports(root)),
        f"Store:  {address(root)}",
    ):
        say(line)
    try:
        sys.exit(subprocess.run(server_command(port), env=environment, check=False).returncode)  # noqa: S603  (our own arguments)
    except KeyboardInterrupt:
        sys.exit(0)


DeploymentName = Annotated[str, typer.Option("--name", help="Of the deployments: `pipeline/NAME`, `encode/NAME`, …")]


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
    settings = read_settings(config, set_, store, verbose)
    from flows.deployments import serve_all

    serve_all(settings, name, port)


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
    settings = read_settings(config, set_, store, verbose)
    from flows.deployments import deploy_all

    for made in deploy_all(settings, name, pool):
        output.print(made, highlight=False)
    output.print(f"Run them with: prefect worker start --pool {pool}", highlight=False)


def retry(
    run: Annotated[
        str | None, typer.Argument(help="Id or name of a flow run. Default: the newest that ended badly.")
    ] = None,
    store: StoreOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Retry a run that failed, crashed, was cancelled, or ended with a warning. What the store has is not done again.

    A run of a deployment is taken up by a worker; any other is done here. Prefect's runs are those of the server that
    PREFECT_API_URL names, or else of the store.

    Example: `placeprint retry "pipeline of photos"`
    """
    use_store(store_path(store) if store is not None else default_store())
    if not verbose:
        quiet_terminal()
    from flows.retry import retry as retry_run

    say(retry_run(run))
