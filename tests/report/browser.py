"""A headless Chromium for the tests and the benchmark of the pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["chromium", "ready", "why_not"]


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
    from selenium.webdriver.support.ui import WebDriverWait

    said = "return document.body && document.body.dataset.ready"
    WebDriverWait(driver, seconds, 0.05).until(lambda d: d.execute_script(said))
    return float(driver.execute_script(said))
