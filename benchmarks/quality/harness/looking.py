"""Look at adapters with the base model for the evidence, beside their harm."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import package_hash
from benchmarks.quality.harness.building import inputs_of
from benchmarks.quality.harness.judging import prompts_hash, prompts_of_rows
from hydraopt.adapters import Adapter
from hydraopt.basemodel.encoding import Encoded
from hydraopt.basemodel.model import load_model
from hydraopt.basemodel.products import products_of
from hydraopt.basemodel.sensitivity import looks, self_written, sensitivities
from hydraopt.basemodel.writing import answered
from hydraopt.merging.look import DEFAULT_HARM

__all__ = ["seen_by", "texts_of"]


def texts_of(
    kind: str,
    model: Any,
    tokenizer: Any,
    adapter: Adapter,
    tasks: Path,
    seed: int,
    split: str = "train",
    count: int = DEFAULT_HARM.sensitivity_texts,
) -> list[Encoded]:
    """What an adapter's sensitivities are seen on: "self", eight texts that it writes on its own,
    or "prompts", its answers to the inputs of so many rows of a split, eight at most."""
    factors = {path: module.factors() for path, module in adapter.modules.items()}
    if kind == "self":
        return self_written(model, tokenizer, factors, DEFAULT_HARM.sensitivity_texts, seed)
    prompts = prompts_of_rows(
        tokenizer, adapter, tasks, split, min(count, DEFAULT_HARM.sensitivity_texts)
    )
    return answered(model, tokenizer, prompts, factors)


def seen_by(
    base: str,
    adapters: Sequence[Adapter],
    kind: str,
    tasks: Path,
    folder: Path,
    split: str = "train",
    count: int = DEFAULT_HARM.sensitivity_texts,
) -> dict[str, dict[str, float]]:
    """Sensitivities of every adapter, from texts of that kind; noted in the folder, of today's code
    and of these tasks' prompts. split, count: of the prompts, as of :func:`texts_of`."""
    of = f"{package_hash()}-{prompts_hash(adapters, tasks)}-{inputs_of(adapters)}"
    seen = (
        f"{kind}-{min(count, DEFAULT_HARM.sensitivity_texts)}-{split}"
        if kind == "prompts"
        else kind
    )
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
