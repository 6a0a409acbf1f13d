"""Commands on the store itself: what is in it, and what may go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from flows.commands.options import StoreOption, output
from flows.environment import default_store
from tasks.settings import SettingsError

if TYPE_CHECKING:
    from storage.retention import Removal


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
