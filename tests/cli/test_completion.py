"""Shells complete commands, options and files."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from hydraopt.cli.main import cli

PROGRAM = "from hydraopt.cli.main import cli; cli(prog_name='hydraopt')"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell], prog_name="hydraopt")
    assert done.exit_code == 0
    assert f"_HYDRAOPT_COMPLETE={shell}_complete" in done.stdout


def test_an_unknown_shell_is_refused() -> None:
    assert CliRunner().invoke(cli, ["completion", "cmd"]).exit_code == 2


@pytest.mark.parametrize(
    ("words", "at", "expected"),
    [("hydraopt me", 1, "merge"), ("hydraopt merge --si", 2, "--size")],
)
def test_what_is_completed(words: str, at: int, expected: str) -> None:
    asked = {"_HYDRAOPT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(at)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | asked, capture_output=True, text=True
    )
    assert f"plain,{expected}" in done.stdout.splitlines()
