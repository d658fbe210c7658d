"""Write the table of packages in CONTRIBUTING.md from the first lines of their docstrings.

python -m tools.layout [--check]
"""

from __future__ import annotations

import argparse
import ast

from tools.pages import ROOT, between, settle

__all__ = ["ORDER", "PAGE", "first_line", "packages", "table"]

PAGE = ROOT / "CONTRIBUTING.md"
SOURCE = ROOT / "src" / "hydraopt"

ORDER = (
    *("files", "codec", "adapters", "bundle", "merging", "model"),
    *("export", "serve", "inspect", "evaluate", "report", "cli"),
)
"""The order of the table: a package imports only what stands above it. Others come last."""


def packages() -> list[str]:
    """Packages directly below src/hydraopt, in the order of the table."""
    found = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    known = [name for name in ORDER if name in found]
    return known + sorted(found - set(ORDER))


def first_line(package: str) -> str:
    """The first line of the package's docstring; raises ValueError if there is none."""
    source = (SOURCE / package / "__init__.py").read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source))
    if not text:
        raise ValueError(f"src/hydraopt/{package}/__init__.py has no docstring")
    return text.splitlines()[0]


def table() -> str:
    """A row for each package."""
    rows = [f"| `{name}/` | {first_line(name)} |" for name in packages()]
    return "\n".join(["| in `src/hydraopt/` | what |", "|---|---|", *rows])


def main() -> None:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if it differs")
    page = PAGE.read_text(encoding="utf-8")
    text = between(page, "packages", table())
    settle(PAGE, text, "python -m tools.layout", parser.parse_args().check)


if __name__ == "__main__":
    main()
