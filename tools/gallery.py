"""Run the commands of docs/howto/gallery.md, and write their output into the page.

    python -m tools.gallery [--check] [--base DIR]

Every line of output on the page must appear in the output of its command, in the same order; only
numbers may differ. The page may leave lines out, and ``...`` matches any text. --check changes
nothing and fails if a number differs by more than 1 %.

A section with BASE runs only with --base, a folder of SmolLM2-135M-Instruct. If a command other
than hydraopt fails, such as a build or ``git clone`` without a network, its section stays as it
is. A command that ends in & runs until the end of the page. The picture is drawn again if
tests/report finds a browser.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from tests.report import browser
from tools.pages import ROOT

__all__ = ["main", "matched", "refreshed"]

PAGE = ROOT / "docs" / "howto" / "gallery.md"
PICTURE = ROOT / "docs" / "pictures" / "report.png"
SIZE = 1200, 1290
"""Width and height of the picture, pixels."""
_BLOCK = re.compile(r"(?<=```text\n)\$ .*?(?=```)", re.DOTALL)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_ANY = re.compile(r"\.{3}|\s+|\d+(?:[.,]\d+)*")


def matched(line: str, output: str) -> str | None:
    """Return ``line`` with the numbers of ``output``, or None if their texts differ."""

    def pattern(found: re.Match[str]) -> str:
        if found[0] == "...":
            return ".*"
        return r"\s+" if found[0].isspace() else f"({_NUMBER.pattern})"

    parts, end = [], 0
    for found in _ANY.finditer(line):
        parts += [re.escape(line[end : found.start()]), pattern(found)]
        end = found.end()
    match = re.fullmatch("".join(parts) + re.escape(line[end:]), output)
    if match is None:
        return None
    numbers = iter(match.groups())
    return _NUMBER.sub(lambda _: next(numbers), line)


def refreshed(block: str, run: Callable[[str], Iterable[str]]) -> str:
    """Return a block of the page with the output of its commands.

    run: returns the lines that a command prints. Raises ValueError if none of them matches a line
    of the page.
    """
    lines: list[str] = []
    output: Iterator[str] = iter(())
    for line in block.splitlines():
        if line.startswith("$ "):
            output = iter(run(line[2:]))
        elif line not in ("", "..."):
            matches = (matched(line, text.rstrip()) for text in output)
            found = next((x for x in matches if x is not None), None)
            if found is None:
                raise ValueError(f"not in the output: {line}")
            line = found
        lines.append(line)
    return "".join(f"{line}\n" for line in lines)


class NotRun(Exception):
    """Missing requirement of a section."""


@contextmanager
def shell(folder: Path, base: str | None) -> Iterator[Callable[[str], Iterable[str]]]:
    """Yield a function that runs a command in a folder and returns its output.

    base: value of BASE. Commands that still run at the end of the block are stopped.
    """
    for name in ("examples", "native", "zoo"):
        (folder / name).symlink_to(ROOT / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "BASE": base or "", "PYTHONUNBUFFERED": "1"}
    servers: list[subprocess.Popen[str]] = []

    def run(command: str) -> Iterable[str]:
        print(f"$ {command}", file=sys.stderr)
        words = ["bash", "-c", re.sub(r"\bBASE\b", '"$BASE"', command.removesuffix(" &"))]
        if command.endswith(" &"):
            pipe = subprocess.PIPE
            server = subprocess.Popen(
                words, cwd=folder, env=environment, text=True, stdout=pipe, start_new_session=True
            )
            servers.append(server)
            assert server.stdout is not None
            return server.stdout
        done = subprocess.run(words, cwd=folder, env=environment, text=True, capture_output=True)
        if done.returncode:
            if not command.startswith("hydraopt"):
                raise NotRun(command)
            sys.exit(f"{command}\n{done.stdout}{done.stderr}")
        return done.stdout.splitlines()

    try:
        yield run
    finally:
        for server in servers:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def draw(report: Path) -> None:
    """Store the top of a report as the picture of the page."""
    if reason := browser.why_not():
        print(f"NOT RUN: the picture: {reason}", file=sys.stderr)
        return
    from PIL import Image

    with browser.chromium(*SIZE) as driver:
        driver.get(report.as_uri())
        browser.ready(driver)
        shot = Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    shot.quantize(64).save(PICTURE, optimize=True)


def new_page(page: str, folder: Path, base: str | None) -> str:
    """Return the page with the output of its commands, run in ``folder``."""
    sections = []
    with shell(folder, base) as run:
        for section in re.split(r"(?m)^(?=## )", page):
            title = section.partition("\n")[0]
            try:
                if re.search(r"^\$ .*\bBASE\b", section, re.MULTILINE) and base is None:
                    raise NotRun("--base")
                section = _BLOCK.sub(lambda block: refreshed(block[0], run), section)
            except NotRun as missing:
                print(f"NOT RUN: {title}, which needs {missing}", file=sys.stderr)
            except ValueError as error:
                sys.exit(f"{title}: {error}")
            sections.append(section)
    return "".join(sections)


def differences(old: str, new: str) -> list[str]:
    """Return the lines whose numbers differ by more than 1 %."""

    def near(first: str, second: str) -> bool:
        try:
            x, y = (float(text.replace(",", "")) for text in (first, second))
        except ValueError:  # not one number, such as an address
            return first == second
        return math.isclose(x, y, rel_tol=0.01)

    def same(first: str, second: str) -> bool:
        return all(map(near, _NUMBER.findall(first), _NUMBER.findall(second)))

    pairs = zip(old.splitlines(), new.splitlines(), strict=True)
    return [f"{first}\n  now {second}" for first, second in pairs if not same(first, second)]


def main() -> None:
    """Run the commands of the page, and write or check it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; compare")
    parser.add_argument("--base", help="folder of SmolLM2-135M-Instruct")
    args = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as place:
        new = new_page(page, Path(place), args.base)
        if not args.check:
            draw(Path(place) / "report.html")
            PAGE.write_text(new, encoding="utf-8")
        elif found := differences(page, new):
            sys.exit("\n".join([*found, "run python -m tools.gallery"]))


if __name__ == "__main__":
    main()
