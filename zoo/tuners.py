"""Adapters that PEFT itself makes: classification with a trained head, and tuners besides LoRA.

`zoo.train` hands the plans here whose `kind` is "classification" or whose `tuner` is not "lora".
They take minutes, so there are no checkpoints. Everything that is trained is float32; the products
are those of the base's dtype.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import peft
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from zoo.bases import base_folder, load_base
from zoo.batching import collate, encode, mean_loss, training_batches
from zoo.recipe import Plan, Recipe
from zoo.tasks import Task, first_rows

__all__ = ["head_model", "labels_of", "train_tuner"]

_Loss = Callable[[Sequence[Any]], Tensor]


def labels_of(task: Task) -> list[str]:
    """The labels in the order of the head's rows: sorted by code point."""
    return sorted({row["output"] for row in (*task.train, *task.validation, *task.test)})


def head_model(folder: Path, labels: int, dtype: torch.dtype) -> Any:
    """A base with a new head of `labels` rows, which pools the last token that is no padding."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=labels, dtype=dtype
    )
    model.config.pad_token_id = AutoTokenizer.from_pretrained(folder).eos_token_id
    return model


def train_tuner(recipe: Recipe, plan: Plan, task: Task, folder: Path, about: Any) -> None:
    """Train one adapter with PEFT and write its folder, which appears only when it is complete.

    about: what `score.json` says besides the course of the training.
    """
    torch.manual_seed(plan.seed)
    dtype = getattr(torch, recipe.dtype)
    base, tokenizer = load_base(recipe.base, dtype)
    labels = labels_of(task) if plan.kind == "classification" else []
    if labels:
        base = head_model(base_folder(recipe.base, dtype), len(labels), dtype)
    model: Any = peft.get_peft_model(base, _config(plan))
    trained = {name: x for name, x in model.named_parameters() if x.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.float()
    encoded = {
        split: _encoded(tokenizer, plan, rows, task.instruction, labels, count)
        for split, rows, count in (
            ("train", task.train[plan.skip :], plan.rows),
            ("validation", task.validation, plan.validation_rows),
        )
    }
    loss_of: _Loss = _loss_of_labels(model) if labels else _loss_of_text(base)
    course = _fit(plan, trained, encoded["train"], encoded["validation"], loss_of)
    scratch = folder.with_name(f".{folder.name}.partial")
    _save(model, scratch, plan, about["hub_id"])
    report = {
        "task": f"{plan.task}/{plan.language}",
        **({"labels": labels} if labels else {}),
        **{key: value for key, value in about.items() if key != "hub_id"},
        "rows": len(encoded["train"]),
        **course,
    }
    (scratch / "score.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    scratch.rename(folder)
    print(f"{plan.name}: {course['steps']} steps, {course['seconds']} s", flush=True)


def _config(plan: Plan) -> Any:
    """PEFT's config of the plan's tuner."""
    shared: dict[str, Any] = {
        "task_type": "SEQ_CLS" if plan.kind == "classification" else "CAUSAL_LM",
        "target_modules": list(plan.targets),
    }
    scaled = {"r": plan.rank, "lora_alpha": plan.alpha, **shared}
    made: dict[str, Callable[[], Any]] = {
        "lora": lambda: peft.LoraConfig(**scaled),
        "dora": lambda: peft.LoraConfig(use_dora=True, **scaled),
        "loha": lambda: peft.LoHaConfig(r=plan.rank, alpha=int(plan.alpha), **shared),
        "lokr": lambda: peft.LoKrConfig(r=plan.rank, alpha=int(plan.alpha), **shared),
        "ia3": lambda: peft.IA3Config(
            feedforward_modules=[x for x in plan.targets if x == "down_proj"], **shared
        ),
        "oft": lambda: peft.OFTConfig(r=0, oft_block_size=32, **shared),
    }
    return made[plan.tuner]()


def _encoded(
    tokenizer: Any,
    plan: Plan,
    rows: Any,
    instruction: str,
    labels: Sequence[str],
    count: int | None,
) -> list[Any]:
    """The first `count` rows as token ids, with the label's number for a classification."""
    if not labels:
        return list(encode(tokenizer, first_rows(rows, count), instruction, plan.max_tokens))
    found = [
        _Labelled(tokenizer(row["input"])["input_ids"], labels.index(row["output"]))
        for row in first_rows(rows, count)
    ]
    return [x for x in found if plan.max_tokens is None or len(x) <= plan.max_tokens]


class _Labelled:
    """Token ids of one text and the number of its label."""

    def __init__(self, ids: list[int], label: int) -> None:
        self.ids, self.label = ids, label

    def __len__(self) -> int:
        return len(self.ids)


def _loss_of_labels(model: Any) -> _Loss:
    """Mean cross-entropy of the labels, in nats."""

    def loss(items: Sequence[Any]) -> Tensor:
        padding = model.config.pad_token_id
        ids = pad_sequence([torch.tensor(x.ids) for x in items], True, padding)
        mask = pad_sequence([torch.ones(len(x), dtype=torch.long) for x in items], True)
        logits = model(input_ids=ids, attention_mask=mask).logits
        return F.cross_entropy(logits.float(), torch.tensor([x.label for x in items]))

    return loss


def _loss_of_text(model: Any) -> _Loss:
    return lambda items: mean_loss(model, collate(items))


def _fit(
    plan: Plan,
    trained: dict[str, Any],
    train: Sequence[Any],
    validation: Sequence[Any],
    loss_of: _Loss,
) -> dict[str, Any]:
    """Train to the end of `plan.epochs`, or until no validation was better for `plan.patience`; the
    best state is kept. Returns the course, for `score.json`."""
    optimiser = torch.optim.AdamW(trained.values(), lr=plan.lr, weight_decay=0.0)
    total = plan.steps(len(train))
    started, step, best, stale = time.monotonic(), 0, (math.inf, 0), 0
    state: dict[str, Tensor] = {}
    for items in _epochs(train, plan):
        step += 1
        optimiser.param_groups[0]["lr"] = plan.lr * _rate(step / total)
        with torch.autocast("cpu", torch.bfloat16, enabled=plan.products == "bfloat16"):
            loss = loss_of(items)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if step % plan.validate_every and step != total:
            continue
        found = _mean(plan, validation, loss_of)
        spent = time.monotonic() - started
        print(f"  step {step:4d}/{total}  train {loss.item():.4f}", end="", flush=True)
        print(f"  valid {found:.4f}  {spent:.0f} s", flush=True)
        stale += 1
        if found < best[0]:
            best, stale = (found, step), 0
            state = {name: x.detach().clone() for name, x in trained.items()}
        if best[0] <= plan.solved_nll or stale >= plan.patience:
            break
    for name, x in state.items():
        trained[name].data.copy_(x)
    return {
        **{key: getattr(plan, key) for key in ("kind", "tuner", "batch", "lr", "seed")},
        "steps": step,
        "best_step": best[1],
        "validation_nll": round(best[0], 4),
        "seconds": round(time.monotonic() - started),
    }


def _epochs(train: Sequence[Any], plan: Plan) -> Iterator[list[Any]]:
    rng = Random(f"{plan.seed}/order")
    for _ in range(plan.epochs):
        yield from training_batches(train, plan.batch, rng)


def _rate(done: float) -> float:
    """Factor on the learning rate: 5 % of warm-up, then a cosine to 5 %."""
    return min(done / 0.05, 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


@torch.no_grad()
def _mean(plan: Plan, items: Sequence[Any], loss_of: _Loss) -> float:
    """Mean of the batches' losses."""
    chunks = [items[i : i + plan.batch] for i in range(0, len(items), plan.batch)]
    with torch.autocast("cpu", torch.bfloat16, enabled=plan.products == "bfloat16"):
        return sum(loss_of(x).item() * len(x) for x in chunks) / len(items)


def _save(model: Any, folder: Path, plan: Plan, hub_id: str) -> None:
    """What PEFT writes, in the plan's dtype, with a config that is the same in every run."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, plan.save_dtype))
    config = model.peft_config["default"]
    config.base_model_name_or_path = hub_id
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # a form to fill in
    file = folder / "adapter_config.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    for key, value in written.items():
        # PEFT holds them in sets, whose order differs from run to run.
        if key.endswith("_modules") and isinstance(value, list):
            written[key] = sorted(value)
    file.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
