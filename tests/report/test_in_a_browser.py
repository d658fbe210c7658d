"""The page in a headless Chromium: somebody clicks through it, and axe looks for barriers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from hydraopt.report import build
from hydraopt.report.page import render
from tests.report.browser import (
    AXE,
    DESKTOP,
    PHONE,
    SCHEMES,
    barriers,
    chromium,
    ready,
    until,
    why_not,
)
from tests.report.conftest import HOSTILE, Made

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


@pytest.fixture(scope="module")
def page(made: Made, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(
        render(build(made.bundle, sorted(made.adapters.iterdir()), [made.result])), encoding="utf-8"
    )
    return file.as_uri()


@contextmanager
def opened(address: str, size: tuple[int, int] = DESKTOP) -> Iterator[Any]:
    with chromium(*size) as driver:
        driver.get(address)
        ready(driver)
        yield driver
        assert [x for x in driver.get_log("browser") if x["level"] == "SEVERE"] == []


def text_of(driver: Any, selector: str) -> str:
    return str(driver.find_element("css selector", selector).text)


def names_in(driver: Any) -> list[str]:
    # In one step: the list may be drawn anew at any moment.
    script = "return [...document.querySelectorAll('#tasks tbody th a')].map(x => x.textContent)"
    return list(driver.execute_script(script))


def click_through(driver: Any) -> None:
    """What every visitor does: filter, order, look at a task, and go back."""
    assert len(names_in(driver)) == 6
    assert names_in(driver)[0] == HOSTILE  # five of twelve answers: the most
    box = driver.find_element("id", "query")
    box.send_keys("DATES")
    until(driver, lambda: set(names_in(driver)) == {"dates-de", "dates-en", "dates-fr"})
    box.clear()
    box.send_keys(" \b")
    until(driver, lambda: len(names_in(driver)) == 6)
    driver.find_element("css selector", "#by-language option[value=en]").click()
    until(driver, lambda: set(names_in(driver)) == {"dates-en", "moods-en"})
    driver.find_element("css selector", "#by-language option[value='']").click()
    until(driver, lambda: len(names_in(driver)) == 6)
    driver.find_element("css selector", "#tasks th button").click()
    until(driver, lambda: names_in(driver) == sorted(names_in(driver)))
    assert len(names_in(driver)) == 6
    links = driver.find_elements("css selector", "#tasks tbody th a")
    next(x for x in links if x.text.startswith("<script>")).click()
    until(driver, lambda: driver.find_elements("id", "task"))
    assert driver.find_element("css selector", "#task h2").get_attribute("textContent") == HOSTILE
    assert driver.switch_to.active_element.tag_name == "h2"
    assert [x.text for x in driver.find_elements("css selector", "#task del")] == [
        "only the original wrote this",
        "May",
    ]
    assert "<b>note</b> of a task" in text_of(driver, "#task")
    assert "<img src=x onerror=alert(2)>" in text_of(driver, "#task")
    driver.find_element("css selector", "#task summary").click()
    until(driver, lambda: len(driver.find_elements("css selector", "#task details tbody tr")) == 6)
    driver.find_element("css selector", "#task a").click()
    until(driver, lambda: not driver.find_elements("css selector", "#single:not([hidden])"))


def test_a_visitor_clicks_through_the_page(page: str) -> None:
    with opened(page) as driver:
        click_through(driver)
        said = text_of(driver, "#sizes .card")
        assert "This bundle" in said
        slider = driver.find_element("id", "size")
        slider.send_keys("\ue012")  # the left arrow: the next smaller size
        assert text_of(driver, "#sizes .card") != said
        options = driver.find_elements("css selector", "#measure option")
        for option in options:
            option.click()
            assert driver.find_elements("css selector", "#sizes figure svg[role=img]")
        assert len(options) == 3  # measures that more than one size has
        for option in driver.find_elements("css selector", "#map-of option"):
            option.click()
            assert len(driver.find_elements("css selector", "#map figure svg rect")) >= 36
        assert driver.find_elements("css selector", "#shared figure svg[role=img]")


def test_nothing_runs_that_a_name_holds(page: str) -> None:
    from selenium.common.exceptions import NoAlertPresentException

    with opened(page) as driver:
        with pytest.raises(NoAlertPresentException):
            _ = driver.switch_to.alert
        assert not driver.find_elements("css selector", "main script, main img, main b")
        script = "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        driver.execute_script(script + "document.body.append(s);")
        assert driver.execute_script("return window.ran") is None  # its policy has no such hash
        log = [x["message"] for x in driver.get_log("browser")]
        assert any("Content Security Policy" in x for x in log)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_page_is_wider_than_its_window(page: str, size: tuple[int, int]) -> None:
    with opened(page, size) as driver:
        wide = "return document.documentElement.scrollWidth - window.innerWidth"
        assert driver.execute_script(wide) <= 0
        driver.get(f"{page}#task=dates-de")
        driver.refresh()
        ready(driver)
        assert text_of(driver, "#task h2") == "dates-de"
        assert driver.execute_script(wide) <= 0


@pytest.mark.skipif(not AXE, reason="HYDRAOPT_AXE does not name axe.min.js of npm's axe-core")
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_sees_no_barrier(page: str, size: tuple[int, int], scheme: str) -> None:
    with opened(page, size) as driver:
        for hash_ in ("", "#task=dates-de"):
            wrong = barriers(driver, f"{page}{hash_}", scheme)
            assert wrong == [], json.dumps(wrong, indent=1)


def test_explore_is_the_same_page(made: Made) -> None:
    command = [sys.executable, "-m", "hydraopt", "report", str(made.bundle), str(made.result)]
    command.append("--serve")
    with subprocess.Popen(
        [*command, "--port", "0", "--json"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            lines = [""]
            while not lines[-1].startswith("}"):
                lines.append(server.stdout.readline())
                assert lines[-1], "the server did not start"
            said = json.loads("".join(lines))
            assert said["tasks"] == 6
            with opened(said["address"]) as driver:
                click_through(driver)
        finally:
            server.terminate()
    assert server.returncode == 143


def test_people_have_a_section_that_says_what_changed(page: str) -> None:
    with opened(page) as driver:
        text = text_of(driver, "#people")
        assert "winobias" in text
        assert "1 group changed in one direction by more than chance:" in text
        assert "alert(1)" in text
        assert "People" in text_of(driver, "#sections")
