"""Measure harm for the evidence on answers to rows that are not used for scores.

Everything between the evidence and hydraopt's judge is here: which prompts it gets, and how it is
made.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydraopt.adapters import Adapter
from hydraopt.basemodel.encoding import Encoded, encode_row
from hydraopt.basemodel.model import load_model
from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.evaluate.taskfile import named_task, read_task_file
from hydraopt.harm.judge import AnswerJudge
from hydraopt.merging.look import HarmSettings

__all__ = [
    "ASKS_PROMPTS",
    "JUDGED_ON",
    "SPLITS",
    "add_prompts",
    "judge_of",
    "loaded_model",
    "prompts_hash",
    "prompts_of",
    "prompts_of_rows",
]

SPLITS = ("train", "validation")
"""Rows that prompts may be of: those that the adapter was trained on, and others; never test rows.
"""
JUDGED_ON = 64
"""Prompts of a task."""
ASKS_PROMPTS = {"judge", "sensitivity"}
"""Options of a method (benchmarks.quality.sets) for which somebody looks at prompts."""


def prompts_of(
    tokenizer: Any, adapters: Sequence[Adapter], tasks: Path, split: str, count: int
) -> dict[str, list[Encoded]]:
    """The inputs of the first rows of each adapter's task, laid out as for scoring, without their
    labels; fewer where the split has fewer.

    Raises ValueError for the split that scores are taken on.
    """
    if split not in SPLITS:
        raise ValueError(f"prompts are of {' or '.join(SPLITS)} rows, never of {split} rows")
    return {x.name: prompts_of_rows(tokenizer, x, tasks, split, count) for x in adapters}


def prompts_hash(adapters: Sequence[Adapter], tasks: Path) -> str:
    """Of all rows that prompts of these adapters may be of, and of how they are asked."""
    digest = hashlib.sha256()
    for adapter in adapters:
        folder = tasks.joinpath(*named_task(adapter.name, adapter.source.parent, tasks)[:2])
        rows = (folder / f"{split}.jsonl" for split in SPLITS)
        for file in (folder.parent / "META.json", *rows):
            digest.update(file.read_bytes() if file.is_file() else b"-")
    return digest.hexdigest()[:16]


def prompts_of_rows(
    tokenizer: Any, adapter: Adapter, tasks: Path, split: str, count: int
) -> list[Encoded]:
    """The same of one adapter and any split, test rows as well."""
    task, language, _ = named_task(adapter.name, adapter.source.parent, tasks)
    file = read_task_file(tasks, task, language, split)
    asked = [encode_row(tokenizer, file.instruction, row.input, "") for row in file.rows[:count]]
    return [Encoded(item.prompt, ()) for item in asked]


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """The options that say which prompts."""
    parser.add_argument(
        "--prompts-from", choices=SPLITS, default=SPLITS[0], help="rows that harm is measured on"
    )
    parser.add_argument("--prompts", type=int, default=JUDGED_ON, help="such rows of a task")


loaded_model = functools.cache(load_model)


@functools.cache
def judge_of(
    base: str,
    adapters: tuple[Adapter, ...],
    tasks: Path,
    split: str,
    count: int,
    learned: int = 0,
    answer_tokens: int = ANSWER_TOKENS,
) -> AnswerJudge:
    """What hydraopt.merge takes as its judge; kept, with all it has measured, for the bundles of a
    run. learned: training rows of a task that a refit takes besides; no harm is told of them.
    answer_tokens: of an answer that are judged, at most."""
    loaded = loaded_model(base)
    prompts = {
        name: list(dict.fromkeys(rows))
        for name, rows in prompts_of(loaded[1], adapters, tasks, split, count).items()
    }
    settings = HarmSettings(prompts=count, answer_tokens=answer_tokens)
    if learned:
        # The first prompts of every task judge; a task with fewer would have training rows judge.
        first = min(map(len, prompts.values()))
        seen = count if split == "train" else 0
        rows = prompts_of(loaded[1], adapters, tasks, "train", seen + learned)
        prompts = {name: [*asked[:first], *rows[name][seen:]] for name, asked in prompts.items()}
        settings = replace(settings, prompts_if_refit=first, refit_prompts=first + learned)
    given = base, adapters, prompts
    return AnswerJudge(*given, refits=bool(learned), settings=settings, loaded=loaded)
