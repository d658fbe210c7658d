"""Mistakes at the command line: each refusal says what to do, and no file changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.hostile.mistakes import MISTAKES, Mistake, made_folder, tried


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mistakes")
    made_folder(made)
    return made


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda x: x.what)
def test_a_refusal_says_what_to_do(mistake: Mistake, folder: Path) -> None:
    answer = tried(mistake, folder)
    assert answer["says_what_to_do"], answer["said"]
    assert answer["untouched"]


def test_there_are_fifty() -> None:
    assert len({mistake.words for mistake in MISTAKES}) == len(MISTAKES) >= 50
