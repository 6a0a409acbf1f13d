"""The docs' snippets run, in the order of each page, on a small store; the settings page is what the models say."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO
from unittest.mock import patch

import pytest
import yaml
from conftest import write_photos
from prefect.settings import PREFECT_API_URL

from flows import cli
from flows.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
SNIPPET = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Not run: they are what .ci/run itself runs, or they would not end.
ELSEWHERE = re.compile(r"^(git clone|make |cd |placeprint ui$|\.venv/bin/placeprint ui)", re.MULTILINE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:  # noqa: ARG001
    """A folder with `photos` and the store of a small demo in it."""
    from flows.pipeline import pipeline
    from flows.settings import load_settings

    root = tmp_path_factory.mktemp("docs")
    write_photos(root / "photos")
    (root / "configs").symlink_to(ROOT / "configs")
    overrides = [f"store={root / 'store'}", "collect.sources.0.images_per_country=3", "fit.n_resamples=100"]
    overrides.append("collect.sources.0.maps=[satellite]")
    assert pipeline(load_settings(ROOT / "configs/demo.yaml", overrides)) is not None
    return root


def in_this_process(arguments: list[str]) -> int:
    """What ``placeprint`` does, without a process of its own: most of that one's time goes into importing torch."""
    with patch.object(sys, "argv", ["placeprint", *arguments]), pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0


def texts(questions: BinaryIO, n: int) -> list[str]:
    """The next `n` texts, each ended by a null character; fewer when nobody can ask any more."""
    found = bytearray()
    while found.count(0) < n and (byte := questions.read(1)):
        found += byte
    return found.decode().split("\0")[:-1]


def run_bash(code: str) -> None:
    """Run a snippet in bash, where ``placeprint`` is a function that has this process do it and waits for the code."""
    (asked, asking), (answered, answering) = os.pipe(), os.pipe()
    placeprint = rf"""placeprint() {{
      local code
      printf '%s\0' $# "$@" >&{asking}
      read -r code <&{answered}
      return "$code"
    }}
    """
    with (
        subprocess.Popen(["bash", "-euc", placeprint + code], pass_fds=(asking, answered)) as bash,
        os.fdopen(asked, "rb", buffering=0) as questions,
        os.fdopen(answering, "w") as answers,
    ):
        os.close(asking)
        os.close(answered)
        while count := texts(questions, 1):
            print(in_this_process(texts(questions, int(count[0]))), file=answers, flush=True)
    assert bash.returncode == 0, code


def run_python(code: str, page: Path) -> str:
    """Run a page's snippets, one after the other, and return what they print."""
    if "use_store(" in code:  # shows what comes before Prefect is imported
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=400, check=False)
        assert run.returncode == 0, run.stderr
        return run.stdout
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, page, "exec"), {"__name__": page.stem})  # noqa: S102  (ours)
    return printed.getvalue()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))  # for processes that a snippet starts
    python = []
    for language, code in SNIPPET.findall(page.read_text()):
        if language == "bash" and not ELSEWHERE.search(code):
            run_bash(code)
        elif language == "yaml":
            Settings.model_validate(yaml.safe_load(code))
        elif language == "python":
            python.append(code)
    if python:
        printed = run_python("\n".join(python), page)
        for expected in re.findall(r"print\(.*\)  # (.+)", "\n".join(python)):
            assert expected in printed


def test_settings_page_is_what_the_models_say() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import write_settings_page; print(write_settings_page.page(), end='')"],
        cwd=ROOT / "scripts",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == (ROOT / "docs/settings.md").read_text(), "run `make docs`"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"
