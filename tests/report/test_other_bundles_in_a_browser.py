"""Pages of bundles with many tasks, with much and little harm, and of image models, in Chromium."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hydraopt.bundle.harm import Harm
from hydraopt.bundle.writer import pack_bundle
from hydraopt.merging.merge import merge
from hydraopt.report.build import build
from hydraopt.report.model import SizeRow
from hydraopt.report.page import render
from tests.bundle.bundles import tiny
from tests.conftest import write_adapter
from tests.report.browser import DESKTOP, PHONE, chromium, ready, until, why_not

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
SIZES = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
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
    """More tasks than other sizes are planned for."""
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
    # So small a bundle cannot be shrunk: other sizes are made up.
    (own,) = page.sizes
    known = {key: value for key, value in own.values.items() if key != "changed"}
    others = [SizeRow("estimated", "", own.size // part, known) for part in (4, 2)]
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


def test_an_explorer_of_many_tasks_has_no_chart_of_one_size(many: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "hydraopt",
        "report",
        str(many),
        "--serve",
        "--port",
        "0",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            lines = [""]
            while not lines[-1].startswith("}"):
                lines.append(server.stdout.readline())
                assert lines[-1], "the server did not start"
            with opened(json.loads("".join(lines))["address"]) as driver:
                check_one_size(driver)
        finally:
            server.terminate()


def test_each_measure_that_can_be_chosen_has_a_curve(harmed: str) -> None:
    """The measured share of answers is known at one size alone, the others at several."""
    with opened(harmed) as driver:
        options = driver.find_elements("css selector", "#measure option")
        assert options
        for option in options:
            option.click()
            assert dead_controls(driver) == []
            assert int(driver.find_element("id", "size").get_attribute("max")) >= 1


def ticks(driver: Any, figure: str) -> dict[str, tuple[float, float]]:
    """Centre of each text of a figure."""
    script = """
      return [...document.querySelectorAll(`${arguments[0]} svg text`)].map((x) => {
        const box = x.getBoundingClientRect();
        return [x.textContent, [box.x + box.width / 2, box.y + box.height / 2]];
      });
    """
    return {text: tuple(at) for text, at in driver.execute_script(script, figure)}


@SIZES
def test_small_harm_can_be_read_beside_large_harm(harmed: str, size: tuple[int, int]) -> None:
    with opened(harmed, size) as driver:
        options = driver.find_elements("css selector", "#measure option[value=likely]")
        options[0].click()
        axes = (("#sizes figure", 1), ("#groups figure", 0))
        for figure, along in axes:
            at = {text: place[along] for text, place in ticks(driver, figure).items()}
            small = [abs(at[x] - at["0"]) for x in ("1", "2", "3", "4", "5") if x in at]
            assert max(small) > abs(at["100"] - at["0"]) / 5


@SIZES
def test_no_label_covers_a_mark(harmed: str, image: str, size: tuple[int, int]) -> None:
    script = """
      const charts = document.querySelectorAll("#sizes figure svg, #groups figure svg");
      return [...charts].map((svg) => {
        const placed = (kinds) => [...svg.querySelectorAll(kinds)]
          .map((x) => [x, x.getBoundingClientRect()]);
        const shapes = placed("circle, path");
        const marks = shapes.map(([, x]) => x)
          .filter((x) => x.width > 5 && x.width < 30 && x.height > 5);
        // A line is where it runs, not the box around it.
        for (const [line] of shapes.filter(([, x]) => x.width >= 30)) {
          const matrix = line.getScreenCTM();
          for (let i = 0; i < line.getTotalLength(); i += 2) {
            const { x, y } = line.getPointAtLength(i).matrixTransform(matrix);
            marks.push({ left: x, right: x, top: y, bottom: y });
          }
        }
        const over = placed("text").filter(([, a]) => marks.some((b) =>
          a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
        return [marks.length, over.map(([text]) => text.textContent)];
      });
    """
    for page in (harmed, image):
        with opened(page, size) as driver:
            for option in driver.find_elements("css selector", "#measure option"):
                option.click()
                charts = driver.execute_script(script)
                assert charts
                for marks, covered in charts:
                    assert marks >= 2
                    assert covered == []


def test_lists_take_the_width_of_the_page(harmed: str) -> None:
    script = """
      const width = (x) => document.querySelector(x).getBoundingClientRect().width;
      return [width("#tasks table"), width("#overview")];
    """
    with opened(harmed) as driver:
        table, whole = driver.execute_script(script)
        assert table > 0.95 * whole


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
