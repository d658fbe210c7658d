"""Train the adapters of a recipe that do not exist yet.

    python zoo/train.py --recipe zoo/recipes/examples.json [--only NAME]

An adapter folder appears only when it is complete, so an interrupted run is continued by starting
it again. Training stops when the validation loss no longer improves; the best state is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any

if __package__ in (None, ""):  # run as a script: make the package importable from its folder
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.bases import find_base, load_base
from zoo.batching import Encoded, collate, encode, target_logits, training_batches
from zoo.lora import Factors, attached, init_factors, read_peft, write_peft
from zoo.recipe import Plan, Recipe, read_recipe
from zoo.score import Score, score, score_encoded
from zoo.tasks import Task, first_rows, load_task

WARMUP = 0.05  # share of the steps; Adam's first steps are large while its averages are young
FLOOR = 0.05  # the cosine ends at this share of the rate, late steps still move
SAVE_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Fit:
    """What training gave: the best factors, how many steps were run and why they ended."""

    factors: dict[str, tuple[Tensor, Tensor]]
    steps: int
    best_step: int
    validation_nll: float
    stopped: str


def fit(
    model: Any,
    factors: dict[str, tuple[Tensor, Tensor]],
    plan: Plan,
    train: list[Encoded],
    validation: list[Encoded],
) -> Fit:
    """Minimise the mean loss per target token over `factors`; the model itself is frozen.

    Stops after `plan.patience` validations without a new best, when the validation loss is below
    `plan.solved_nll`, or after `plan.epochs`.
    """
    scale = plan.alpha / plan.rank
    parameters = [tensor for pair in factors.values() for tensor in pair]
    optimiser = torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=0.0)
    total = plan.epochs * (len(train) // plan.batch)
    rng = Random(f"{plan.seed}/order")
    best, best_step, best_state = math.inf, 0, _snapshot(factors)
    step, stale, stopped, started = 0, 0, "epochs", time.monotonic()
    with attached(model, factors, scale):
        for _epoch in range(plan.epochs):
            for items in training_batches(train, plan.batch, rng):
                for group in optimiser.param_groups:
                    group["lr"] = plan.lr * _rate(step / total)
                batch = collate(items)
                loss = F.cross_entropy(target_logits(model, batch), batch.labels)
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimiser.step()
                optimiser.zero_grad()
                step += 1
                if step % plan.validate_every and step != total:
                    continue
                found = score_encoded(model, validation)
                print(
                    f"  step {step:4d}/{total}  train {loss.item():.4f}  valid {found['nll']:.4f}"
                    f"  em {found['em']:.3f}  {time.monotonic() - started:.0f} s",
                    flush=True,
                )
                if found["nll"] < best:
                    best, best_step, best_state, stale = found["nll"], step, _snapshot(factors), 0
                else:
                    stale += 1
                if best <= plan.solved_nll or stale >= plan.patience:
                    stopped = "solved" if best <= plan.solved_nll else "patience"
                    return Fit(best_state, step, best_step, best, stopped)
    return Fit(best_state, step, best_step, best, stopped)


def _rate(done: float) -> float:
    """Factor on the learning rate after the share `done` of all steps: warm-up, then cosine."""
    if done < WARMUP:
        return max(done, 0.1 * WARMUP) / WARMUP
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))


def _snapshot(factors: Factors) -> dict[str, tuple[Tensor, Tensor]]:
    return {path: (b.detach().clone(), a.detach().clone()) for path, (b, a) in factors.items()}


def train_adapter(
    model: Any, tokenizer: Any, recipe: Recipe, plan: Plan, task: Task, folder: Path
) -> None:
    """Train one adapter and write its PEFT folder with `score.json`."""
    base = find_base(recipe.base)
    train = encode(tokenizer, first_rows(task.train, plan.rows), task.instruction, plan.max_tokens)
    validation = encode(
        tokenizer,
        first_rows(task.validation, plan.validation_rows),
        task.instruction,
        plan.max_tokens,
    )
    factors = init_factors(model, plan.targets, plan.rank, plan.init_seed)
    result = fit(model, factors, plan, train, validation)
    scratch = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    write_peft(
        scratch,
        result.factors,
        hub_id=base.hub_id,
        alpha=plan.alpha,
        dtype=SAVE_DTYPES[plan.save_dtype],
    )
    test = first_rows(task.test, plan.test_rows)
    before = score(model, tokenizer, test, task.instruction, plan.max_tokens)
    # What is scored is the file as written, rounding to the saved dtype included.
    with attached(model, read_peft(scratch)):
        after = score(model, tokenizer, test, task.instruction, plan.max_tokens)
    report = {
        "task": f"{plan.task}/{plan.language}",
        "base": recipe.base,
        "base_sha256": base.sha256,
        "rows": len(train),
        "epochs": plan.epochs,
        "batch": plan.batch,
        "lr": plan.lr,
        "seed": plan.seed,
        "shared_init": plan.shared_init,
        "steps": result.steps,
        "best_step": result.best_step,
        "stopped": result.stopped,
        "validation_nll": round(result.validation_nll, 4),
        "before": rounded(before),
        "after": rounded(after),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        },
    }
    (scratch / "score.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    scratch.rename(folder)
    print(f"{plan.name}: before {rounded(before)}, after {rounded(after)}", flush=True)


def rounded(found: Score) -> Score:
    """The score with four decimals, as `score.json` holds it."""
    return Score(
        nll=round(found["nll"], 4),
        tok=round(found["tok"], 4),
        em=round(found["em"], 4),
        n=found["n"],
    )


def main() -> None:
    """Command line: train what the recipe lists and the output folder lacks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--tasks", type=Path, help="folder of task folders; default: generate them")
    parser.add_argument("--output", type=Path, help="instead of the recipe's output folder")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="train only these adapters")
    args = parser.parse_args()
    recipe = read_recipe(args.recipe)
    output: Path = args.output or Path(recipe.output)
    wanted = [plan for plan in recipe.plans if not args.only or plan.name in args.only]
    missing = [plan for plan in wanted if not (output / plan.name).exists()]
    print(f"{len(wanted)} adapters wanted, {len(missing)} to train", flush=True)
    if not missing:
        return
    output.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_base(recipe.base)
    for plan in missing:
        task = load_task(plan.task, plan.language, args.tasks, seed=plan.seed)
        print(f"{plan.name}: training", flush=True)
        train_adapter(model, tokenizer, recipe, plan, task, output / plan.name)


if __name__ == "__main__":
    main()
