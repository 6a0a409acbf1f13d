"""Locks of this machine: one encoding a device, one collection a machine, whoever starts them and into whichever store.

The kernel frees them when their process ends, however it ends. They lie in the folder that ``PLACEPRINT_LOCKS`` names, or in
one for temporary files; containers that share a device must share it.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from storage.errors import StoreError

_LOOK_AGAIN_S = 0.5


@contextmanager
def alone(names: Sequence[str], on_wait: Callable[[str], None]) -> Iterator[bool]:
    """Hold the locks of all names while the block runs, first waiting for those that another run of this user holds.

    The block is told whether there was one: then what it is about to do may be done already.

    Parameters
    ----------
    names
        Such as ``encode-cuda:0``.
    on_wait
        Told the name, once, before it is waited for.
    """
    with ExitStack() as held:
        # In one order, so that of two who want several none waits for the other for ever.
        waited = [held.enter_context(_lock(name, on_wait)) for name in sorted(set(names))]
        yield any(waited)


@contextmanager
def _lock(name: str, on_wait: Callable[[str], None]) -> Iterator[bool]:
    path = _folder() / f"{name.replace('/', '-')}.lock"
    with path.open("a") as file:
        waited = False
        while not _try(file.fileno()):
            if not waited:
                on_wait(name)
                waited = True
            time.sleep(_LOOK_AGAIN_S)  # not in the kernel: so that a cancelled run ends at once
        yield waited


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _folder() -> Path:
    """A folder of this user's alone: one in which strangers could put links would be a way to harm."""
    given = os.environ.get("PLACEPRINT_LOCKS")
    folder = Path(given) if given else Path(tempfile.gettempdir()) / f"placeprint-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_ours = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
    except OSError as error:
        raise StoreError(f"{folder} cannot be made: {error.strerror}") from error
    if not is_ours:
        raise StoreError(f"{folder} belongs to another user: remove it, or set PLACEPRINT_LOCKS to a folder of yours")
    return folder
