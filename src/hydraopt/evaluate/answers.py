"""Answers that a result keeps: what base, original and bundles wrote, those that change first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydraopt.evaluate.run import Scores, TaskRows

__all__ = ["answer_rows"]


def answer_rows(rows: TaskRows, scores: Mapping[str, Scores], most: int) -> list[dict[str, Any]]:
    """Return at most ``most`` rows of a task, first those that change in most bundles.

    Other rows follow in file order. Fields of a row:

    row: index among the scored rows, from 0.
    input, expected: from the file.
    texts: the answers, by source.
    changed: sources whose answer differs from the original's in some token.

    Text that a tokenizer made of half a character keeps its replacement mark.
    """
    changes = [
        [name for name, one in scores.items() if one.changed is not None and one.changed[i]]
        for i in range(len(rows.rows))
    ]
    chosen = sorted(range(len(rows.rows)), key=lambda i: (-len(changes[i]), i))[:most]
    return [
        {
            "row": i,
            "input": rows.rows[i].input,
            "expected": rows.rows[i].output,
            "texts": {
                name: one.answers[i] for name, one in scores.items() if one.answers is not None
            },
            "changed": changes[i],
        }
        for i in chosen
    ]
