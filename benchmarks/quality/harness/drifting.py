"""How far bundles drift from the originals' own greedy answers to some rows of a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.quality.harness.judging import prompts_of_rows
from hydraopt.adapters import Adapter
from hydraopt.basemodel.harm import Drift, drift_of, reference_of
from hydraopt.basemodel.writing import answered
from hydraopt.bundle.reader import Bundle
from hydraopt.merging.harm.judging import ANSWER_TOKENS

__all__ = ["drifts"]


def drifts(
    loaded: tuple[Any, Any],
    adapter: Adapter,
    bundles: Mapping[str, Bundle],
    tasks: Path,
    split: str,
    count: int,
) -> dict[str, Drift]:
    """By bundle, the drift of an adapter's task on the first rows of any split. loaded: the base
    model and its tokenizer. The original alone writes, 128 tokens an answer at most."""
    model, tokenizer = loaded
    original = {path: x.factors() for path, x in adapter.modules.items()}
    prompts = prompts_of_rows(tokenizer, adapter, tasks, split, count)
    answers = answered(model, tokenizer, prompts, original, ANSWER_TOKENS)
    reference = reference_of(model, answers, original)
    found = {}
    for name, bundle in bundles.items():
        factors = {path: (x.B, x.A) for path, x in bundle[adapter.name].factors().items()}
        found[name] = drift_of(model, reference, factors)
    return found
