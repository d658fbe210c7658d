"""Every command can be run, and says how."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.commands import dispatch, summary_of
from benchmarks.common import ROOT, local_folder, provenance
from hydraopt.adapters import read_adapter
from hydraopt.files import Url

FOLDERS = ("quality", "rivals", "speed", "coding", "hostile")


def commands_of(folder: str) -> tuple[str, ...]:
    found: tuple[str, ...] = importlib.import_module(f"benchmarks.{folder}.__main__").COMMANDS
    return found


ALL = [(folder, command) for folder in FOLDERS for command in commands_of(folder)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("folder", "command"), ALL)
def test_a_command_says_how_it_is_run(folder: str, command: str, capsys) -> None:
    module = importlib.import_module(f"benchmarks.{folder}.{command}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert f"usage: python -m benchmarks.{folder} {command} " in capsys.readouterr().out
    assert f"python -m benchmarks.{folder} {command}" in str(module.__doc__)


def test_a_folder_lists_its_commands_and_refuses_others(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["x"])
    assert dispatch("benchmarks.quality", commands_of("quality")) == 0
    text = capsys.readouterr().out
    assert all(summary_of("benchmarks.quality", x) in text for x in commands_of("quality"))
    monkeypatch.setattr(sys, "argv", ["x", "nothing"])
    assert dispatch("benchmarks.quality", commands_of("quality")) == 2
    assert "expected: equal_kl" in capsys.readouterr().err


def test_a_result_says_by_which_command(monkeypatch) -> None:
    main = str(ROOT / "benchmarks" / "quality" / "__main__.py")
    arguments = ["equal_kl", "gemma3-5x8", "--tasks", "/some/where/data/tasks"]
    monkeypatch.setattr(sys, "argv", [main, *arguments])
    said = provenance("x")["command"]
    assert said == "python -m benchmarks.quality equal_kl gemma3-5x8 --tasks data/tasks"
    monkeypatch.setattr(sys, "argv", [str(ROOT / "benchmarks" / "same_bytes.py")])
    assert provenance("x")["command"] == "python -m benchmarks.same_bytes"
    monkeypatch.setattr(sys, "argv", ["/usr/lib/pytest"])
    assert provenance("x")["command"] == "python lib/pytest"


def test_nothing_edits_the_path() -> None:
    edited = [
        path.relative_to(ROOT).as_posix()
        for folder in ("benchmarks", "zoo", "tests", "examples")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(__file__) and "sys.path" in path.read_text(encoding="utf-8")
    ]
    # A script that README runs as one, and that borrows from zoo, which is not installed.
    assert edited == ["examples/run.py"]


def test_adapters_of_a_store_are_asked_for_on_this_machine() -> None:
    folder = ROOT / "examples" / "adapters" / "dates-de"
    adapter = read_adapter(folder)
    assert local_folder(adapter) == folder
    with pytest.raises(SystemExit, match=r"dates-de.*s3://bucket/a"):
        local_folder(replace(adapter, source=Url("s3://bucket/a")))
