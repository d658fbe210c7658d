"""Measure the report of a bundle, and of a large collection served: bytes, seconds, first view.

    python -m benchmarks.speed report BUNDLE... [--originals ADAPTER ...] [--results EVAL.json ...]

A page of each bundle is built and opened in a headless Chromium, which says when it had drawn
itself. axe looks for barriers on it and on a task's own page, on a desk and on a phone, light and
dark, if HYDRAOPT_AXE names axe.min.js of npm's axe-core. The collection is made of the first
bundle's own streams under other names, with harms drawn at random; its server is started
as a user would, and asked by the same browser. Needs chromium, chromedriver and selenium.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

import numpy as np

from benchmarks.commands import parser_of
from benchmarks.common import SPEED, provenance, write_result
from hydraopt import open_bundle
from hydraopt.bundle.harm import Harm
from hydraopt.bundle.writer import pack_bundle
from hydraopt.report.build import build
from hydraopt.report.page import render
from tests.report import browser

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "sw", "tr", "zh")


def write_collection(bundle: Path, path: Path, count: int, seed: int = 0) -> None:
    """Write a bundle of ``count`` tasks with the streams of another one's tasks."""
    rng = np.random.default_rng(seed)
    opened = open_bundle(bundle)
    entries = opened.manifest.tasks
    tasks = []
    for i in range(count):
        error = float(min(rng.lognormal(-1.2, 0.3), 0.45))
        likely = float(min(1.0, 0.2 * error * rng.lognormal(0, 0.7)))
        changed = int(rng.binomial(64, likely))
        tasks.append(
            dataclasses.replace(
                entries[i % len(entries)],
                name=f"skill{i // len(LANGUAGES):04d}-{LANGUAGES[i % len(LANGUAGES)]}",
                error=error,
                harm=Harm(changed, 64, likely, 0.1, True),
            )
        )
    manifest = dataclasses.replace(opened.manifest, tasks=tuple(tasks))
    streams = [opened.read(f"task/{i}") for i in range(opened.manifest.streams)]
    blobs = [opened.read(f"carried/{i}") for i in range(len(opened.manifest.blobs))]
    pack_bundle(manifest, opened.read("shared"), streams, blobs).write(path)


def page_row(
    bundle: Path,
    originals: Sequence[str],
    results: Sequence[Path],
    folder: Path,
    repeats: int,
) -> dict[str, Any]:
    """Return bytes of the page, seconds to build it, milliseconds until it is drawn, barriers."""
    started = time.perf_counter()
    text = render(build(bundle, originals, results))
    seconds = time.perf_counter() - started
    file = folder / "report.html"
    file.write_text(text, encoding="utf-8")
    with browser.chromium() as driver:
        shown = [_opened(driver, file.as_uri()) for _ in range(repeats)]
    tasks = open_bundle(bundle).manifest.tasks
    return {
        "what": "report",
        "tasks": len(tasks),
        "originals": bool(originals),
        "results": [path.name for path in results],
        "page_bytes": len(text.encode()),
        "build_seconds": round(seconds, 2),
        "drawn_ms": median(shown),
        "axe": _axe(file.as_uri(), tasks[0].name) if browser.AXE else None,
    }


def _axe(page: str, task: str) -> dict[str, Any]:
    """Return how often axe looked at the page, and the barriers that it saw, by rule."""
    looks, rules = 0, Counter[str]()
    for size in (browser.DESKTOP, browser.PHONE):
        with browser.chromium(*size) as driver:
            for scheme in browser.SCHEMES:
                for hash_ in ("", f"#task={quote(task)}"):
                    looks += 1
                    rules.update(
                        rule for rule, *_ in browser.barriers(driver, f"{page}{hash_}", scheme)
                    )
    return {"looks": looks, "violations": sum(rules.values()), "rules": dict(rules)}


def explorer_row(bundle: Path, count: int, folder: Path, repeats: int) -> dict[str, Any]:
    """Return seconds from the command to its address, and milliseconds of first view and filter."""
    path = folder / "collection.hydra.safetensors"
    write_collection(bundle, path, count)
    return {**served_row(path, count, repeats), "bundle_bytes": path.stat().st_size}


def served_row(path: Path, count: int, repeats: int) -> dict[str, Any]:
    """Return the same as :func:`explorer_row` of any collection of ``count`` tasks.

    Its names are those of :func:`write_collection`. Without a browser to drive, the start alone is
    measured.
    """
    command = [
        sys.executable,
        "-m",
        "hydraopt",
        "report",
        str(path),
        "--serve",
        "--port",
        "0",
        "--json",
    ]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        said = json.loads("".join(iter(server.stdout.readline, "}\n")) + "}")
        start_seconds, start_cpu = time.perf_counter() - started, cpu_of(server.pid)
        try:
            seen = {} if browser.why_not() else _seen(said["address"], count, repeats)
        finally:
            server.terminate()
    return {
        "what": "explore",
        "tasks": count,
        "start_seconds": round(start_seconds, 2),
        "start_cpu": round(start_cpu, 2),
        **seen,
    }


def _seen(address: str, count: int, repeats: int) -> dict[str, float]:
    """Return milliseconds of the first view, of a filter and of a task's page, in a browser."""
    with browser.chromium() as driver:
        return {
            "drawn_ms": median([_opened(driver, address) for _ in range(repeats)]),
            "filter_ms": _filtered(driver, f"skill{min(123, count // 20):04d}"),
            "task_ms": _looked_at(driver),
        }


def cpu_of(process: int) -> float:
    """Return the CPU seconds that a process has taken so far."""
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def _opened(driver: Any, address: str) -> float:
    driver.get("about:blank")
    driver.get(address)
    return browser.ready(driver)


def _filtered(driver: Any, text: str) -> float:
    """Return milliseconds from typing to the filtered list, the page's wait of 150 among them."""
    script = """
      const done = arguments[1], box = document.getElementById("query"), from = performance.now();
      const list = document.querySelector("#tasks table");
      box.value = arguments[0]; box.dispatchEvent(new Event("input"));
      const look = () => document.querySelector("#tasks table") !== list
        ? done(Math.round(performance.now() - from)) : setTimeout(look, 5);
      look();"""
    return float(driver.execute_async_script(script, text))


def _looked_at(driver: Any) -> float:
    """Return milliseconds from a click on the first task to its page; its stream is decoded."""
    script = """
      const done = arguments[0], from = performance.now();
      document.querySelector("#tasks tbody a").click();
      const look = () => document.getElementById("task")
        ? done(Math.round(performance.now() - from)) : setTimeout(look, 5);
      look();"""
    return float(driver.execute_async_script(script))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write benchmarks/results/speed/report.json."""
    parser = parser_of(__name__, __doc__)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--originals", nargs="*", default=[], help="* stands for any text")
    parser.add_argument("--results", type=Path, nargs="*", default=[])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args(arguments)
    if reason := browser.why_not():
        parser.error(reason)
    head = provenance("the report of a bundle, and the explorer of a large collection", 0)
    with tempfile.TemporaryDirectory() as place:
        rows = [
            page_row(bundle, args.originals, args.results, Path(place), args.repeats)
            for bundle in args.bundles
        ]
        rows.append(explorer_row(args.bundles[0], args.tasks, Path(place), args.repeats))
    for row in rows:
        print(json.dumps(row))
    write_result(SPEED, "report", head, rows)
