"""Read prompts of tasks from files; labels are not needed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from hydraopt.adapters import Adapter
from hydraopt.adapters.beyond import beyond_lora
from hydraopt.basemodel.encoding import ROW_END, RowPrompt, prompt_text
from hydraopt.errors import UsageError, explain
from hydraopt.files.jsonlines import json_lines
from hydraopt.files.reading import MOST_CONFIG, read_regular
from hydraopt.merging.look import DEFAULT_HARM
from hydraopt.values import closest, listed

__all__ = [
    "check_prompts_of",
    "prompt_files",
    "prompt_line",
    "read_prompt_folder",
    "read_prompts",
]

_MOST_BYTES: Final = 1 << 28
_ENCODING: Final = "utf-8-sig"
"""UTF-8, with or without the mark that some editors begin a file with."""
_ROWS: Final = (".jsonl", ".ndjson")
_SUFFIXES: Final = (*_ROWS, ".txt")
_FOLDER: Final = "a folder with a NAME.jsonl or NAME.txt for each adapter"


def read_prompts(path: str | Path) -> list[str]:
    """Return the distinct prompts of a file, exactly as the model gets them.

    At most as many as a refit can use are kept, but all lines are checked. A line is plain text;
    or, in a ``.jsonl`` or ``.ndjson`` file, a JSON string, an object with a "prompt", or the row of
    a task with an "input", which becomes a prompt as in the evaluation. The instruction is the
    row's own "instruction", or that of ``NAME.META.json`` or ``META.json`` beside the file.

    Raises UsageError, with the line.
    """
    file = Path(path)
    if file.suffix.lower() == ".json":
        raise _not_a_list(file)
    prompts: dict[str, None] = {}
    if file.suffix.lower() in _ROWS:
        instruction = functools.cache(lambda: _instruction(file))
        for number, value in json_lines(file, _MOST_BYTES).rows:
            prompts.setdefault(_prompt(value, f"{file}:{number}", instruction))
    else:
        try:
            # Not splitlines: a text may hold other characters that Python ends lines at.
            lines = read_regular(file, _MOST_BYTES).decode(_ENCODING).split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise UsageError(explain("cannot read the prompts", file=file, got=reason)) from None
        prompts = dict.fromkeys(x.removesuffix("\r") for x in lines if x.strip())
    if not prompts:
        raise UsageError(explain("no prompt in the file", file=file, expected="one a line"))
    return list(prompts)[: DEFAULT_HARM.refit_prompts]


def prompt_line(prompt: str) -> str:
    """Return the line of a ``.jsonl`` file that :func:`read_prompts` reads as this prompt."""
    if not isinstance(prompt, RowPrompt):
        return json.dumps(prompt, ensure_ascii=False) + "\n"
    instruction, _, rest = prompt.partition("\n")
    row = {"instruction": instruction, "input": rest.removesuffix(ROW_END)}
    return json.dumps(row, ensure_ascii=False) + "\n"


def prompt_files(path: str | Path) -> dict[str, Path]:
    """Return a folder's files of prompts by task: ``NAME.jsonl``, ``.ndjson`` or ``.txt``.

    Hidden files are ignored. Raises UsageError if there is no such folder, and for two files of
    one task.
    """
    folder = Path(path)
    if not folder.is_dir():
        do = "Name the task of a file: NAME=FILE" if folder.is_file() else None
        raise UsageError(explain("no folder of prompts", file=folder, expected=_FOLDER, do=do))
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        # Hidden files are a system's notes of others, as macOS's ._NAME.txt.
        if file.suffix.lower() not in _SUFFIXES or file.name.startswith("."):
            continue
        if file.stem in files:
            both = f"{files[file.stem].name} and {file.name}"
            raise UsageError(explain("two files of prompts for one task", file=folder, got=both))
        files[file.stem] = file
    return files


def read_prompt_folder(
    path: str | Path, names: Collection[str], others: Collection[str] = ()
) -> dict[str, list[str]]:
    """Return the prompts by task, from a folder of :func:`prompt_files`; see :func:`read_prompts`.

    names: tasks whose prompts are read; a task without a file is left out.
    others: further tasks, whose files are ignored.

    Files of no task are ignored if every task in ``names`` has a file. Raises UsageError for a path
    that is no folder, for two files of a task, for files of no task if a task has no file, because
    a name may be wrong, and for a task with only a ``.json`` file.
    """
    files = prompt_files(path)
    for odd in sorted(Path(path).iterdir()):
        if odd.suffix.lower() == ".json" and odd.stem in names and odd.stem not in files:
            raise _not_a_list(odd)
    unknown = sorted(set(files) - {*names, *others})
    mine = {name: file for name, file in sorted(files.items()) if name in names}
    without = sorted(set(names) - set(mine))
    if (unknown and without) or not mine:
        raise UsageError(
            explain(
                "prompts for a task that was not found" if unknown else "no prompts in the folder",
                file=Path(path),
                got=listed(unknown or sorted(files)) or "no .jsonl or .txt file",
                expected=closest(unknown or sorted(files), without),
                do="Name each file as its adapter",
            )
        )
    return {name: read_prompts(file) for name, file in mine.items()}


def check_prompts_of(adapter: Adapter, prompts: Sequence[str]) -> None:
    """Raise UsageError for no prompts, and for an adapter that is more than low-rank factors."""
    if not prompts:
        raise UsageError(explain("no prompts", adapter=adapter.name, expected="at least one"))
    reasons, extras = [*beyond_lora(adapter)], sorted(adapter.extras)
    reasons += [f"{len(extras)} further tensors, {extras[0]} among them"] if extras else []
    if reasons:
        raise UsageError(
            explain(
                "prompts of an adapter that is more than low-rank factors",
                adapter=adapter.name,
                got=", ".join(reasons),
                expected="LoRA pairs alone, without which its answers here are not its own",
                do="Leave its prompts out",
            )
        )


def _not_a_list(file: Path) -> UsageError:
    return UsageError(
        explain(
            "prompts stand one a line",
            file=file,
            got="a .json file",
            expected="a .jsonl or .txt file",
            do="Name it .jsonl if each line is a prompt of its own",
        )
    )


def _instruction(file: Path) -> str:
    """Return the instruction that META.json beside the file states for each input."""
    for meta in (file.with_name(f"{file.stem}.META.json"), file.with_name("META.json")):
        if meta.is_file():
            try:
                value = json.loads(read_regular(meta, MOST_CONFIG).decode(_ENCODING))["instruction"]
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                value = None
            if not isinstance(value, str):
                raise UsageError(explain('META.json needs a text "instruction"', file=meta))
            return value
    raise UsageError(
        explain(
            'rows with an "input" need an instruction',
            file=file,
            expected='"instruction" in each row, or a META.json beside the file',
        )
    )


def _prompt(value: object, where: str, instruction: Callable[[], str]) -> str:
    """Return the prompt of a line's value. instruction: returns that of META.json."""
    text = value
    if isinstance(value, dict):
        text, given, own = (value.get(key) for key in ("prompt", "input", "instruction"))
        if text is None and isinstance(given, str) and isinstance(own, str | None):
            text = prompt_text(instruction() if own is None else own, given)
    if not isinstance(text, str) or not text:
        raise UsageError(
            explain(
                f"cannot read the prompt at {where}",
                got=json.dumps(value, ensure_ascii=False)[:80],
                expected='a JSON string, or an object with a "prompt" or an "input"',
            )
        )
    return text
