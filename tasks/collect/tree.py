"""The files below a folder, what cannot be read of it, and what is passed over."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.collect.side_files import is_side_file

STORE, SIDE, METADATA = "placeprint store", "hidden or system file or folder", "metadata table"
# How many of a kind are named.
_N_NAMED = 3


@dataclass(frozen=True)
class Tree:
    """What lies below a folder.

    Parameters
    ----------
    files
        Paths of files from the folder on, with slashes, sorted; links to folders among them, unless they are followed.
    unreadable
        Folders and files that could not be looked at, and why.
    passed_over
        What is no input, by kind; a folder is named once, whatever lies in it.
    """

    files: tuple[str, ...]
    unreadable: Mapping[str, str]
    passed_over: Mapping[str, tuple[str, ...]]

    def remarks(self) -> list[str]:
        """What was passed over, a line a kind."""
        return [
            f"passed over {len(paths)} {kind}{'s' if len(paths) > 1 else ''}: {', '.join(paths[:_N_NAMED])}"
            + (f" and {len(paths) - _N_NAMED} more" if len(paths) > _N_NAMED else "")
            for kind, paths in self.passed_over.items()
        ]


def walk(root: Path, *, metadata: Path | None = None, follow_links: bool = False) -> Tree:
    """Look at everything below a folder.

    Parameters
    ----------
    metadata
        A table that may lie there, and is no input.
    follow_links
        Whether links to folders are followed; one that leads back to a folder above it is not.

    Raises
    ------
    OSError
        When the folder itself cannot be read.
    """
    files: list[str] = []
    unreadable: dict[str, str] = {}
    passed_over: dict[str, list[str]] = {}
    # Each with the folders above it, to see a circle.
    waiting: list[tuple[Path, tuple[tuple[int, int], ...]]] = [(root, ())]
    while waiting:
        folder, above = waiting.pop()
        here = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        try:
            status = folder.stat()
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise
            unreadable[here] = error.strerror or str(error)
            continue
        chain = (*above, (status.st_dev, status.st_ino))
        if folder != root and is_store(folder, {entry.name for entry in entries}):
            passed_over.setdefault(STORE, []).append(here)
            continue
        for entry in entries:
            path = here + entry.name
            if is_side_file(entry.name):
                passed_over.setdefault(SIDE, []).append(path)
                continue
            try:
                is_folder = entry.is_dir(follow_symlinks=follow_links)
                target = entry.stat() if is_folder and entry.is_symlink() else None
            except OSError as error:
                unreadable[path] = error.strerror or str(error)
                continue
            if target is not None and (target.st_dev, target.st_ino) in chain:
                unreadable[f"{path}/"] = "a link that leads back to a folder above it"
            elif is_folder:
                waiting.append((Path(entry.path), chain))
            elif Path(entry.path) == metadata:
                passed_over.setdefault(METADATA, []).append(path)
            else:
                files.append(path)
    kinds = {kind: tuple(sorted(passed_over[kind])) for kind in (STORE, SIDE, METADATA) if kind in passed_over}
    return Tree(tuple(sorted(files)), unreadable, kinds)


def is_store(folder: Path, names: set[str]) -> bool:
    """Whether a folder that holds these names is a store of placeprint, also one that was made a moment ago."""
    if "leases" in names and (names & {".prefect", "tables", "runs"} or any((folder / "leases").glob("run-*.lease"))):
        return True
    return "tables" in names and any((folder / "tables").glob("*/selected"))
