"""The answer of a query in the form that was asked for: a table for people, CSV, JSON, Markdown, or a Parquet file.

Rows are read a thousand at a time, and Parquet is written by DuckDB itself: an answer may be larger than the memory. CSV and
JSON are not left to DuckDB, whose JSON has NaN (which is none) and dates that are not ISO 8601.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from storage.atomic import atomic_path
from tasks.settings import SettingsError

if TYPE_CHECKING:  # the command line reads `Form` at its start, and DuckDB takes its time
    import duckdb

Form = Literal["table", "csv", "json", "parquet", "markdown"]
SUFFIXES: Mapping[str, Form] = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".md": "markdown"}
ROWS_AT_ONCE = 1000

Row = Sequence[Any]


def choose_form(form: Form | None, output: Path | None) -> Form:
    """The form that was asked for, or that the output's name ends in.

    Raises
    ------
    SettingsError
        When the form and the output do not go together.
    """
    chosen = form or (SUFFIXES.get(output.suffix.lower(), "table") if output else "table")
    if chosen == "parquet" and output is None:
        raise SettingsError("sql: --format parquet is a file: give --output FILE")
    if chosen == "table" and output is not None:
        raise SettingsError(f"sql: --output {output}: give --format csv, json, parquet or markdown with it")
    if output is not None and output.exists() and not output.is_file():
        raise SettingsError(f"sql: --output {output} is not a file")
    return chosen


def show_table(
    connection: duckdb.DuckDBPyConnection, query: duckdb.Statement, values: Mapping[str, Any], width: int
) -> None:
    """Print the answer as DuckDB's table, which leaves out the middle of a long one."""
    relation = _relation(connection, query, values)
    if relation is not None:
        relation.show(max_width=width)


def write_file(
    connection: duckdb.DuckDBPyConnection, query: duckdb.Statement, values: Mapping[str, Any], form: Form, path: Path
) -> None:
    """Write the answer to a file, which is there wholly or not at all."""
    with atomic_path(path.expanduser().resolve()) as temporary:
        if form == "parquet":
            relation = _relation(connection, query, values)
            if relation is None:
                raise SettingsError("sql: this statement gives no rows to write")
            relation.write_parquet(str(temporary))
            return
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            write_text(connection, query, values, form, stream)


def write_text(
    connection: duckdb.DuckDBPyConnection,
    query: duckdb.Statement,
    values: Mapping[str, Any],
    form: Form,
    stream: TextIO,
) -> None:
    """Write the answer as CSV (RFC 4180), JSON (an array of objects) or Markdown."""
    connection.execute(query, dict(values))
    names = [each[0] for each in connection.description or ()]
    rows = _rows(connection)
    if form == "csv":
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows([_cell(value) for value in row] for row in rows)
    elif form == "json":
        _write_json(_distinct(names), rows, stream)
    else:
        _write_markdown(names, rows, stream)


def _relation(
    connection: duckdb.DuckDBPyConnection, query: duckdb.Statement, values: Mapping[str, Any]
) -> duckdb.DuckDBPyRelation | None:
    """None for a statement that gives no rows. With parameters DuckDB answers at once, else when rows are asked for."""
    return connection.sql(query, params=dict(values)) if values else connection.sql(query)


def _rows(connection: duckdb.DuckDBPyConnection) -> Iterator[Row]:
    while rows := connection.fetchmany(ROWS_AT_ONCE):
        yield from rows


def _write_json(names: Sequence[str], rows: Iterable[Row], stream: TextIO) -> None:
    before = "["
    for row in rows:
        stream.write(f"{before}\n{_json(dict(zip(names, row, strict=True)))}")
        before = ","
    stream.write("[]\n" if before == "[" else "\n]\n")


def _write_markdown(names: Sequence[str], rows: Iterable[Row], stream: TextIO) -> None:
    for row in chain([names, ["---"] * len(names)], rows):
        cells = (" ".join(_cell(value).replace("|", "\\|").splitlines()) for value in row)
        stream.write(f"| {' | '.join(cells)} |\n")


def _cell(value: Any) -> str:
    """A text as it is, nothing for null, and JSON for lists, numbers and truth values."""
    plain = _plain(value)
    return plain if isinstance(plain, str) else "" if plain is None else _json(plain)


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """The value in JSON's types: dates as ISO 8601, bytes as hex digits, null for what is no number."""
    match value:
        case None | bool() | int() | str():
            return value
        case float() | Decimal():
            return float(value) if math.isfinite(value) else None
        case datetime() | date() | time():
            return value.isoformat()
        case list() | tuple():
            return [_plain(each) for each in value]
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case bytes():
            return value.hex()
    return str(value)


def _distinct(names: Sequence[str]) -> list[str]:
    """Two columns of one name would be one in an object: the second gets a number."""
    found: list[str] = []
    for name in names:
        free, number = name, 0
        while free in found:
            number += 1
            free = f"{name}_{number}"
        found.append(free)
    return found
