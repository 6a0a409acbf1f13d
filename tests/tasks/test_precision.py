"""Which precision `auto` is: by the CPU's flags, by a probe where they do not tell, by the GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.errors import PlaceprintError
from tasks.encode import precision
from tasks.encode.precision import choose_precision, cpu_flags, has_native_bfloat16


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """Says what the CPU is: the content of /proc/cpuinfo, or None for a system without."""
    monkeypatch.setenv("PLACEPRINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "n_gpus", lambda: 0)
    cpu_flags.cache_clear()

    def pretend(content: str | None) -> None:
        cpu_flags.cache_clear()
        path = tmp_path / "cpuinfo"
        if content is not None:
            path.write_text(content)
        monkeypatch.setattr(precision, "_CPUINFO", path)

    yield pretend
    cpu_flags.cache_clear()


X86 = "processor\t: 0\nmodel name\t: a CPU\nflags\t\t: fpu sse2 avx512f {}\nbugs\t\t: none\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd {}\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (X86.format("avx512_bf16"), "bfloat16"),
        (X86.format("amx_bf16 amx_tile"), "bfloat16"),
        (X86.format("avx512_vnni"), "float32"),
        (ARM.format("i8mm"), "float32"),
    ],
)
def test_flags_decide(cpu: object, content: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_probe() -> bool:
        raise AssertionError

    monkeypatch.setattr(precision, "_is_faster_in_bfloat16", no_probe)
    cpu(content)  # type: ignore[operator]
    assert choose_precision("auto", "auto") == choose_precision("auto", "cpu") == expected


@pytest.mark.parametrize("content", [ARM.format("bf16"), None])
def test_a_probe_decides_in_doubt_and_its_answer_is_kept(
    cpu: object, content: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answers = iter([True])
    monkeypatch.setattr(precision, "_is_faster_in_bfloat16", lambda: next(answers))
    cpu(content)  # type: ignore[operator]
    assert [has_native_bfloat16() for _ in range(3)] == [True] * 3
    (kept,) = (tmp_path / "cache").glob("bfloat16-*")
    assert kept.read_text() == "native"


def test_probe_runs() -> None:
    assert precision._is_faster_in_bfloat16() in (True, False)


def test_gpus_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "n_gpus", lambda: 1)
    monkeypatch.setattr(precision, "_on_gpu", lambda device: f"of {device}")
    assert choose_precision("auto", "auto") == "of auto"
    assert choose_precision("auto", "cuda:1, cuda:2") == "of cuda:1"
    assert choose_precision("float16", "auto") == "float16"


def test_what_is_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "n_gpus", lambda: 0)
    assert choose_precision("float32", "cpu") == "float32"
    with pytest.raises(PlaceprintError, match="float16 is for GPUs"):
        choose_precision("float16", "auto")
