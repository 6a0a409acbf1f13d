"""The interactive prompt of ``placeprint sql``: queries one after the other, with history and completion."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import duckdb
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from flows.named_queries import named_queries, named_query, summary
from flows.sql import read_parameters
from storage.catalog import connect
from storage.errors import PlaceprintError
from storage.store import Store
from tasks.settings import SettingsError

COMMANDS = (".help", ".named", ".quit", ".tables")
HELP = """\
A query, then Enter. Tab completes; arrows bring back what was asked before. Ctrl-C clears the line, Ctrl-D ends.
.tables                     tables and their columns
.named                      named queries
.named NAME [name=value …]  answer one of them
.quit                       end"""

Ask = Callable[[str, Mapping[str, str]], None]


def prompt(store: Store, ask: Ask, say: Callable[[str], None], complain: Callable[[PlaceprintError], None]) -> None:
    """Read and answer queries until the end.

    Parameters
    ----------
    ask
        Answers a query with its parameters.
    say
        Prints a line.
    complain
        Prints an error; the prompt goes on.
    """
    session: PromptSession[str] = PromptSession(
        history=_history(), completer=QueryCompleter(_columns(store)), complete_while_typing=False
    )
    say(f"{store.root}: .help explains, .quit ends")
    while True:
        try:
            line = session.prompt("placeprint> ").strip()
            if line in (".quit", ".exit"):
                return
            _answer(store, line, ask, say)
        except KeyboardInterrupt:  # of the line, or of a query that takes too long
            continue
        except EOFError:
            return
        except PlaceprintError as error:
            complain(error)


def _answer(store: Store, line: str, ask: Ask, say: Callable[[str], None]) -> None:
    command, *arguments = _words(line) if line.startswith(".") else [line]
    if command == ".help":
        say(HELP)
    elif command == ".tables":
        for table, columns in _columns(store).items():
            say(f"{table}: {', '.join(columns)}")
    elif command == ".named" and not arguments:
        for name, sql in named_queries().items():
            say(f"{name}: {summary(sql)}")
    elif command == ".named":
        ask(named_query(arguments[0]), read_parameters(arguments[1:]))
    elif command.startswith("."):
        raise SettingsError(f"sql: there is no command {command}: .help names them")
    elif command:
        ask(command, {})


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise SettingsError(f"sql: {line}: {error}") from None


def _columns(store: Store) -> dict[str, list[str]]:
    """Columns by table."""
    columns: dict[str, list[str]] = {}
    with connect(store) as connection:
        found = connection.execute(
            "select table_name, column_name from duckdb_columns() where not internal order by table_name, column_index"
        )
        for table, column in found.fetchall():
            columns.setdefault(table, []).append(column)
    return columns


class QueryCompleter(Completer):
    """Completes commands, the names after ``.named``, and in a query tables, their columns and SQL's keywords."""

    def __init__(self, columns: Mapping[str, list[str]]) -> None:
        names = {*columns, *(column for each in columns.values() for column in each)}
        keywords = {str(each) for (each,) in duckdb.execute("select keyword_name from duckdb_keywords()").fetchall()}
        self._words = [*sorted(names), *sorted(keywords - names)]
        self._queries = list(named_queries())

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:  # noqa: ARG002
        """What may stand at the cursor."""
        line = document.text_before_cursor.lstrip()
        if re.fullmatch(r"\.named\s+\S*", line):
            begun, words = line.split(maxsplit=1)[1:], self._queries
        elif re.fullmatch(r"\.\w*", line):
            begun, words = [line], list(COMMANDS)
        else:
            begun, words = re.findall(r"\w+$", line), self._words
        start = "".join(begun)
        if start or words is self._queries:
            yield from (Completion(word, -len(start)) for word in words if word.startswith(start.lower()))


def _history() -> History:
    """What was asked before, in the user's state folder; kept in memory where that cannot be written."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "placeprint"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sql_history").touch()
    except OSError:
        return InMemoryHistory()
    return FileHistory(folder / "sql_history")
