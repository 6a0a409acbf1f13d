"""What the commands share: their options, how settings are read, and how something is said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flows.environment import default_store, quiet_terminal, use_store
from storage.errors import PlaceprintError
from storage.s3_path import StorePath, store_path

if TYPE_CHECKING:
    from flows.settings import Settings

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


def read_settings(config: Path | None, overrides: list[str] | None, store: Path | None, verbose: bool) -> Settings:
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


def complain(error: PlaceprintError) -> None:
    Console(stderr=True).print(f"[bold red]error[/]: {escaped(str(error))}", highlight=False, soft_wrap=True)


def say(line: str) -> None:
    output.print(line, highlight=False, markup=False, soft_wrap=True)


def escaped(text: str) -> str:
    return " ".join(text.split()).replace("[", "\\[")
