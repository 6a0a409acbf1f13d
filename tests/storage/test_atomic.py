from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage.atomic import atomic_path, write_bytes
from storage.errors import StoreError

FULL_DISK = """
import resource, sys
from pathlib import Path
import pyarrow as pa
from storage.errors import StoreError
from storage.store import Recipe, Store

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # the system refuses to write more, as a full disk does
store, recipe = Store(Path(sys.argv[1])), Recipe("step", 1)
try:
    rows = pa.table({"number": pa.array(range(100_000))})
    store.commit("things", recipe, [store.write_shard("things", recipe.fingerprint, 0, rows)])
except StoreError as error:
    print(error)
"""


def test_content_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_first_of_two_exclusive_writers_wins(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"one", exclusive=True)
    write_bytes(path, b"two", exclusive=True)
    assert path.read_bytes() == b"one"
    assert len(list(tmp_path.iterdir())) == 1


def test_failure_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_in_the_way_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot write"):
        write_bytes(tmp_path / "file" / "below", b"x")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "no space left to write" in run.stdout
    assert len(run.stdout.splitlines()) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
