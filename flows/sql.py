"""Ask the tables of a store: where a query comes from, its parameters, and its answer."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from flows.answers import Form, show_table, write_file, write_text
from flows.named_queries import named_query
from storage.catalog import connect
from storage.errors import PlaceprintError
from storage.store import Store
from tasks.settings import SettingsError

# A query that names this parameter gets the vector of a text or an image, which are parameters in its place.
EMBEDDING = "query_embedding"
COMPARED = ("text", "image")


def find_query(query: str | None, file: Path | None, named: str | None) -> str | None:
    """The one query that is given; without any, what comes through standard input; None where that is a terminal.

    Raises
    ------
    SettingsError
        When there are several, or none, or the file cannot be read.
    """
    if sum(each is not None for each in (query, file, named)) > 1:
        raise SettingsError("sql: give one of a query, --file and --named")
    if query is not None:
        return query
    if named is not None:
        return named_query(named)
    if file is None and sys.stdin.isatty():
        return None
    if file is None or str(file) == "-":
        return sys.stdin.read()
    try:
        return file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise SettingsError(f"sql: --file {file}: {reason}") from None


def read_parameters(given: Sequence[str]) -> dict[str, str]:
    """``name=value`` -> name: value. Values are text, which a query casts: a fingerprint may look like a number."""
    parameters = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise SettingsError(f"sql: parameter {each!r}: write it as name=value")
        parameters[name.removeprefix("$")] = value
    return parameters


def ask(
    store: Store,
    sql: str,
    given: Mapping[str, str],
    *,
    form: Form = "table",
    output: Path | None = None,
    width: int = 200,
    device: str = "auto",
) -> None:
    """Answer a query, to standard output or to a file. Of several statements the last is answered.

    Parameters
    ----------
    given
        Values of its parameters; where it has `query_embedding`, a `text` or an `image` is made into that.
    width
        Of a table, in characters.

    Raises
    ------
    PlaceprintError
        With DuckDB's own explanation when the query is wrong.
    SettingsError
        When a parameter is missing, or is none of the query's.
    """
    try:
        with connect(store) as connection:
            statements = connection.extract_statements(sql)
            if not statements:
                raise SettingsError("sql: there is no query: give one, or --file, or --named")
            wanted = {name for statement in statements for name in statement.named_parameters}
            values = _values(store, wanted, given, device)
            *before, last = [(each, {name: values[name] for name in each.named_parameters}) for each in statements]
            for statement, its_values in before:
                connection.execute(statement, its_values).fetchall()
            if output is not None:
                write_file(connection, *last, form, output)
            elif form == "table":
                show_table(connection, *last, width)
            else:
                write_text(connection, *last, form, sys.stdout)
    except duckdb.Error as error:
        raise PlaceprintError(f"sql: {error}") from error


def _values(store: Store, wanted: set[str], given: Mapping[str, str], device: str) -> dict[str, Any]:
    values: dict[str, Any] = dict(given)
    if EMBEDDING in wanted and EMBEDDING not in given:
        compared = [name for name in COMPARED if name in values]
        if len(compared) != 1:
            raise SettingsError("sql: the query compares with a text or an image: give --param text=… or image=…")
        values[EMBEDDING] = _embedding(store, compared[0], values[compared[0]], device)
        if compared[0] not in wanted:
            del values[compared[0]]
    if missing := sorted(wanted - values.keys()):
        raise SettingsError(f"sql: the query wants ${missing[0]}: give --param {missing[0]}=…")
    if unknown := sorted(values.keys() - wanted):
        has = f"it has {', '.join(f'${name}' for name in sorted(wanted))}" if wanted else "it has none"
        raise SettingsError(f"sql: the query has no parameter ${unknown[0]}, {has}")
    return values


def _embedding(store: Store, kind: str, value: str, device: str) -> duckdb.Value:
    from flows.search import embed_image, embed_text

    embeddings = store.version("embeddings")
    vectors = embed_text(embeddings, value, device) if kind == "text" else embed_image(embeddings, Path(value), device)
    vector: list[float] = vectors[0].tolist()
    return duckdb.Value(vector, duckdb.array_type("FLOAT", len(vector)))
