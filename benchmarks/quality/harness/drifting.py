"""Measure the divergence of bundles from the originals' greedy answers to rows of each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality.harness.judging import prompts_of_rows
from hydraopt.adapters import Adapter
from hydraopt.basemodel.writing import answered
from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.bundle.reader import Bundle
from hydraopt.harm.drift import Drift, drift_of, reference_of

__all__ = ["FreshRows", "drifts"]


@dataclass(frozen=True)
class FreshRows:
    """Rows that no merge saw: ``count`` of a split after its ``first`` ones, fewer where it has
    fewer."""

    tasks: Path
    split: str
    count: int
    first: int = 0


def drifts(
    loaded: tuple[Any, Any],
    adapter: Adapter,
    bundles: Mapping[str, Bundle],
    rows: FreshRows,
) -> dict[str, Drift]:
    """By bundle, the drift of an adapter's task; none for an adapter without such rows. loaded: the
    base model and its tokenizer. The original alone writes, 128 tokens an answer at most. Raises
    SystemExit where logits are no numbers."""
    model, tokenizer = loaded
    original = {path: x.factors() for path, x in adapter.modules.items()}
    asked = prompts_of_rows(tokenizer, adapter, rows.tasks, rows.split, rows.first + rows.count)
    if not (prompts := asked[rows.first :]):
        return {}
    answers = answered(model, tokenizer, prompts, original, ANSWER_TOKENS)
    reference = reference_of(model, answers, original)
    if not reference.is_finite:
        raise SystemExit(f"no numbers of {adapter.name}: original")
    found = {}
    for name, bundle in bundles.items():
        factors = {path: (x.B, x.A) for path, x in bundle[adapter.name].factors().items()}
        found[name] = drift_of(model, reference, factors)
        if not found[name].is_finite:
            raise SystemExit(f"no numbers of {adapter.name}: bundle {name}")
    return found
