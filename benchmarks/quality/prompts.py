"""Prompts of an adapter's task from the rows of task files, for methods that learn from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hydraopt.adapters import Adapter
from hydraopt.evaluate.tasks import named_task, read_task_file
from hydraopt.model import prompt_text

__all__ = ["FRESH", "prompts_hash", "real_prompts"]

FRESH: Final = 64
"""Number of rows that an adapter has not seen among the prompts of a refit."""


def real_prompts(adapter: Adapter, tasks: Path, count: int, fresh: int = FRESH) -> Sequence[str]:
    """Return the adapter's first prompts: rows it has not seen, then rows it was trained on.

    fresh: maximum number of the former, the first rows of the validation split.
    """
    name, language, _ = named_task(adapter.name, adapter.source.parent, tasks)
    files = [read_task_file(tasks, name, language, split) for split in ("validation", "train")]
    unseen, trained = ([prompt_text(x.instruction, row.input) for row in x.rows] for x in files)
    return list(dict.fromkeys([*unseen[:fresh], *trained]))[:count]


def prompts_hash(prompts: Mapping[str, Sequence[str]]) -> str:
    """Return a hash of the prompts of some tasks."""
    return hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()[:16]
