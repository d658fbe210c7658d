"""Short sentences: README is held to its mean, every page to a looser one.

python tests/docs/test_prose.py prints the measure of each page.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import MADE, PAGES, ROOT, name_of, paragraphs, sentences, words

MEAN = 18.0
"""Words a sentence, over README, and over all that is written by hand."""
LOOSE = 20.0
"""On any one page."""
LONGEST = 45
"""Words of any one sentence."""
WRITTEN = [path for path in PAGES if path not in (MADE, ROOT / "CHANGELOG.md")]


def mean(*pages: Path) -> float:
    lengths = [
        len(words(sentence))
        for page in pages
        for sentence in sentences(page.read_text(encoding="utf-8"))
    ]
    return sum(lengths) / len(lengths)


def test_the_measure_counts_prose_alone() -> None:
    page = (
        "# A heading of no account\n\nOne two three. Four `a b c` six: Seven\neight 9.5 %.\n\n"
        "| a | table |\n\n```\ncode code code.\n```\n\n- an item\n\n"
        "<!-- made -->\nMade by a script.\n<!-- /made -->\n"
    )
    assert paragraphs(page) == ["One two three. Four `a b c` six: Seven eight 9.5 %.", "an item"]
    counts = [len(words(sentence)) for sentence in sentences(page)]
    assert counts == [3, 3, 3, 2]


def test_readme_is_in_short_sentences() -> None:
    assert mean(ROOT / "README.md") < MEAN


def test_all_that_is_written_is() -> None:
    assert mean(*WRITTEN) < MEAN


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_no_page_is_far_from_it(page: Path) -> None:
    assert mean(page) < LOOSE
    text = page.read_text(encoding="utf-8")
    assert [x for x in sentences(text) if len(words(x)) > LONGEST] == []


if __name__ == "__main__":
    for page in WRITTEN:
        print(f"{mean(page):5.1f}  {name_of(page)}")
    print(f"{mean(*WRITTEN):5.1f}  all")
