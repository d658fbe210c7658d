"""How commands show notes."""

from __future__ import annotations

import pytest

from hydraopt.cli.options import notes_on_prompts
from hydraopt.cli.terminal import say_notes, warn
from hydraopt.notes import Note


def test_notes_go_to_stdout_and_warnings_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say_notes([Note("dora", "one"), Note("alora", "two", "fr")])
    warn(Note("few_prompts", "three"))
    assert capsys.readouterr() == ("note: one\nnote: two\n", "warning: three\n")


def test_tasks_with_few_or_no_prompts_get_a_note() -> None:
    notes = notes_on_prompts({"fr": 3, "de": 0, "en": 64})
    assert [(x.code, x.where) for x in notes] == [("few_prompts", "fr"), ("no_prompts", "de")]
