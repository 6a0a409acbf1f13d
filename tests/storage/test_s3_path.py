"""S3Path against a real S3 server (moto's) on loopback, and against a folder of this machine."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from s3_server import S3Server
from werkzeug.wrappers import Response

from storage import s3_path
from storage.atomic import write_bytes
from storage.errors import StoreError
from storage.s3_path import S3Path, StorePath, download, parquet_file, read_json, read_parquet, store_path, upload

PART = 10 * 2**20  # of an upload in parts, by pyarrow


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> StorePath:
    """A place for a store, of either kind."""
    if request.param == "folder":
        return tmp_path / "root"
    return request.getfixturevalue("bucket") / "root"


def put(path: StorePath, data: bytes = b"data") -> StorePath:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(root: StorePath, paths: Any) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in paths)


# The same on both kinds.


def test_names(root: StorePath) -> None:
    path = root / "tables" / "images/0a.b" / "part-0.tar.parquet"
    assert (path.name, path.stem, path.suffix) == ("part-0.tar.parquet", "part-0.tar", ".parquet")
    assert path.with_name("other") == path.parent / "other"
    assert path.with_suffix(".x").name == "part-0.tar.x"
    assert path.parents[3] == root == path.parent.parent.parent.parent
    assert root in path.parents
    assert path.parts[-2:] == ("0a.b", "part-0.tar.parquet")
    assert path.parents[len(path.parents) - 1].name == ""
    assert PurePosixPath(path.relative_to(root)) == PurePosixPath("tables/images/0a.b/part-0.tar.parquet")
    with pytest.raises(ValueError, match="subpath"):
        root.relative_to(path)
    assert path.as_posix() == str(path)
    assert path.is_absolute()
    assert path.absolute() == path.expanduser() == path
    assert root / PurePosixPath("a/b") == root / "a" / "b" == root / "a//b/"


def test_order_and_hash(root: StorePath) -> None:
    paths = [root / name for name in ("b", "a/c", "a", "a-b")]
    assert [str(path.relative_to(root)) for path in sorted(paths)] == ["a", "a/c", "a-b", "b"]
    assert len({root / "a", root / "a", root / "b"}) == 2
    assert root / "a" != str(root / "a")


def test_pickle(root: StorePath) -> None:
    path = put(root / "a" / "b")
    assert path.is_file()  # S3: connected before it is pickled
    assert pickle.loads(pickle.dumps(path)) == path  # noqa: S301
    assert pickle.loads(pickle.dumps(path)).read_bytes() == b"data"  # noqa: S301


def test_what_is_there(root: StorePath) -> None:
    put(root / "a" / "b" / "c")
    found = {name: root / name for name in ("a", "a/b", "a/b/c", "a/b/c/d", "a/x", "a/b/cc", "a/b/")}
    assert [name for name, path in found.items() if path.exists()] == ["a", "a/b", "a/b/c", "a/b/"]
    assert [name for name, path in found.items() if path.is_dir()] == ["a", "a/b", "a/b/"]
    assert [name for name, path in found.items() if path.is_file()] == ["a/b/c"]


def test_status(root: StorePath) -> None:
    status = put(root / "file", b"12345").stat()
    assert status.st_size == 5
    assert abs(status.st_mtime - time.time()) < 60
    assert (root / "file").parent.stat().st_size >= 0
    with pytest.raises(FileNotFoundError, match="root/none"):
        (root / "none").stat()


@pytest.mark.parametrize("data", [b"", b"x", "grüße\n".encode(), bytes(range(256)) * 50_000], ids=len)
def test_bytes_come_back(root: StorePath, data: bytes) -> None:
    path = put(root / "new folder" / "file", data)
    assert path.read_bytes() == data
    assert path.stat().st_size == len(data)


def test_text(root: StorePath) -> None:
    assert put(root / "file", "grüße".encode()).read_text(encoding="utf-8") == "grüße"


def test_writing_replaces(root: StorePath) -> None:
    path = put(root / "file", b"a long old one")
    path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_what_is_missing(root: StorePath) -> None:
    put(root / "file")
    for ask in (Path.read_bytes, Path.read_text, Path.stat, Path.unlink, lambda path: path.open("rb")):
        method = getattr(S3Path, ask.__name__, ask) if isinstance(root, S3Path) else ask
        with pytest.raises(FileNotFoundError, match="root/none") as caught:
            method(root / "none")  # type: ignore[arg-type]
        assert caught.value.filename is not None
    (root / "none").unlink(missing_ok=True)


def test_unlink(root: StorePath) -> None:
    put(root / "a" / "one")
    put(root / "a" / "two")
    (root / "a" / "one").unlink()
    (root / "a" / "two").unlink()
    assert not (root / "a" / "one").exists()
    assert list((root / "a").glob("*")) == []
    assert names(root, root.glob("*")) == ["a"]  # of both kinds, a folder that was emptied stays
    assert put(root / "a" / "one").is_file()


def test_glob(root: StorePath) -> None:
    for name in (
        "tables/images/0a/manifest.json",
        "tables/images/0b/manifest.json",
        "tables/images/0c/part-0.parquet",
        "tables/images/selected",
        "tables/heads/0d/manifest.json",
        "listings/x/0001/items.parquet",
        "listings/x/0002/items.parquet",
        "listings/x/work/items.parquet",
        "work/1.images.parquet",
        "work/1.rejects.parquet",
        "work/.hidden.images.parquet",
    ):
        put(root / name)
    for folder, pattern, number in (
        ("tables", "*", 2),
        ("tables/images", "*/manifest.json", 2),
        ("tables/images", "*", 4),
        ("tables/images", "0?/*.parquet", 1),
        ("listings/x", "[0-9]*/items.parquet", 2),
        ("work", "*.images.parquet", 2),
        ("work", "*.IMAGES.parquet", 0),
        ("work", "[!.]*.images.parquet", 1),
        ("tables", "images/selected", 1),
        ("tables", "images/0a/manifest.json", 1),
        ("tables", "*/*/manifest.json", 3),
        ("tables", "*/selected/*", 0),
        ("tables/images/selected", "*", 0),
        ("nothing", "*", 0),
    ):
        found = names(root, (root / folder).glob(pattern))
        expected = PurePosixPath(folder) / pattern
        assert len(found) == number, (folder, pattern, found)
        assert all(PurePosixPath(name).match(str(expected)) for name in found)


def test_odd_names(root: StorePath) -> None:
    for name in ("a b", "ä#é?", "100%25", "x=1&y=2", "it's [1]", "a+b"):
        path = put(root / "odd" / name / "file", name.encode())
        assert path.read_bytes() == name.encode()
        assert path.is_file()
        table = pa.table({"n": [1]})
        pq.write_table(table, buffer := io.BytesIO())
        put(path.with_name("a.parquet"), buffer.getvalue())
        assert parquet_file(path.with_name("a.parquet")).read() == table
    assert len(list((root / "odd").glob("*/file"))) == 6


def test_open_files_serve_other_libraries(root: StorePath) -> None:
    data = os.urandom(5 * 2**20)  # more than a buffer
    path = put(root / "file", data)
    with path.open("rb") as stream:
        assert hashlib.file_digest(stream, "blake2b").digest() == hashlib.blake2b(data).digest()
        assert stream.seek(-3, io.SEEK_END) == len(data) - 3
        assert stream.read() == data[-3:]
        assert stream.read() == b""
        assert stream.seek(100) == stream.tell() == 100
        assert stream.read(7) == data[100:107]
    assert stream.closed
    Image.new("RGB", (30, 20), "red").save(buffer := io.BytesIO(), "PNG")
    with put(root / "image.png", buffer.getvalue()).open("rb") as stream, Image.open(stream) as image:
        assert image.convert("RGB").getpixel((1, 1)) == (255, 0, 0)
    pq.write_table(pa.table({"n": [1, 2]}), buffer := io.BytesIO())
    with put(root / "table", buffer.getvalue()).open("rb") as stream:
        assert pq.read_table(stream).num_rows == 2


def test_parquet(root: StorePath) -> None:
    table = pa.table({"n": pa.array(range(100)), "t": [str(n) for n in range(100)]}).replace_schema_metadata({"k": "v"})
    pq.write_table(table, buffer := io.BytesIO(), row_group_size=40)
    path = put(root / "table.parquet", buffer.getvalue())
    assert read_parquet(path).equals(table, check_metadata=True)
    assert read_parquet(path, ["t"], page_checksum_verification=True).column_names == ["t"]
    assert parquet_file(path).metadata.num_row_groups == 3
    assert parquet_file(path).schema_arrow.metadata == {b"k": b"v"}
    assert parquet_file(path).read_row_group(2)["n"].to_pylist() == list(range(80, 100))


def test_damaged_parquet(root: StorePath) -> None:
    pq.write_table(pa.table({"n": range(1000)}), buffer := io.BytesIO())
    path = put(root / "table.parquet", buffer.getvalue()[:-20])
    for read in (read_parquet, parquet_file):
        with pytest.raises(pa.ArrowInvalid):
            read(path)
        with pytest.raises(FileNotFoundError):
            read(root / "none.parquet")


# What S3 alone has.


def test_store_path(tmp_path: Path) -> None:
    path = store_path("s3://bucket/a/b")
    assert isinstance(path, S3Path)
    assert str(path) == "s3://bucket/a/b"
    for other in (Path("s3://bucket/a/b"), "s3:/bucket/a/b", "s3://bucket/a/b/", "s3://bucket//a/./b", path):
        assert store_path(other) == path
    assert str(store_path("s3://bucket/")) == "s3://bucket"
    assert (path.key, path.parts) == ("bucket/a/b", ("s3://bucket/", "a", "b"))
    assert store_path("~/x") == Path("~/x")
    assert store_path(tmp_path) == store_path(str(tmp_path)) == tmp_path
    assert path != tmp_path
    with pytest.raises(TypeError):
        os.fspath(path)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        Path(path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///a", "s3://key:secret@bucket/a", "s3://bucket/../a", "s3://bucket/a/.."]
)
def test_no_address(text: str) -> None:
    with pytest.raises(StoreError, match="is no address on S3"):
        store_path(text)


def test_pyarrow_takes_key_and_filesystem(bucket: S3Path) -> None:
    pq.write_table(table := pa.table({"n": [1, 2]}), buffer := io.BytesIO())
    path = bucket / "table.parquet"
    path.write_bytes(buffer.getvalue())
    assert pq.read_table(path.key, filesystem=path.filesystem) == table


def test_small_object_is_one_put_and_folders_are_none(bucket: S3Path, s3_server: S3Server) -> None:
    assert bucket.exists()
    s3_server.forget()
    (bucket / "a").mkdir(parents=True, exist_ok=True)
    (bucket / "a" / "b").write_bytes(b"1" * 1_000_000)
    assert s3_server.requests == ["PUT /bucket/a/b?"]
    assert not (bucket / "c").is_dir()


def test_exclusive_keeps_what_is_there(bucket: S3Path) -> None:
    path = bucket / "file"
    path.write_bytes(b"one", exclusive=True)
    path.write_bytes(b"two", exclusive=True)
    assert path.read_bytes() == b"one"


def test_two_exclusive_writers_at_once_both_put_a_whole_object(bucket: S3Path, s3_server: S3Server) -> None:
    """What the docstring of `write_bytes` admits."""
    both_looked = threading.Barrier(2, timeout=20)

    def fault(asked: str) -> None:
        if asked.startswith("PUT /bucket/file"):
            both_looked.wait()

    assert bucket.exists()
    s3_server.fault = fault
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda data: (bucket / "file").write_bytes(data, exclusive=True), (b"one", b"two")))
    assert (bucket / "file").read_bytes() in (b"one", b"two")


def test_upload_and_download(bucket: S3Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_path, "PIECE_BYTES", 12 * 2**20)
    for size in (0, 10, 2 * PART + 5):
        local = tmp_path / "file"
        local.write_bytes(os.urandom(size))
        upload(local, bucket / "file")
        download(bucket / "file", tmp_path / "new" / "copy")
        assert (tmp_path / "new" / "copy").read_bytes() == local.read_bytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]
    with pytest.raises(FileNotFoundError):
        upload(tmp_path / "none", bucket / "file")
    with pytest.raises(FileNotFoundError):
        download(bucket / "none", tmp_path / "none")
    local.with_name("blocked").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot write .*blocked/file"):
        download(bucket / "file", tmp_path / "blocked" / "file")


UPLOAD = """
import sys
from pathlib import Path
from storage.s3_path import store_path, upload
upload(Path(sys.argv[1]), store_path(sys.argv[2]))
"""


@pytest.mark.parametrize("old", [None, b"old"])
def test_killed_upload_leaves_what_was_there(
    bucket: S3Path, s3_server: S3Server, tmp_path: Path, old: bytes | None
) -> None:
    target = bucket / "below" / "file"
    if old is not None:
        target.write_bytes(old)
    (tmp_path / "file").write_bytes(bytes(4 * PART))
    second_part, go_on = threading.Event(), threading.Event()

    def fault(asked: str) -> None:
        if "partNumber=2" in asked:
            second_part.set()
            go_on.wait(60)

    s3_server.fault = fault
    process = subprocess.Popen([sys.executable, "-c", UPLOAD, str(tmp_path / "file"), str(target)])
    assert second_part.wait(60)
    process.send_signal(signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    go_on.set()
    assert "UploadId" in s3_server.ask("GET", "/bucket?uploads")
    assert not any("POST" in asked and "uploadId" in asked for asked in s3_server.requests)
    assert target.exists() is (old is not None)
    assert old is None or target.read_bytes() == old
    assert names(bucket, bucket.glob("*")) == (["below"] if old else [])


@pytest.mark.parametrize("part", [1, 2, 3])
def test_upload_of_which_a_part_fails_is_never_completed(bucket: S3Path, s3_server: S3Server, part: int) -> None:
    refusal = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    s3_server.fault = lambda asked: Response(refusal, 403) if f"partNumber={part}&" in asked else None
    with pytest.raises(StoreError, match=r"^s3://bucket/file: access is refused"):
        (bucket / "file").write_bytes(bytes(2 * PART + 5))
    assert not (bucket / "file").exists()


INTERRUPTED = """
import signal, sys, threading
from storage import s3_path
from storage.atomic import write_bytes
s3_path.PIECE_BYTES = 10 * 2**20
print("ready", flush=True)
try:
    s3_path.store_path(sys.argv[1]).write_bytes(bytes(40 * 2**20))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_interrupted_upload_is_completed_whole(bucket: S3Path, s3_server: S3Server) -> None:
    second_part, go_on = threading.Event(), threading.Event()

    def fault(asked: str) -> None:
        if "partNumber=2" in asked:
            second_part.set()
            go_on.wait(60)

    s3_server.fault = fault
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "s3://bucket/file"], stdout=subprocess.PIPE, text=True
    )
    assert second_part.wait(60)
    process.send_signal(signal.SIGINT)
    go_on.set()
    output, _ = process.communicate(timeout=60)
    assert output.split() == ["ready", "interrupted"]
    assert (bucket / "file").stat().st_size == 4 * PART


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_other_processes_make_connections_of_their_own(bucket: S3Path, method: str) -> None:
    (bucket / "file").write_bytes(b"data")
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(S3Path.read_bytes, [bucket / "file"] * 4) == [b"data"] * 4


def test_many_threads(bucket: S3Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: (bucket / f"{number}").write_bytes(b"%d" % number), range(64)))
        assert list(pool.map(lambda number: (bucket / f"{number}").read_bytes(), range(64))) == [
            b"%d" % n for n in range(64)
        ]


ASKS: dict[str, Callable[[S3Path], Any]] = {
    "exists": S3Path.exists,
    "read": S3Path.read_bytes,
    "open": S3Path.open,
    "write": lambda path: path.write_bytes(b"data"),
    "glob": lambda path: list(path.glob("*")),
    "unlink": lambda path: path.unlink(missing_ok=True),
    "parquet": read_parquet,
}


def one_line(caught: pytest.ExceptionInfo[StoreError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 250
    return text


@pytest.mark.parametrize("ask", [*ASKS.values(), lambda path: path.filesystem], ids=[*ASKS, "filesystem"])
def test_missing_bucket(bucket: S3Path, ask: Callable[[S3Path], Any]) -> None:
    with pytest.raises(StoreError, match=r"^s3://other: no such bucket: make it") as caught:
        ask(S3Path("other", bucket.inside / "a"))
    one_line(caught)


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
@pytest.mark.parametrize("connected", [False, True])
def test_wrong_credentials(
    bucket: S3Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, ask: Callable[[S3Path], Any], connected: bool
) -> None:
    assert not connected or bucket.exists()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing" if connected else "wrong")
    s3_server.ask("POST", "/moto-api/reset-auth", b"0")  # from here on, moto asks who is there
    try:
        with pytest.raises(StoreError, match=r"^s3://bucket/a: (access is refused|.*INVALID_ACCESS_KEY_ID)") as caught:
            ask(bucket / "a")
    finally:
        s3_server.ask("POST", "/moto-api/reset-auth", b"inf")
    assert connected or "AWS_ACCESS_KEY_ID" in one_line(caught)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_connection_refused(bucket: S3Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreError, match=r"^s3://bucket/a: no answer .*127\.0\.0\.1.*is there a network") as caught:
        (bucket / "a").read_bytes()
    one_line(caught)


def test_silent_service(bucket: S3Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_path, "REQUEST_S", 1.0)
    monkeypatch.setattr(s3_path, "ATTEMPTS", 2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(StoreError, match="no answer") as caught:
            (bucket / "a").exists()
        one_line(caught)
        silent.setblocking(False)
        for _ in range(s3_path.ATTEMPTS):
            silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_service_that_stops_answering_while_a_file_is_read(bucket: S3Path, s3_server: S3Server) -> None:
    path = bucket / "file"
    path.write_bytes(bytes(9 * 2**20))
    with path.open() as stream:
        assert stream.read(10) == bytes(10)
        s3_server.fault = lambda _: Response("", 403)
        with pytest.raises(StoreError, match=r"^s3://bucket/file: access is refused"):
            stream.read()


def test_json_that_another_run_replaces_meanwhile_is_read_again(root: StorePath) -> None:
    """What pyarrow does: it asks for the length, and then for so many bytes of what is there by then."""
    path = put(root / "recall.json", b'{"recall": 1}')
    stop = threading.Event()

    def replace() -> None:
        contents = [json.dumps({"recall": n, "more": "x" * 40 * (n % 2)}).encode() for n in range(2)]
        n = 0
        while not stop.is_set():
            path.write_bytes(contents[n % 2]) if isinstance(path, S3Path) else write_bytes(path, contents[n % 2])
            n += 1
            time.sleep(0.03)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        assert {read_json(path)["recall"] for _ in range(60)} <= {0, 1}
    finally:
        stop.set()
        writer.join()


def test_json_that_is_none_is_an_error(root: StorePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_path, "_JSON_PAUSE_S", 0.0)
    with pytest.raises(ValueError, match="Expecting"):
        read_json(put(root / "broken.json", b'{"recall"'))
    with pytest.raises(FileNotFoundError):
        read_json(root / "nowhere.json")
