"""What a command says when it fails: one line, the files, the remedy, and the exit code."""

from __future__ import annotations

import errno

import click
import pytest
from click.testing import CliRunner

from hydraopt.cli.main import cli, command_named
from hydraopt.errors import AdapterFormatError

ARGUMENTS = ["merge", "de", "en", "-o", "out.hydra.safetensors"]


def failing(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, arguments: list[str] = ARGUMENTS
) -> click.testing.Result:
    """Run a verb whose work raises this."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(command_named(arguments[0]), "callback", fail)
    return CliRunner().invoke(cli, arguments)


def test_an_error_of_the_users_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    result = failing(AdapterFormatError("rank differs [adapter fr]."), monkeypatch)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "Error: rank differs [adapter fr].\n"


def test_an_error_of_the_system_names_its_file_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = failing(PermissionError(13, "Permission denied", "/x/y"), monkeypatch)
    assert (result.exit_code, result.stdout) == (2, "")
    said = "Permission denied [/x/y]. Change its permissions, or choose another."
    assert result.stderr == f"Error: {said}\n"


def test_an_error_without_a_file_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    # The system does not say which file: it was open already.
    result = failing(OSError(errno.ENOSPC, "No space left on device"), monkeypatch)
    assert result.exit_code == 2
    said = (
        f"No space left on device [hydraopt {' '.join(ARGUMENTS)}]. Make room, or write elsewhere."
    )
    assert result.stderr == f"Error: {said}\n"


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    result = failing(KeyboardInterrupt(), monkeypatch)
    assert (result.exit_code, result.stdout) == (130, "")
    assert "interrupted" in result.stderr


@pytest.mark.parametrize("error", [RuntimeError("boom\nand more"), ZeroDivisionError()])
def test_what_nobody_foresaw_is_70_and_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HYDRAOPT_TRACEBACK", raising=False)
    result = failing(error, monkeypatch)
    assert (result.exit_code, result.stdout) == (70, "")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    assert all(x in result.stderr for x in ("de", "en", "out.hydra.safetensors"))
    assert type(error).__name__ in result.stderr
    again = f"HYDRAOPT_TRACEBACK=1 hydraopt {' '.join(ARGUMENTS)}"
    assert result.stderr.endswith(f"{again}\n")


@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError("boom"), 70), (AdapterFormatError("boom"), 2)]
)
def test_the_traceback_shows_when_asked_for(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRAOPT_TRACEBACK", "1")
    result = failing(error, monkeypatch)
    assert result.exit_code == code
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert "fail" in result.stderr
    assert "boom" in result.stderr.splitlines()[-1]


def test_a_long_command_is_cut_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"a{i}" for i in range(1000)]
    result = failing(RuntimeError("boom"), monkeypatch, ["merge", *names, "-o", "out"])
    assert all(x in result.stderr for x in ("a0", "-o out"))
    assert len(result.stderr) < 1000


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 5.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        ImportError("libtorch.so: failed to map segment from shared object"),
    ],
)
def test_no_memory_is_a_refusal(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    result = failing(error, monkeypatch)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: memory ran out [hydraopt merge de en -o out")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        AdapterFormatError("bad [adapter \x1b[2J\r\u202e]."),
        RuntimeError("\x1b[2J\r\u202e"),
        OSError(2, "No such file", "\x1b[2J\r\u202e"),
        click.UsageError("bad \x1b[2J\r\u202e"),
    ],
)
def test_errors_print_nothing_that_a_terminal_obeys(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRAOPT_TRACEBACK", "1")
    result = failing(error, monkeypatch)
    assert "\\x1b[2J\\r\\u202e" in result.stderr
    assert not {"\x1b", "\r", "\u202e"} & set(result.stderr)
