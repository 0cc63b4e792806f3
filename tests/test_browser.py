"""A report in a real browser: drawn, quiet, offline, usable by mouse, keyboard and on a phone.

`python tests/test_browser.py REPORT.html DIR` writes report-desktop.png and report-phone.png of a report.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

PUBLISHED = Path(__file__).parents[1] / "results/h100-2026-11-22-seed"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
DESKTOP, PHONE = (1280, 900), (390, 844)
SHOTS = (("desktop", DESKTOP, "light", "figures-seq_len-forward"), ("phone", PHONE, "dark", ""))

if not (CHROMIUM and DRIVER) and "CI" not in os.environ:  # CI installs them, and must fail if it did not
    pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)", allow_module_level=True)


def browser() -> Chrome:
    options = ChromeOptions()
    options.binary_location = CHROMIUM or "chromium"
    for word in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options=options, service=ChromeService(DRIVER or "chromedriver"))


def show(driver: Chrome, file: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> None:
    screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    driver.get(file.as_uri())


def draw_all(driver: Chrome) -> None:
    driver.set_script_timeout(100)
    driver.execute_async_script("const done = arguments[0]; drawAll().then(() => done())")


def panel(driver: Chrome, anchor: str) -> WebElement:
    """The first panel of a figure, scrolled to and drawn."""
    found = driver.find_element(By.CSS_SELECTOR, f"#{anchor} .panel")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
    WebDriverWait(driver, 60).until(lambda _: found.get_attribute("data-drawn"))
    return found


def marks(found: WebElement) -> list[WebElement]:
    return found.find_elements(By.CSS_SELECTOR, ".mark-symbol path[fill]:not([fill=transparent])")


@pytest.fixture(scope="module")
def opened() -> Iterator[Chrome]:
    driver = browser()
    yield driver
    driver.quit()


@pytest.fixture
def page(opened: Chrome) -> Chrome:
    """The published report, on a desktop, in light."""
    show(opened, PUBLISHED / "report.html")
    return opened


def test_every_figure_is_drawn_without_a_word_in_the_console_or_on_the_network(opened: Chrome) -> None:
    opened.get_log("browser"), opened.get_log("performance")
    show(opened, PUBLISHED / "report.html")
    draw_all(opened)
    assert opened.get_log("browser") == []
    told = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in told if each["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [(PUBLISHED / "report.html").as_uri()]
    empty = """return [...document.querySelectorAll('.panel')].filter((each) =>
        !each.querySelector('svg .mark-symbol path, svg .mark-rect path')).map((each) => each.dataset.figure)"""
    assert opened.execute_script(empty) == []
    assert opened.execute_script("return document.querySelectorAll('.panel').length") > 60


def test_nothing_is_drawn_before_it_is_looked_at(page: Chrome) -> None:
    assert page.find_elements(By.CSS_SELECTOR, "#figures-emb_dim-memory [data-drawn]") == []
    assert marks(panel(page, "figures-emb_dim-memory"))


def test_a_mark_says_its_numbers_when_pointed_at_and_others_fade(page: Chrome) -> None:
    found = panel(page, "figures-seq_len-forward")
    mark = next(each for each in marks(found) if "backend: naive" in (each.get_attribute("aria-label") or ""))
    ActionChains(page).move_to_element(mark).perform()
    tip = WebDriverWait(page, 20).until(lambda _: page.find_element(By.CSS_SELECTOR, "#vg-tooltip-element.visible"))
    assert "naive" in tip.text and "p95" in tip.text and "undefined" not in tip.text
    fades = "return [...arguments[0].querySelectorAll('.mark-line path')].map((each) => +each.getAttribute('opacity'))"
    WebDriverWait(page, 20).until(lambda _: sorted(page.execute_script(fades, found))[-2:] == [0.2, 1])


def test_a_backend_is_hidden_in_every_figure_and_shown_again(page: Chrome) -> None:
    first, second = panel(page, "figures-seq_len-forward"), panel(page, "figures-seq_len-backward")
    before = len(marks(first)), len(marks(second))
    button = page.find_element(By.CSS_SELECTOR, "#figures-seq_len-backward [data-backend=naive]")
    button.click()
    WebDriverWait(page, 20).until(lambda _: len(marks(second)) == before[1] - 4 and len(marks(first)) == before[0] - 4)
    buttons = page.find_elements(By.CSS_SELECTOR, "[data-backend=naive]")
    assert {each.get_attribute("aria-pressed") for each in buttons} == {"false"}
    button.click()
    WebDriverWait(page, 20).until(lambda _: (len(marks(first)), len(marks(second))) == before)


def test_a_table_is_sorted_and_filtered_by_the_keyboard(page: Chrome) -> None:
    table = page.find_element(By.CSS_SELECTOR, "#overview .table")
    button = next(each for each in table.find_elements(By.CSS_SELECTOR, "thead button") if "time" in each.text)

    def times() -> list[float]:
        shown = (
            "return [...arguments[0].querySelectorAll('tbody tr:not([hidden])')].map((row) => +row.cells[3].dataset.n)"
        )
        return page.execute_script(shown, table)

    for key, order in ((Keys.ENTER, "ascending"), (Keys.SPACE, "descending")):
        button.send_keys(key)
        assert button.find_element(By.XPATH, "..").get_attribute("aria-sort") == order
        assert times() == sorted(times(), reverse=order == "descending") and len(times()) == 23
    table.find_element(By.TAG_NAME, "input").send_keys("seed/seq_len 16×512")
    WebDriverWait(page, 20).until(lambda _: len(times()) == 1)
    assert table.find_element(By.TAG_NAME, "output").text == "1 of 23 rows"


def test_the_keyboard_alone_reaches_the_report(page: Chrome) -> None:
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the report"
    page.switch_to.active_element.send_keys(Keys.ENTER, Keys.TAB)
    assert page.execute_script("return document.activeElement.closest('#overview') !== null")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dark_and_light_follow_the_reader_and_the_charts_follow_them(opened: Chrome, scheme: str) -> None:
    show(opened, PUBLISHED / "report.html", scheme=scheme)
    opened.find_element(By.CSS_SELECTOR, "#overview h2").click()

    def naive() -> Any:
        found = panel(opened, "figures-seq_len-forward")
        seen = """return [arguments[0].dataset.drawn, getComputedStyle(document.body).backgroundColor,
            arguments[0].querySelector('.mark-line path')?.getAttribute('stroke')]"""
        return opened.execute_script(seen, found)

    look = {"light": ["light", "rgb(255, 255, 255)", "#000000"], "dark": ["dark", "rgb(20, 23, 28)", "#f5f5f5"]}
    WebDriverWait(opened, 60).until(lambda _: naive() == look[scheme])
    opened.find_element(By.ID, "theme").click()
    other = "dark" if scheme == "light" else "light"
    WebDriverWait(opened, 60).until(lambda _: naive() == look[other])


@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 640)])
def test_the_page_fits_its_window(opened: Chrome, size: tuple[int, int]) -> None:
    show(opened, PUBLISHED / "report.html", size)
    for fold in opened.find_elements(By.TAG_NAME, "details"):
        opened.execute_script("arguments[0].open = true", fold)
    draw_all(opened)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= size[0]


def test_a_screen_reader_is_told_of_tables_and_charts(page: Chrome) -> None:
    panel(page, "figures-seq_len-forward")
    chart = page.find_element(By.CSS_SELECTOR, "#figures-seq_len-forward [role=graphics-document]")
    assert "time, TFLOP/s and speed against naive along seq_len" in (chart.get_attribute("aria-label") or "")
    unnamed = """return [...document.querySelectorAll('table')].filter((each) => !each.caption?.textContent
        || [...each.tHead.rows[0].cells].some((head) => head.scope !== 'col')
        || [...each.tBodies[0].rows].some((row) => row.cells[0].scope !== 'row')).length"""
    assert page.execute_script(unnamed) == 0
    assert page.execute_script("return document.documentElement.lang") == "en"


def screenshots(file: Path, folder: Path) -> None:
    driver = browser()
    for name, size, scheme, anchor in SHOTS:
        show(driver, file, size, scheme)
        draw_all(driver)
        driver.execute_script("document.getElementById(arguments[0])?.scrollIntoView()", anchor)
        driver.save_screenshot(str(folder / f"report-{name}.png"))
    driver.quit()


if __name__ == "__main__":
    screenshots(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
