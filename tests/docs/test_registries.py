"""What has a row in a registry has a place in the documents."""

from __future__ import annotations

import pytest

from benchmarks.rivals.merging import METHODS
from benchmarks.rivals.registry import RIVALS
from hydraopt.codec import FORMS
from hydraopt.codec.costs import MEASURES
from hydraopt.export import FORMATS
from tests.docs.pages import ROOT


@pytest.mark.parametrize(
    ("page", "shown", "names"),
    [
        ("docs/concepts.md", "| {} |", FORMS),
        ("docs/concepts.md", "- `{}`", MEASURES),
        ("docs/reference/exports.md", "| `--format {}", FORMATS),
        ("benchmarks/rivals/README.md", "`{}`", METHODS),
        ("benchmarks/rivals/README.md", "`{}.py`", [*RIVALS]),
    ],
    ids=["forms", "measures", "exports", "methods", "rivals"],
)
def test_every_row_is_described(page: str, shown: str, names: list[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in names if shown.format(name) not in text] == []
