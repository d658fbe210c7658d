"""Pages of bundles with many tasks, with much and little harm, and of image models, in Chromium."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.bundle import Harm, pack_bundle
from hydraopt.merging import merge
from hydraopt.report import build
from hydraopt.report.data import SizeRow
from hydraopt.report.page import render
from tests.bundle.bundles import tiny
from tests.conftest import write_adapter
from tests.report.browser import DESKTOP, chromium, ready, until, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
ANSWERS = 128
CHANGED = {"dates-de": 0, "dates-en": 1, "moods-de": 6, "moods-en": ANSWERS}


@contextmanager
def opened(address: str, size: tuple[int, int] = DESKTOP) -> Iterator[Any]:
    with chromium(*size) as driver:
        driver.get(address)
        ready(driver)
        yield driver
        assert [x for x in driver.get_log("browser") if x["level"] == "SEVERE"] == []


def page_of(bundle: Path) -> str:
    file = bundle.parent / f"{bundle.name}.html"
    file.write_text(render(build(bundle)), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def many(folder: Path) -> Path:
    """More tasks than are compared."""
    tiny([f"task{i:03}" for i in range(120)]).write(folder / "many")
    return folder / "many"


@pytest.fixture(scope="module")
def harmed(folder: Path) -> str:
    """The page of a bundle whose tasks keep all, nearly all, and none of their answers."""
    parts = tiny(list(CHANGED))
    tasks = []
    for task in parts.manifest.tasks:
        share = CHANGED[task.name] / ANSWERS
        harm = Harm(CHANGED[task.name], ANSWERS, min(share + 0.001, 1.0), 0.1 * share, True)
        tasks.append(dataclasses.replace(task, harm=harm))
    manifest = dataclasses.replace(parts.manifest, tasks=tuple(tasks))
    pack_bundle(manifest, *parts.args[1:]).write(folder / "harmed")
    page = build(folder / "harmed")
    (own,) = page.sizes
    known = {key: value for key, value in own.values.items() if key != "changed"}
    others = [SizeRow("measured", "x", own.size // part, known) for part in (4, 2)]
    file = folder / "harmed.html"
    file.write_text(render(dataclasses.replace(page, sizes=(*others, own))), encoding="utf-8")
    return file.as_uri()


@pytest.fixture(scope="module")
def image(folder: Path) -> str:
    rng = np.random.default_rng(0)
    paths = [f"unet.up_blocks.{i}.attentions.0.transformer_blocks.0.attn2.to_k" for i in range(4)]
    for name in ("cat", "dog"):
        pairs = {x: (rng.standard_normal((32, 4)), rng.standard_normal((4, 24))) for x in paths}
        write_adapter(folder / "images" / name, pairs)
    merge(folder / "images" / "*", folder / "image", size="50%", workers=1)
    return page_of(folder / "image")


def dead_controls(driver: Any) -> list[str]:
    script = "return [...document.querySelectorAll('input, select')].filter(x => x.disabled)"
    return [str(x.get_attribute("id")) for x in driver.execute_script(script)]


def check_one_size(driver: Any) -> None:
    """The size is stated; there is no chart of one point, and nothing to move along it."""
    section = driver.find_element("css selector", "#sizes")
    assert " kB" in section.text
    assert not section.find_elements("css selector", "svg, input, select")
    assert dead_controls(driver) == []


def test_a_report_of_many_tasks_has_no_chart_of_one_size(many: Path) -> None:
    with opened(page_of(many)) as driver:
        check_one_size(driver)
        assert "120" in driver.find_element("css selector", "#tasks").text


def test_each_measure_that_can_be_chosen_has_a_curve(harmed: str) -> None:
    """The measured share of answers is known at one size alone, the others at several."""
    with opened(harmed) as driver:
        options = driver.find_elements("css selector", "#measure option")
        assert options
        for option in options:
            option.click()
            assert dead_controls(driver) == []
            assert int(driver.find_element("id", "size").get_attribute("max")) >= 1


def test_an_image_model_has_no_section_without_content(image: str) -> None:
    with opened(image) as driver:
        there = {x.get_attribute("id") for x in driver.find_elements("css selector", "section[id]")}
        links = driver.find_elements("css selector", "#sections a")
        assert {str(x.get_attribute("href")).partition("#")[2] for x in links} == there
        assert {"sizes", "tasks", "map", "made"} <= there
        assert not there & {"examples", "groups", "people"}
        heads = driver.find_elements("css selector", "#tasks thead th")
        assert not {"Language", "Group"} & {x.text for x in heads}
        driver.find_element("css selector", "#tasks tbody a").click()
        until(driver, lambda: driver.find_elements("css selector", "#single h3"))
        titles = driver.find_elements("css selector", "#single h3")
        assert [x.text for x in titles] == ["Layers"]
