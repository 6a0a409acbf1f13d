"""Commands that ask something: of DuckDB, of the index, of a person."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from flows.answers import Form, choose_form
from flows.commands.options import StoreOption, complain, escaped, output, say
from flows.environment import default_store
from storage.errors import PlaceprintError
from tasks.settings import SettingsError


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
            output.print(f"[bold]{name}[/]: {escaped(summary(text))}", highlight=False, soft_wrap=True)
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

        prompt(opened, answer, say=say, complain=complain)


def search(
    query: Annotated[
        str | None,
        typer.Argument(
            help="A text, or the path of an image file. Without one: a prompt, or a query a line of standard input."
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, max=1000, help="How many images.")] = 10,
    text: Annotated[
        bool, typer.Option("--text", help="Take the query for a text, whatever files and folders there are.")
    ] = False,
    store: StoreOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, …; where images are encoded.")] = "auto",
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="Show near-duplicates that were removed, too.")
    ] = False,
) -> None:
    """Find the images nearest to a text or an image; prints them and writes a page.

    Example: `placeprint search "a satellite photo of Egypt"`
    """
    from flows.search import Searcher, write_page
    from storage.store import Store

    opened = Store(store or default_store())
    searcher = Searcher(opened, device=device, duplicates=duplicates)

    def ask(wanted: str) -> None:
        answer = searcher.search(wanted, k, is_text=text)
        if answer.cut is not None:
            n_tokens, n_read = answer.cut
            say(f"note: the text has {n_tokens} tokens, of which the encoder reads the first {n_read}")
        table = Table()
        for name in ("", "cosine", "label", "source", "path"):
            table.add_column(name)
        for number, hit in enumerate(answer.hits, start=1):
            table.add_row(
                str(number), f"{hit.cosine:.3f}", escaped(hit.label or ""), escaped(hit.source), escaped(hit.path)
            )
        output.print(table)
        output.print(f"Page: {write_page(opened, wanted, answer.hits)}", soft_wrap=True, highlight=False)

    if query is not None:
        ask(query)
        return
    from flows.search_prompt import prompt

    if not prompt(ask, say, complain):
        raise typer.Exit(1)


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
