"""The page in headless Chromium: a quiet console, nothing fetched, and what its script does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.report.__main__ import main
from tests.tasks.report.report_fakes import write_configs, write_results, write_runs

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")


def find_browser() -> str | None:
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = find_browser()
    if program is None:
        pytest.skip(
            f"no browser: none of {', '.join(NAMES)} is installed, and $CHROMIUM is not set"
        )
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root, as tests in a container do.
        started = playwright.chromium.launch(executable_path=program, chromium_sandbox=False)
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    results, configs = write_results(folder / "results"), write_configs(folder / "configs")
    runs, out = write_runs(folder / "runs"), folder / "out"
    arguments = ["--results", results, "--configs", configs, "--runs", runs, "--out", out]
    assert main([str(a) for a in arguments]) == 0
    return (out / "index.html").as_uri()


def opened(browser: Any, address: str, width: int, scheme: str) -> tuple[Any, list[str]]:
    """The page, and what went wrong or out of it."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    noise: list[str] = []
    page.on("console", lambda message: noise.append(message.text))
    page.on("pageerror", lambda error: noise.append(str(error)))
    page.on("requestfailed", lambda request: noise.append(f"failed: {request.url}"))

    def requested(request: Any) -> None:
        if not request.url.startswith("data:") and request.url != address:
            noise.append(request.url)

    page.on("request", requested)
    page.goto(address)
    return page, noise


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (360, "dark")])
def test_it_opens_without_a_word(browser: Any, address: str, width: int, scheme: str) -> None:
    page, noise = opened(browser, address, width, scheme)
    assert page.locator("table.sortable").count() >= 3
    assert page.locator("table.heat").count() >= 3
    assert page.locator("svg").count() >= 8
    for picture in page.locator("img").all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("i => i.decode().then(() => i.naturalWidth)") == 1100
    # Wide tables scroll by themselves, the page does not.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert noise == []
    page.close()


def test_tables_sort_by_number_and_leave_empty_cells_last(browser: Any, address: str) -> None:
    page, noise = opened(browser, address, 1200, "light")
    first = page.locator("table.sortable").first
    head = first.locator("th", has_text="mean corruption error")

    def methods() -> list[str]:
        return first.locator("tbody tr td:nth-child(2)").all_inner_texts()

    assert methods() == ["baseline", "CN", "SN"]
    head.locator("button").click()
    assert methods() == ["CN", "baseline", "SN"] and head.get_attribute("aria-sort") == "ascending"
    head.locator("button").click()
    # SN has not run: last all the same.
    assert methods() == ["baseline", "CN", "SN"]
    speed = page.locator("#benchmark_x table")
    speed.locator("button", has_text="images/s").click()
    # 1,200 is more than 900, and not 1.
    assert speed.locator("tbody tr td:first-child").all_inner_texts() == ["b", "a"]
    assert noise == []
    page.close()


def test_the_theme_follows_the_system_until_its_button_is_pressed(
    browser: Any, address: str
) -> None:
    page, noise = opened(browser, address, 1200, "dark")

    def back() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    dark = back()
    button = page.locator("#theme")
    assert button.inner_text() == "Light"
    button.click()
    light = back()
    assert light != dark and button.inner_text() == "Dark"
    page.emulate_media(color_scheme="light")
    assert back() == light
    button.click()
    assert back() == dark
    page.close()
    other, more = opened(browser, address, 1200, "light")
    assert other.evaluate("getComputedStyle(document.body).backgroundColor") == light
    other.close()
    assert noise == more == []


def test_views_and_pictures_answer_to_a_press(browser: Any, address: str) -> None:
    page, noise = opened(browser, address, 1200, "light")
    section = page.locator("section").first
    assert section.locator('[data-view="error in %"]').is_visible()
    section.locator("button", has_text="error against baseline").click()
    assert not section.locator('[data-view="error in %"]').is_visible()
    assert section.locator('[data-view="error against baseline"]').is_visible()
    zoom = page.locator(".zoom").first
    before = zoom.bounding_box()["width"]
    zoom.click()
    assert zoom.bounding_box()["width"] > 1.5 * before
    assert noise == []
    page.close()


def test_the_browser_is_looked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", "/opt/own")
    assert find_browser() == "/opt/own"
    monkeypatch.delenv("CHROMIUM")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_browser() is None
