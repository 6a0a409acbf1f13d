"""Addresses that a person can open: the newest reports of a store, and the store itself."""

from __future__ import annotations

from pathlib import Path

from storage.s3_path import StorePath, sorted_glob


def address(path: StorePath) -> str:
    """``file:///…`` for a path of this machine, ``s3://…`` for one there."""
    return path.as_uri() if isinstance(path, Path) else str(path)


def newest_reports(root: StorePath, n: int = 3) -> list[str]:
    """Addresses of the pages that were written last, the newest first."""
    pages = sorted(sorted_glob(root, "reports/*/index.html"), key=lambda page: page.stat().st_mtime, reverse=True)
    return [address(page) for page in pages[:n]]
