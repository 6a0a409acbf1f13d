"""Leases: one owner at a time, and none for ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from storage.leases import Leases


def test_one_owner_at_a_time_and_free_again_afterwards(tmp_path: Path) -> None:
    leases = Leases(tmp_path)
    with leases.held("shard") as mine, leases.held("shard") as second, leases.held("other") as other:
        assert (mine, second, other) == (True, False, True)
    with leases.held("shard") as again:
        assert again
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_has_it(tmp_path: Path) -> None:
    leases, held, most = Leases(tmp_path), [], []
    lock, start = threading.Lock(), threading.Barrier(8)

    def work() -> None:
        start.wait()
        with leases.held("shard") as mine:
            if mine:
                with lock:
                    held.append(1)
                    most.append(len(held))
                time.sleep(0.02)
                with lock:
                    held.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most
    assert max(most) == 1


def test_lease_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from storage.leases import Leases\n"
    code += "with Leases(Path(sys.argv[1])).held('shard') as mine:\n    os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, cwd=Path(__file__).parents[2])
    assert (tmp_path / "shard.lease").is_file()
    with Leases(tmp_path).held("shard") as mine:
        assert mine


def left_by_another_machine(folder: Path, seconds_ago: float) -> None:
    path = folder / "shard.lease"
    path.write_text(json.dumps({"owner": "x", "host": "elsewhere", "processes": None, "pid": 1}))
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_lease_of_another_machine_expires_by_the_clock_of_the_disk(tmp_path: Path) -> None:
    left_by_another_machine(tmp_path, 5.0)
    with Leases(tmp_path, ttl_s=60.0).held("shard") as mine:
        assert not mine
    left_by_another_machine(tmp_path, 61.0)
    with Leases(tmp_path, ttl_s=60.0).held("shard") as mine:
        assert mine


def test_lease_from_the_future_is_not_kept_for_ever(tmp_path: Path) -> None:
    left_by_another_machine(tmp_path, -3600.0)
    with Leases(tmp_path, ttl_s=60.0).held("shard") as mine:
        assert mine


def test_clock_of_this_machine_does_not_matter(tmp_path: Path, monkeypatch) -> None:
    left_by_another_machine(tmp_path, 5.0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with Leases(tmp_path, ttl_s=60.0).held("shard") as mine:
        assert not mine


def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path) -> None:
    leases = Leases(tmp_path, ttl_s=0.4)
    with leases.held("shard") as mine:
        assert mine
        # Seen from another machine, where it cannot be told whether the process runs.
        content = json.loads((tmp_path / "shard.lease").read_text())
        (tmp_path / "shard.lease").write_text(json.dumps({**content, "host": "elsewhere"}))
        time.sleep(1.2)
        with leases.held("shard") as second:
            assert not second


def test_damaged_lease_expires_too(tmp_path: Path) -> None:
    (tmp_path / "shard.lease").write_bytes(b"\x00")
    with Leases(tmp_path, ttl_s=60.0).held("shard") as mine:
        assert not mine
    os.utime(tmp_path / "shard.lease", (0, 0))
    with Leases(tmp_path, ttl_s=60.0).held("shard") as mine:
        assert mine
