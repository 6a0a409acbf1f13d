"""The docs' snippets run, in the order of each page, on a small store; the settings page is what the models say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import write_photos
from prefect.settings import PREFECT_API_URL

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
    overrides = [f"store={root / 'store'}", "collect.sources.0.images_per_country=2", "fit.n_resamples=100"]
    assert pipeline(load_settings(ROOT / "configs/demo.yaml", overrides)) is not None
    return root


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page: Path, workplace: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
    }
    python = []
    for language, code in SNIPPET.findall(page.read_text()):
        if language == "bash" and not ELSEWHERE.search(code):
            run = subprocess.run(
                ["bash", "-euc", code],
                cwd=workplace,
                env=environment,
                capture_output=True,
                text=True,
                timeout=400,
                check=False,
            )
            assert run.returncode == 0, f"{code}\n{run.stdout}\n{run.stderr}"
        elif language == "yaml":
            Settings.model_validate(yaml.safe_load(code))
        elif language == "python":
            python.append(code)
    if python:
        run = subprocess.run(
            [sys.executable, "-c", "\n".join(python)],
            cwd=workplace,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        for expected in re.findall(r"print\(.*\)  # (.+)", "\n".join(python)):
            assert expected in run.stdout


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
