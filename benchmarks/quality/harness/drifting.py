"""How far bundles drift from the originals' own greedy answers to some rows of each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import save_json
from benchmarks.quality.harness.building import inputs_of
from benchmarks.quality.harness.judging import prompts_of_rows
from benchmarks.quality.harness.resumed import files_of, gone_on
from hydraopt.adapters import Adapter
from hydraopt.basemodel.model import load_model
from hydraopt.basemodel.products import products_of
from hydraopt.basemodel.writing import answered
from hydraopt.bundle.harm import ANSWER_TOKENS
from hydraopt.bundle.reader import Bundle, open_bundle
from hydraopt.files.reading import file_hash
from hydraopt.harm.drift import Drift, Summary, drift_of, reference_of

__all__ = ["FreshRows", "drifts", "harms"]


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


def harms(
    place: Path,
    name: str,
    adapters: Sequence[Adapter],
    made: Mapping[str, Path],
    rows: FreshRows,
    base: str,
    products: str,
) -> dict[str, dict[str, Summary]]:
    """By adapter and bundle, what the drift comes to; saved after each adapter in ``place``, named
    by the rows, where a run that was cut off goes on.

    name: of the study there. made: bundles by name. products: of the base model, as hydraopt eval
    takes them. Raises SystemExit where the file there is of something else, and as of
    :func:`drifts`.
    """
    split = f"{rows.split}-{rows.first}-{rows.count}-{products}"
    state = place / f"{name}-{split}-{inputs_of(adapters)}.harm.json"
    made_of = {
        "bundles": {name: file_hash(path) for name, path in made.items()},
    }
    before, head = gone_on(state, made_of, files_of(adapters, rows.tasks, [rows.split]))
    tasks: dict[str, dict[str, list[float]]] = before.get("tasks", {})
    left = [x for x in adapters if x.name not in tasks]
    bundles = {name: open_bundle(path) for name, path in made.items()}
    loaded = load_model(base) if left else (None, None)
    for adapter in left:
        with products_of(products):
            found = drifts(loaded, adapter, bundles, rows)
        tasks[adapter.name] = {name: list(drift.summary()) for name, drift in found.items()}
        save_json(state, {**head, "tasks": tasks})
        print(f"{adapter.name}: measured, {len(tasks)} of {len(adapters)}", flush=True)
    return {
        x.name: {name: Summary._make(told) for name, told in tasks[x.name].items()}
        for x in adapters
    }
