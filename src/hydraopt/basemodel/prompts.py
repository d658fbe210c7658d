"""Prompts out of files: what a user asks of each task, without labels."""

from __future__ import annotations

import json
from pathlib import Path

from hydraopt.errors import UsageError, explain
from hydraopt.files.reading import read_regular

__all__ = ["read_prompts"]

_MOST_BYTES = 1 << 28


def read_prompts(path: str | Path) -> list[str]:
    """Prompts, one a line, exactly as the model gets them: plain text, or in a ``.jsonl`` file JSON
    strings or objects with a ``prompt``. Raises UsageError."""
    file = Path(path)
    try:
        lines = read_regular(file, _MOST_BYTES).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(explain("cannot read the prompts", file=file, got=error)) from None
    prompts = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            prompts.append(_prompt(line, f"{file}:{number}") if file.suffix == ".jsonl" else line)
    if not prompts:
        raise UsageError(explain("no prompt in the file", file=file, expected="one a line"))
    return prompts


def _prompt(line: str, where: str) -> str:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    text = said.get("prompt") if isinstance(said, dict) else said
    if not isinstance(text, str) or not text:
        raise UsageError(
            explain(
                f"cannot read the prompt at {where}",
                got=line[:80],
                expected='a JSON string, or an object with a "prompt"',
            )
        )
    return text
