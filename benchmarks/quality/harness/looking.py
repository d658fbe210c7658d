"""What the evidence sees of adapters with the base model at hand, beside their harm."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import package_hash
from benchmarks.quality.harness.building import inputs_of
from benchmarks.quality.harness.judging import prompts_hash, prompts_of_rows
from hydraopt.adapters import Adapter
from hydraopt.basemodel.encoding import Encoded, prompt_text
from hydraopt.basemodel.model import load_model
from hydraopt.basemodel.onlooker import PROMPTS, TEXTS, Onlooker
from hydraopt.basemodel.products import products_of
from hydraopt.basemodel.sensitivity import looks, self_written, sensitivities
from hydraopt.basemodel.writing import answered
from hydraopt.evaluate.taskfile import read_task_file, task_of

__all__ = ["onlooker_of", "seen_by", "texts_of"]


@functools.cache
def onlooker_of(base: str, adapters: tuple[Adapter, ...], tasks: Path) -> Onlooker:
    """What looks at the adapters' answers to the inputs of training rows; kept, with the answers,
    for all bundles of a run."""
    prompts = {}
    for adapter in adapters:
        task, language = task_of(adapter.name, adapter.source.parent, tasks)
        file = read_task_file(tasks, task, language, "train")
        prompts[adapter.name] = [
            prompt_text(file.instruction, row.input) for row in file.rows[:PROMPTS]
        ]
    return Onlooker(base, adapters, prompts)


def texts_of(
    kind: str,
    model: Any,
    tokenizer: Any,
    adapter: Adapter,
    tasks: Path,
    seed: int,
    split: str = "train",
    count: int = TEXTS,
) -> list[Encoded]:
    """What an adapter's sensitivities are seen on: "self", eight texts that it writes on its own,
    or "prompts", its answers to the inputs of so many rows of a split, eight at most."""
    factors = {path: module.factors() for path, module in adapter.modules.items()}
    if kind == "self":
        return self_written(model, tokenizer, factors, TEXTS, seed)
    prompts = prompts_of_rows(tokenizer, adapter, tasks, split, min(count, TEXTS))
    return answered(model, tokenizer, prompts, factors)


def seen_by(
    base: str,
    adapters: Sequence[Adapter],
    kind: str,
    tasks: Path,
    folder: Path,
    split: str = "train",
    count: int = TEXTS,
) -> dict[str, dict[str, float]]:
    """Sensitivities of every adapter, from texts of that kind; noted in the folder, of today's code
    and of these tasks' prompts. split, count: of the prompts, as of :func:`texts_of`."""
    of = f"{package_hash()}-{prompts_hash(adapters, tasks)}-{inputs_of(adapters)}"
    seen = f"{kind}-{min(count, TEXTS)}-{split}" if kind == "prompts" else kind
    note = folder / f"sensitivity-{seen}-{of}.json"
    if not note.is_file():
        model, tokenizer = load_model(base)
        found = {}
        with products_of("bfloat16"):
            for number, adapter in enumerate(adapters):
                factors = {path: module.factors() for path, module in adapter.modules.items()}
                given = kind, model, tokenizer, adapter, tasks, number, split, count
                texts = texts_of(*given)
                found[adapter.name] = sensitivities(looks(model, texts, factors), factors)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(found))
    known: dict[str, dict[str, float]] = json.loads(note.read_text())
    return known
