"""The DuckDB catalog: one view a table, on its selected version, and a macro to name an older one.

Of a store on S3 the selected versions are copied to this machine first, and an older one is known once it was selected here.

Views hold no data. The file is rewritten whole and swapped in, so readers are never locked out and never locked.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from storage.atomic import atomic_path
from storage.errors import StoreError
from storage.local_copies import local_copy, local_place
from storage.s3_path import parquet_file
from storage.store import Store, TableVersion


def refresh_catalog(store: Store) -> Path:
    """Write ``catalog.duckdb`` for what the store holds now."""
    newest: dict[str, TableVersion] = {}
    for version in store.versions():
        newest[version.table] = store.version(version.table)
    if not newest:
        raise StoreError(f"{store.root} holds no tables yet: run `placeprint run` first")
    with atomic_path(store.catalog_path) as temporary, duckdb.connect(str(temporary)) as connection:
        for table, version in newest.items():
            files = ", ".join(_quoted(str(local_copy(path))) for path in version.files)
            connection.execute(f'CREATE VIEW "{table}" AS SELECT {_columns(version)} FROM read_parquet([{files}])')
            pattern = _quoted(str(local_place(store.root) / "tables" / table) + "/")
            connection.execute(
                f'CREATE MACRO "{table}_at"(fingerprint) AS TABLE '
                f"SELECT * FROM read_parquet({pattern} || fingerprint || '*/*.parquet')"
            )
    return store.catalog_path


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """Open the catalog, refreshed, read-only."""
    return duckdb.connect(str(refresh_catalog(store)), read_only=True)


def query(store: Store, sql: str) -> duckdb.DuckDBPyRelation | None:
    """One query as a relation, which runs when its rows are asked for; None for a statement that gives no rows.

    Raises
    ------
    duckdb.Error
        With DuckDB's own explanation when the query is wrong.
    """
    return connect(store).sql(sql)


def _columns(version: TableVersion) -> str:
    """All columns; vectors cast to DuckDB's fixed-size arrays, which its cosine functions want."""
    columns = []
    for field in parquet_file(version.files[0]).schema_arrow:
        size = getattr(field.type, "list_size", None)
        columns.append(f'"{field.name}"::FLOAT[{size}] AS "{field.name}"' if size else f'"{field.name}"')
    return ", ".join(columns)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
