"""The report as a person sees it: opened in headless Chromium, with nothing fetched from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import write_photos
from playwright.sync_api import Browser

from flows.settings import load_settings

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Path:  # noqa: ARG001
    """The report on a folder whose labels and file names try to break out of the page."""
    from flows.pipeline import pipeline

    root = tmp_path_factory.mktemp("report")
    write_photos(root / "photos", 36, ("Egypt", "France", "<script>alert(1)<script>"))
    (root / "photos" / "Egypt" / "broken.jpg").write_bytes(b"x")
    overrides = [
        f"store={root / 'store'}",
        f"collect.sources.0.path={root / 'photos'}",
        "publish.title=Test & <i>report</i>",
    ]
    page = pipeline(load_settings(ROOT / "configs/folder.yaml", [*overrides, "fit.n_resamples=100"]))
    assert page is not None
    return page


def test_report_opens_without_a_word_in_the_console(page_file: Path, browser: Browser) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    requested: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    tab.on("request", lambda request: requested.append(request.url))
    tab.goto(page_file.as_uri())
    assert tab.title() == "Test & <i>report</i>"
    header = tab.locator("#metrics thead th").all_inner_texts()
    assert header[:5] == ["head", "configuration", "n", "accuracy %", "top-5 %"]
    heads = tab.locator("#metrics tbody tr td:first-child").all_inner_texts()
    assert heads == ["majority-class", "zero-shot", "zero-shot", "logistic-regression"]
    assert tab.locator("#rejects tbody tr").all_inner_texts() == ["photos\tnot_an_image\t1"]
    assert "<script>alert(1)<script>" in tab.inner_text("body")
    broken = tab.evaluate("[...document.images].filter(image => !image.complete || !image.naturalWidth).length")
    assert broken == 0
    assert tab.locator("svg").count() == 5  # labels, split, thresholds, calibration, confusion
    assert said == []
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tab.screenshot(path=SCREENSHOTS / "report.png", full_page=True)


def test_report_is_readable_on_a_phone(page_file: Path, browser: Browser) -> None:
    tab = browser.new_page(viewport={"width": 390, "height": 800})
    tab.goto(page_file.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.screenshot(path=SCREENSHOTS / "report-phone.png")
