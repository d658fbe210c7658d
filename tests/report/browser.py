"""A headless Chromium for the tests and the benchmark of the pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = [
    "AXE",
    "DESKTOP",
    "PHONE",
    "SCHEMES",
    "barriers",
    "chromium",
    "ready",
    "until",
    "why_not",
]

AXE = os.environ.get("HYDRAOPT_AXE", "")
"""axe.min.js of the npm package axe-core."""
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
DESKTOP, PHONE = (1200, 900), (390, 844)
SCHEMES = ("light", "dark")


def why_not() -> str | None:
    """Why no browser can be driven here; None if one can."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"no {program} is installed"
    try:
        import selenium  # noqa: F401
    except ModuleNotFoundError:
        return "selenium is not installed"
    return None


@contextmanager
def chromium(width: int = 1200, height: int = 900) -> Iterator[Any]:
    """A driver with a window of that size, and a log of what its pages say."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    try:
        # Headless windows have a least width; a phone's is set as what the page sees.
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield driver
    finally:
        driver.quit()


def ready(driver: Any, seconds: float = 60.0) -> float:
    """Wait until the page has drawn itself; milliseconds from its start to then, as it says."""
    said = "return document.body && document.body.dataset.ready"
    until(driver, lambda: driver.execute_script(said), seconds)
    return float(driver.execute_script(said))


def until(driver: Any, true: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something is true: the page follows a click later."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, seconds, 0.05).until(lambda _: true())


def barriers(driver: Any, address: str, scheme: str) -> list[tuple[str, str, list[Any]]]:
    """What axe holds against a page with all its details open: (rule, what it says, some places).

    scheme: "light" or "dark". Needs AXE.
    """
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
    driver.get("about:blank")
    driver.get(address)
    ready(driver)
    for node in driver.find_elements("css selector", "details:not([open]) > summary"):
        if node.is_displayed():
            node.click()
    # Not as an element: the page's policy lets no other script in.
    driver.execute_script(Path(AXE).read_text(encoding="utf-8"))
    run = "const done = arguments[1]; axe.run(document, {runOnly: arguments[0]}).then(done);"
    said = driver.execute_async_script(run, RULES)
    if len(said["passes"]) <= 20:
        raise AssertionError("axe looked at next to nothing")
    return [
        (x["id"], x["help"], [(n["target"], n["html"][:120]) for n in x["nodes"][:3]])
        for x in said["violations"]
    ]
