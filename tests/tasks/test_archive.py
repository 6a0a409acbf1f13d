"""Archives of strangers: nothing leaves its place, nothing unfolds without end."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from services import jpeg, zipped

from storage.schemas import RejectReason
from tasks.collect import archive
from tasks.collect.archive import Archive, NotAnArchiveError, unfold_gzip
from tasks.images import ImageError

UNSAFE = ["../evil.jpg", "a/../../evil.jpg", "/etc/evil.jpg", "C:\\evil.jpg", "a\\b.jpg", "D:evil.jpg"]


def tarred(members: dict[str, bytes], *, links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        device = tarfile.TarInfo("dev.jpg")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_members_are_read_and_unsafe_ones_named(tmp_path: Path, pack: object) -> None:
    path = tmp_path / "a.archive"
    good = {"France/1.jpg": jpeg(1), "France/2.jpg": jpeg(2), "Perú/ü.jpg": jpeg(3)}
    path.write_bytes(pack({**good, **dict.fromkeys(UNSAFE, b"x")}, links={"link.jpg": "/etc/passwd"}))  # type: ignore[operator]
    opened = Archive(path)
    problems = {member.path: member.problem for member in opened.members}
    assert {name for name, problem in problems.items() if problem is None} == set(good)
    assert set(UNSAFE) <= set(problems)
    assert "link" in str(problems["link.jpg"])
    assert {name: opened.read(name, 10**6) for name in good} == good
    assert len(opened.read("France/1.jpg", 100)) == 101
    assert [each.name for each in tmp_path.iterdir()] == ["a.archive"]


def test_second_member_of_a_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("a.jpg", jpeg(1))
        with pytest.warns(UserWarning, match="Duplicate name"):
            packed.writestr("a.jpg", jpeg(2))
    assert [member.problem is None for member in Archive(path).members] == [True, False]


def test_encrypted_and_damaged_members(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.jpg": jpeg(1), "b.jpg": jpeg(2)}))
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        start = packed.getinfo("a.jpg").header_offset
    data[start + 60] ^= 255
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        Archive(path).read("a.jpg", 10**6)
    assert caught.value.reason is RejectReason.UNREADABLE
    assert Archive(path).read("b.jpg", 10**6) == jpeg(2)
    at = data.rindex(b"PK\x01\x02")  # the last entry of the directory: its flag says encrypted
    data[at + 8] |= 1
    path.write_bytes(data)
    assert [member.problem for member in Archive(path).members] == [None, "encrypted"]


@pytest.mark.parametrize("data", [b"", b"<html>log in</html>", bytes(5000), zipped({"a": jpeg(1)})[:200]])
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.archive"
    path.write_bytes(data)
    try:
        members = Archive(path).members
    except NotAnArchiveError:
        return
    assert members == ()  # zeros are an empty tar: the source refuses an archive without files


def test_compressed_tar_is_unfolded_and_a_bomb_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.archive"
    path.write_bytes(gzip.compress(tarred({"France/1.jpg": jpeg(1)})))
    unfold_gzip(path)
    assert Archive(path).read("France/1.jpg", 10**6) == jpeg(1)
    monkeypatch.setattr(archive, "MIN_CAP_BYTES", 1_000_000)
    bomb = gzip.compress(bytes(50_000_000))
    path.write_bytes(bomb)
    with pytest.raises(NotAnArchiveError, match="unfolds to more than"):
        unfold_gzip(path)
    assert path.read_bytes() == bomb
    assert [each.name for each in tmp_path.iterdir()] == ["a.archive"]
    path.write_bytes(gzip.compress(tarred({"a.jpg": jpeg(1)}))[:-20])
    with pytest.raises(NotAnArchiveError):
        unfold_gzip(path)


def test_zip_bomb_is_cut_at_the_cap(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"a.jpg": bytes(100_000_000)}))
    (member,) = Archive(path).members
    assert member.bytes == 100_000_000
    assert len(Archive(path).read("a.jpg", 1000)) == 1001
