"""Shells complete commands, options and files."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = "from hydraopt.cli.main import cli; cli(prog_name='hydraopt')"


def asked(**settings: str) -> str:
    """Return the output of ``hydraopt`` under these environment variables."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("shell", ["zsh", "fish"])  # click asks bash itself for its version
def test_a_script_for_each_shell(shell: str) -> None:
    script = asked(_HYDRAOPT_COMPLETE=f"{shell}_source")
    assert f"_HYDRAOPT_COMPLETE={shell}_complete" in script


@pytest.mark.parametrize(
    ("words", "at", "expected"),
    [("hydraopt me", 1, "merge"), ("hydraopt merge --si", 2, "--size")],
)
def test_what_is_completed(words: str, at: int, expected: str) -> None:
    said = asked(_HYDRAOPT_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(at))
    assert f"plain,{expected}" in said.splitlines()
