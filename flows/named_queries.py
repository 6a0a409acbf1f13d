"""The queries that ship with placeprint: ``docs/queries/<name>.sql``, each with a comment that says what it answers."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from tasks.settings import SettingsError


def named_queries() -> dict[str, str]:
    """Name -> SQL, in the order of the names."""
    found = {each.name.removesuffix(".sql"): each for each in _folder().iterdir() if each.name.endswith(".sql")}
    return {name: found[name].read_text(encoding="utf-8") for name in sorted(found)}


def named_query(name: str) -> str:
    """The SQL of a named query.

    Raises
    ------
    SettingsError
        When there is none of that name.
    """
    queries = named_queries()
    if name not in queries:
        near = get_close_matches(name, queries, n=1, cutoff=0.0)
        raise SettingsError(f"sql: there is no named query {name!r}; is {near[0]!r} meant? --list names all")
    return queries[name]


def summary(sql: str) -> str:
    """What a query answers: its first line, which is a comment."""
    return sql.splitlines()[0].removeprefix("--").strip()


def _folder() -> Traversable:
    """In a wheel they lie in this package; an editable install, or a clone, has them in its docs."""
    packaged = files("flows") / "queries"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "docs" / "queries"
