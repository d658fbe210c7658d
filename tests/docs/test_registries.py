"""What has a row in a registry has a place in the documents."""

from __future__ import annotations

import pytest

from benchmarks.rivals.merging import METHODS
from benchmarks.rivals.registry import RIVALS
from hydraopt.coding.forms import FORMS
from hydraopt.compress.measure import MEASURES
from hydraopt.export.formats import FORMATS
from tests.docs.pages import DOCS


@pytest.mark.parametrize(
    ("page", "shown", "names"),
    [
        ("concepts.md", "| {} |", FORMS),
        ("concepts.md", "- `{}`", MEASURES),
        ("reference/exports.md", "| `--format {}", FORMATS),
        ("reference/methods.md", "`{}`", METHODS),
        ("reference/methods.md", "`{}.py`", [rival.name for rival in RIVALS]),
    ],
    ids=["forms", "measures", "exports", "methods", "rivals"],
)
def test_every_row_is_described(page: str, shown: str, names: list[str]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [name for name in names if shown.format(name) not in text] == []
