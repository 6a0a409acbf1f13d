"""Garbage of SQLite's that is collected in a thread of its own holds up nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# What Prefect's server comes to: one connection holds the write lock, another waits for it, and a cursor that has executed the same
# statement before is garbage.
DEADLOCK = """
import gc, sqlite3, sys, threading, time
from flows.prefect_server import collect_garbage_apart

apart = sys.argv[2] == "apart"
gc.collect()
gc.disable()
options = {"isolation_level": None, "check_same_thread": False, "timeout": 10}
holder, waiter = (sqlite3.connect(sys.argv[1], **options) for _ in range(2))
INSERT = "insert into t values (2)"
holder.execute("pragma journal_mode = wal")
holder.execute("create table t (x)")
cycle = [waiter.executemany(INSERT, [()])]
cycle.append(cycle)
holder.execute("begin immediate")

def wait():
    about.set()
    try:
        waiter.execute(INSERT)
        said.append("inserted")
    except sqlite3.OperationalError as error:
        said.append(str(error))

about, said, collecting = threading.Event(), [], threading.Event()
thread = threading.Thread(target=wait)
thread.start()
about.wait()
time.sleep(1)
del cycle
gc.callbacks.append(lambda phase, _: collecting.set() if phase == "start" else None)
if apart:
    collect_garbage_apart()
    collecting.wait()
    time.sleep(0.5)
else:
    gc.collect()
holder.execute("commit")
thread.join()
print(*said)
"""


def said_by_the_waiter(tmp_path: Path, collector: str) -> str:
    command = [sys.executable, "-c", DEADLOCK, str(tmp_path / "database"), collector]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return run.stdout.strip()


def test_who_holds_the_lock_goes_on_while_garbage_is_collected(tmp_path: Path) -> None:
    assert said_by_the_waiter(tmp_path, "apart") == "inserted"


def test_in_the_same_thread_both_wait_for_each_other(tmp_path: Path) -> None:
    """If this fails, Python's SQLite has changed, and `flows.prefect_server` is perhaps needed no more."""
    assert said_by_the_waiter(tmp_path, "here") == "database is locked"
