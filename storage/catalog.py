"""The DuckDB catalog: one view a table, on its selected version, macros for older ones, and the view `versions`.

Of a store on S3 the selected versions are copied to this machine first, and an older one is known once it was selected here.

Views hold no data. The file is rewritten whole and swapped in, so readers are never locked out and never locked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import duckdb

from storage.atomic import atomic_path
from storage.errors import StoreError
from storage.local_copies import local_copy, local_place
from storage.s3_path import parquet_file
from storage.store import Store, TableVersion


def refresh_catalog(store: Store) -> Path:
    """Write ``catalog.duckdb`` for what the store holds now."""
    versions = store.versions()
    selected = {table: store.version(table) for table in dict.fromkeys(version.table for version in versions)}
    if not selected:
        raise StoreError(f"{store.root} holds no tables yet: run `placeprint run` first")
    with atomic_path(store.catalog_path) as temporary, duckdb.connect(str(temporary)) as connection:
        connection.execute(_versions_view(versions, selected))
        for table, version in selected.items():
            files = ", ".join(_quoted(str(local_copy(path))) for path in version.files)
            connection.execute(f'CREATE VIEW "{table}" AS SELECT {_columns(version)} FROM read_parquet([{files}])')
            pattern = _quoted(str(local_place(store.root) / "tables" / table) + "/")
            connection.execute(
                f'CREATE MACRO "{table}_at"(fingerprint) AS TABLE '
                f"SELECT * FROM read_parquet({pattern} || fingerprint || '*/*.parquet')"
            )
            # With a parameter, so that DuckDB opens no file before the macro is used.
            connection.execute(
                f"CREATE MACRO \"{table}_all\"(fingerprint := '') AS TABLE "
                "SELECT v.version, v.created_at, rows.* EXCLUDE (filename) "
                f"FROM read_parquet({pattern} || fingerprint || '*/*.parquet', filename = true, union_by_name = true) rows "
                f"JOIN versions v ON v.table_name = {_quoted(table)} AND v.version = parse_path(rows.filename)[-2]"
            )
    return store.catalog_path


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """Open the catalog, refreshed, read-only. Times are shown in UTC, as they are stored."""
    connection = duckdb.connect(str(refresh_catalog(store)), read_only=True)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def query(store: Store, sql: str) -> duckdb.DuckDBPyRelation | None:
    """One query as a relation, which runs when its rows are asked for; None for a statement that gives no rows.

    Raises
    ------
    duckdb.Error
        With DuckDB's own explanation when the query is wrong.
    """
    return connect(store).sql(sql)


def _versions_view(versions: Iterable[TableVersion], selected: Mapping[str, TableVersion]) -> str:
    """One row a complete version: what made it, and what its manifest says of it."""
    # A selected one may have been committed after the others were listed.
    every = {(each.table, each.fingerprint): each for each in (*versions, *selected.values())}
    rows = []
    for (table, fingerprint), version in every.items():
        contents = (version.manifest["recipe"], version.counts, version.notes)
        texts = (table, fingerprint, version.step, version.created_at, *map(_json, contents))
        is_selected = selected[table].fingerprint == fingerprint
        rows.append(f"({', '.join(map(_quoted, texts))}, {version.rows}, {is_selected})")
    return (
        "CREATE VIEW versions AS SELECT table_name, version, selected, step, rows::BIGINT AS rows, created_at::TIMESTAMPTZ AS created_at, "
        "recipe::JSON AS recipe, counts::JSON AS counts, notes::JSON AS notes "
        f"FROM (VALUES {', '.join(rows)}) t(table_name, version, step, created_at, recipe, counts, notes, rows, selected)"
    )


def _columns(version: TableVersion) -> str:
    """All columns; vectors cast to DuckDB's fixed-size arrays, which its cosine functions want."""
    columns = []
    for field in parquet_file(version.files[0]).schema_arrow:
        size = getattr(field.type, "list_size", None)
        columns.append(f'"{field.name}"::FLOAT[{size}] AS "{field.name}"' if size else f'"{field.name}"')
    return ", ".join(columns)


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
