"""What lies in the way of a command is refused, whatever it is: no input ends in exit code 70."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from hydraopt.cli.main import COMMANDS, command_named
from hydraopt.errors import UsageError
from hydraopt.evaluate.tasks import read_task_file
from tests.cli.conftest import Run
from tests.marks import slow

DEEP = b"[" * 200_000
# Verbs that need nothing but files; the others load a model, or listen.
QUICK = ("inspect", "verify", "merge", "add", "remove", "export")
VERBS = sorted(COMMANDS.keys() - {"doctor"})


def words_of(verb: str, given: Path, tmp_path: Path) -> list[str]:
    """The verb with this path for every file it takes."""
    command = command_named(verb)
    words = [verb]
    for each in command.params:
        if isinstance(each, click.Argument):
            words += [str(given)] * (2 if each.nargs == -1 else 1)
        elif each.name in ("base", "tasks_folder", "prompted") and verb not in ("merge", "add"):
            words += [each.opts[0], str(given)]
        elif each.name == "output":
            words += [each.opts[0], str(tmp_path / "out")]
    return words


@pytest.mark.parametrize("verb", [verb if verb in QUICK else slow(verb) for verb in VERBS])
def test_a_link_to_itself_is_refused(verb: str, run: Run, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    result = run(*words_of(verb, loop, tmp_path))
    assert result.exit_code in (1, 2), result.output
    assert [x.name for x in tmp_path.iterdir()] == ["loop"]


def test_a_link_to_itself_is_refused_as_output(run: Run, adapters: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    result = run("merge", *sorted(adapters.iterdir()), "--error", "0.2", "-o", loop)
    assert result.exit_code == 2, result.output
    assert loop.is_symlink()


@pytest.mark.parametrize("format", ["gguf", "mlx", "merged"])
def test_a_base_with_deep_json_is_refused(
    format: str, run: Run, bundle: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "model.safetensors.index.json"):
        (base / name).write_bytes(DEEP)
    words = ("--format", format, "--base", base, "--all", "-o", tmp_path / "out")
    result = run("export", bundle, *words)
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "out").exists()


def test_tasks_and_prompts_with_deep_json_are_refused(tmp_path: Path) -> None:
    from hydraopt.model import read_prompts

    (tmp_path / "META.json").write_bytes(DEEP)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"input": "a", "output": "b"}\n')
    with pytest.raises(UsageError):
        read_prompts(rows)
    rows.write_bytes(DEEP + b"\n")
    with pytest.raises(UsageError):
        read_prompts(rows)
    folder = tmp_path / "dates" / "de"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent):
        (place / "META.json").write_bytes(DEEP)
    (folder / "test.jsonl").write_text('{"input": "a", "output": "b"}\n')
    with pytest.raises(UsageError):
        read_task_file(tmp_path, "dates", "de")
