"""The pages: made ones are up to date, links and paths lead somewhere, lines are short."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import hydraopt
from hydraopt.cli.main import COMMANDS, command_named
from tests.docs.pages import DOCS, FRONT, PAGES, ROOT, name_of
from tools import cli_reference, layout, public_names
from tools.pages import between
from tools.site import on_page_markdown

README = ROOT / "README.md"
LIMIT = 120


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("tool", [cli_reference, public_names], ids=lambda tool: tool.__name__)
def test_the_page_is_what_its_script_writes(tool: ModuleType) -> None:
    """A public name that went or came shows in a change of docs/reference/stability.md."""
    assert text_of(tool.PAGE) == tool.page(), f"run python -m {tool.__name__}"


def test_the_site_shows_every_option_of_every_command() -> None:
    def shown(place: str) -> str:
        return on_page_markdown("text", SimpleNamespace(file=SimpleNamespace(src_uri=place)))

    assert shown("tutorial.md") == "text"
    text = shown("reference/cli.md")
    for name in COMMANDS:
        command = command_named(name)
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        options = {option for param in command.params for option in param.opts if option[0] == "-"}
        assert [x for x in options - {"--json", "-q", "--quiet"} if x not in section] == []


def test_the_python_page_has_every_public_name() -> None:
    page = text_of(DOCS / "reference" / "python.md")
    shown = set(re.findall(r"^::: hydraopt\.(\w+)$", page, re.MULTILINE))
    assert shown == set(hydraopt.__all__)


@pytest.mark.parametrize("package", layout.packages())
def test_the_layout_says_what_a_package_says(package: str) -> None:
    row = f"| `{package}/` | {layout.first_line(package)} |"
    assert row in text_of(layout.PAGE), "run python -m tools.layout"


def test_the_layout_has_these_packages_in_order_and_no_others() -> None:
    page = text_of(layout.PAGE)
    assert between(page, "packages", layout.table()) == page, "run python -m tools.layout"


def test_a_block_is_put_between_its_marks() -> None:
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert between(page, "x", "new\n") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"
    with pytest.raises(ValueError, match="once"):
        between(page, "y", "new")


def test_readme_is_small() -> None:
    assert len(README.read_bytes()) <= 6000


@pytest.mark.parametrize("page", FRONT, ids=name_of)
def test_links_outside_the_site_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text_of(page)):
        assert (page.parent / target).exists(), target


_PLACES = ("src", "tests", "benchmarks", "zoo", "examples", "docs", "tools", ".ci")
_PATH = re.compile(rf"`((?:{'|'.join(map(re.escape, _PLACES))})/[\w./-]*)`")


@pytest.mark.parametrize(
    "page", [ROOT / "CONTRIBUTING.md", README, DOCS / "decisions.md"], ids=name_of
)
def test_paths_that_are_named_exist(page: Path) -> None:
    named = _PATH.findall(text_of(page))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_documents_that_code_cites_exist() -> None:
    cited = re.compile(r"\bdocs/[\w/.-]*\w\.(?:md|c|png)\b")
    folders = ("src", "tests", "zoo", "examples", "tools", "benchmarks")
    code = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lost = {
        (name_of(path), name)
        for path in [*code, ROOT / "zoo" / "README.md", ROOT / ".ci" / "run"]
        for name in cited.findall(text_of(path))
        if not (ROOT / name).exists()
    }
    assert not lost


def test_the_log_names_results_that_exist() -> None:
    names = re.findall(r"`([\w./-]+\.json)`", text_of(DOCS / "log.md"))
    results = ROOT / "benchmarks" / "results"
    assert names
    assert [x for x in names if not any((results / y / x).exists() for y in (".", "quality"))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_outside_the_repository_is_cited(page: Path) -> None:
    assert not re.search(r"\b(?:DESIGN|STYLE|PEERS)\b", text_of(page))
