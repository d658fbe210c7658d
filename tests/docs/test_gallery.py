"""The script that runs the gallery: output on the page follows what commands print."""

from __future__ import annotations

import re

import pytest

from tools.gallery import PAGE, differences, matched, refreshed

BLOCK = """\
$ merge a b
...
size    1,000 bytes (1.0 kB), 5.00 %; ...
$ serve http://127.0.0.1:80/
"""


def test_numbers_follow_the_output_and_the_rest_must_be_there() -> None:
    printed = {"merge a b": ["pass 1", "size    990 bytes (0.9 kB), 4.95 %; 3 s", "end"]}
    new = refreshed(BLOCK, lambda command: printed.get(command, ()))
    assert new == BLOCK.replace("1,000", "990").replace("1.0", "0.9").replace("5.00", "4.95")
    with pytest.raises(ValueError, match="size"):
        refreshed(BLOCK, lambda _: ["size    none"])


@pytest.mark.parametrize(
    ("line", "output", "found"),
    [
        ("de -> one/de", "de -> one/de", "de -> one/de"),
        ("de -> one/de", "fr -> one/de", None),
        ("8 tasks ...", "9 tasks and more", "9 tasks ..."),
        ("a  1", "a      2", "a  2"),
        ("2,957,014 -> 2,911,501", "12 -> 1,300", "12 -> 1,300"),
    ],
)
def test_a_line_with_other_numbers(line: str, output: str, found: str | None) -> None:
    assert matched(line, output) == found


def test_a_number_that_is_off_by_more_than_a_hundredth_is_named() -> None:
    assert differences("1,000 b\n2 s", "1,009 b\n2 s") == []
    assert len(differences("1,000 b\n2 s", "1,020 b\n2 s")) == 1
    assert len(differences("http://127.0.0.1:80", "http://127.0.0.2:80")) == 1


def test_every_command_of_the_page_is_in_a_block_that_runs() -> None:
    page = PAGE.read_text(encoding="utf-8")
    outside = re.sub(r"```text\n\$ .*?```", "", page, flags=re.DOTALL)
    assert not re.search(r"^\$ |^```", outside, re.MULTILINE)
