"""The results in the documents are what the result files say."""

from __future__ import annotations

import re

import pytest

from benchmarks import pages
from benchmarks.reports.__main__ import REPORTS, sections_of, tables_of
from tests.docs.pages import SITE

LONG = {"equal_kl", "people", "prompted", "rivals", "same_rows", "started"}


@pytest.mark.parametrize(
    "report", [pytest.param(x, marks=pytest.mark.slow if x in LONG else ()) for x in REPORTS]
)
def test_the_pages_say_what_the_files_say(report: str) -> None:
    pages.rewrite(sections_of(report), check=True)
    pages.write_tables(tables_of(report), check=True)


def test_every_block_has_one_report() -> None:
    made = [name for report in REPORTS for name in sections_of(report)]
    assert sorted(made) == sorted(pages.BLOCKS)


def test_every_csv_file_has_one_report_and_a_link() -> None:
    made = sorted(name for report in REPORTS for name in tables_of(report))
    assert made == sorted(path.name for path in pages.TABLES.iterdir())
    text = "".join(page.read_text(encoding="utf-8") for page in SITE)
    assert made == sorted(set(re.findall(r"\bdata/([\w-]+\.csv)\)", text)))
