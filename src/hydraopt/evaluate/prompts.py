"""What ``merge --base`` and ``--prompts`` do: see with the base model which modules matter.

Each adapter reads a few texts of its own: those that it writes unasked, or its answers to prompts
of its task. No label is needed. The result is what :func:`hydraopt.merge` takes as ``sensitivity``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydraopt.adapters import Adapter
from hydraopt.errors import UsageError, explain
from hydraopt.evaluate.encoding import Encoded
from hydraopt.evaluate.model import load_model
from hydraopt.evaluate.run import Progress
from hydraopt.evaluate.sensitivity import answered, look, self_written, sensitivities

__all__ = ["POWER", "TEXTS", "read_prompts", "seen_with"]

TEXTS = 8
"""Texts of an adapter; more change little."""
POWER = 0.5
"""What was seen counts to this power: it is seen at the adapter itself, and errors are not small
enough for that to hold all the way (docs/log.md)."""


def read_prompts(path: str | Path) -> list[str]:
    """Prompts, one a line, exactly as the model gets them: plain text, or in a ``.jsonl`` file JSON
    strings or objects with a ``prompt``. Raises UsageError."""
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(explain("cannot read the prompts", file=file, got=error)) from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_prompt(line, f"{file}:{number}") if file.suffix == ".jsonl" else line)
    if not found:
        raise UsageError(explain("no prompt in the file", file=file, expected="one a line"))
    return found


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


def seen_with(
    base: str,
    adapters: Sequence[Adapter],
    prompts: Mapping[str, Sequence[str]],
    progress: Progress | None = None,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Sensitivities of every adapter by module path, tempered (:data:`POWER`).

    base: a folder or name that transformers loads. prompts: by task; a task without any is seen on
    what it writes on its own. Raises UsageError for prompts of an unknown task and AlignmentError
    for modules that the base does not have as linear ones.
    """
    unknown = sorted(set(prompts) - {adapter.name for adapter in adapters})
    if unknown:
        names = ", ".join(adapter.name for adapter in adapters)
        raise UsageError(
            explain("prompts of a task that is not there", got=", ".join(unknown), expected=names)
        )
    model, tokenizer = load_model(base)
    found = {}
    for number, adapter in enumerate(adapters):
        factors = {path: module.factors() for path, module in adapter.modules.items()}
        if adapter.name in prompts:
            asked = [_encoded(tokenizer, text) for text in prompts[adapter.name][:TEXTS]]
            texts = answered(model, tokenizer, asked, factors)
        else:
            texts = self_written(model, tokenizer, factors, TEXTS, seed + number)
        seen = sensitivities(look(model, texts, factors), factors)
        found[adapter.name] = {path: value**POWER for path, value in seen.items()}
        if progress:
            progress("seeing what matters", number + 1, len(adapters))
    return found


def _encoded(tokenizer: Any, text: str) -> Encoded:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    return Encoded((*start, *ids), ())
