"""Locks of this machine, between real processes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage.errors import StoreError
from storage.host_locks import alone

HOLD = """
import sys, time
from storage.host_locks import alone
with alone(sys.argv[1:], print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACEPRINT_LOCKS", str(tmp_path / "locks"))


def test_a_killed_process_frees_its_locks_at_once() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, "encode-cuda:0"], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told: list[str] = []
    with alone(["encode-cuda:1"], told.append) as waited:
        assert not waited
    assert told == []

    def kill(name: str) -> None:
        told.append(name)
        holder.kill()

    with alone(["encode-cuda:1", "encode-cuda:0"], kill) as waited:
        assert waited
    assert told == ["encode-cuda:0"]
    holder.wait()


def test_two_who_want_the_same_in_another_order_both_end() -> None:
    inside: list[int] = []
    most: list[int] = []

    def work(names: list[str]) -> None:
        with alone(names, lambda _: None):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work, args=(names,)) for names in (["a", "b"], ["b", "a"], ["a", "a", "b"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1, 1, 1]


def test_a_folder_that_strangers_could_have_laid_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="belongs to another"), alone(["collect"], print):
        pass
