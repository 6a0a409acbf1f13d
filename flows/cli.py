"""The command line ``placeprint``. Exit codes: 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import typer

from flows.commands import encoders, operations, questions, stages, store
from flows.commands.options import complain
from storage.errors import PlaceprintError
from tasks.settings import SettingsError

app = typer.Typer(
    name="placeprint",
    help="From place-labelled photographs to CLIP embedding tables, heads, and metric tables that can be defended.",
    epilog="Start with `placeprint run` (the demo), then `placeprint sql`, `placeprint search` and `placeprint ui`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
COMMANDS: tuple[Callable[..., None], ...] = (
    *(stages.run, stages.collect, stages.describe, stages.encode, stages.split, stages.fit, stages.publish),
    *(stages.case_study, questions.sql, questions.search),
    *(operations.ui, operations.serve, operations.deploy, operations.retry, store.gc),
)
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)

dedup_app = typer.Typer(invoke_without_command=True)
dedup_app.callback()(stages.dedup)
dedup_app.command("label")(questions.label_pairs)
app.add_typer(dedup_app, name="dedup")

store_app = typer.Typer(help="Look into the store: its table versions and their manifests.", no_args_is_help=True)
store_app.command("list")(store.list_versions)
store_app.command("show")(store.show_manifest)
app.add_typer(store_app, name="store")
app.add_typer(encoders.app, name="encoders")


def main() -> None:
    """Entry point: errors that a user can mend are one line."""
    # Imports make many objects and no garbage: looking for some after every 700 of them is a tenth of a command's start.
    gc.set_threshold(50_000, 20, 20)
    try:
        app()
    except PlaceprintError as error:
        complain(error)
        if "--verbose" in sys.argv or "-v" in sys.argv:
            raise
        sys.exit(2 if isinstance(error, SettingsError) else 1)


if __name__ == "__main__":
    main()
