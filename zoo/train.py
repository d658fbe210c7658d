"""Train the adapters of a recipe that do not exist yet.

    python -m zoo.train --recipe zoo/recipes/examples.json [--only NAME]

An adapter folder appears only when it is complete, and a checkpoint is kept at every validation, so
an interrupted run is continued by starting it again. Training stops when the validation loss no
longer improves; the best state is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from zoo.bases import find_base, load_base
from zoo.batching import Encoded, collate, encode, mean_loss, training_batches
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

    factors: Factors
    steps: int
    best_step: int
    validation_nll: float
    stopped: str


@dataclass
class _Progress:
    """How far a training run is: what its checkpoint holds besides factors and optimiser."""

    step: int = 0
    stale: int = 0
    best: float = math.inf
    best_step: int = 0
    seconds: float = 0.0


def fit(
    model: Any,
    factors: dict[str, tuple[Tensor, Tensor]],
    plan: Plan,
    train: list[Encoded],
    validation: list[Encoded],
    checkpoint: Path | None = None,
    base: str = "",
) -> Fit:
    """Minimise the mean loss per target token over `factors`, which the frozen model has attached.

    Stops after `plan.patience` validations without a new best, when the validation loss is below
    `plan.solved_nll`, or after `plan.epochs`. checkpoint: written after each validation; a run that
    finds one of the same plan, rows and ``base``, which says what model it is, goes on from there.
    RecipeError where the rows make no step.
    """
    parameters = [tensor for pair in factors.values() for tensor in pair]
    optimiser = torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=0.0)
    total = plan.steps(len(train))
    rng = Random(f"{plan.seed}/order")
    made_of = _made_from(plan, base, train, validation)
    at, best_state = _resumed(checkpoint, made_of, factors, optimiser)
    started = time.monotonic() - at.seconds
    number = 0
    for _epoch in range(plan.epochs):
        for items in training_batches(train, plan.batch, rng):
            number += 1
            if number <= at.step:
                continue
            for group in optimiser.param_groups:
                group["lr"] = plan.lr * _rate(at.step / total)
            loss = mean_loss(model, collate(items))
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            at.step = number
            if at.step % plan.validate_every and at.step != total:
                continue
            found = score_encoded(model, validation)
            at.seconds = time.monotonic() - started
            print(
                f"  step {at.step:4d}/{total}  train {loss.item():.4f}  valid {found['nll']:.4f}"
                f"  em {found['em']:.3f}  {at.seconds:.0f} s",
                flush=True,
            )
            if found["nll"] < at.best:
                at.best, at.best_step, at.stale = found["nll"], at.step, 0
                best_state = _snapshot(factors)
            else:
                at.stale += 1
            if at.best <= plan.solved_nll or at.stale >= plan.patience:
                stopped = "solved" if at.best <= plan.solved_nll else "patience"
                return Fit(best_state, at.step, at.best_step, at.best, stopped)
            if checkpoint:
                _save(checkpoint, made_of, factors, optimiser, at, best_state)
    return Fit(best_state, at.step, at.best_step, at.best, "epochs")


def _made_from(
    plan: Plan, base: str, train: Sequence[Encoded], validation: Sequence[Encoded]
) -> dict[str, str]:
    """What a checkpoint depends on."""
    rows = repr([[(x.prompt, x.target) for x in items] for items in (train, validation)])
    return {
        "plan": repr(plan),
        "base": base,
        "rows": hashlib.sha256(rows.encode()).hexdigest(),
    }


def _resumed(
    checkpoint: Path | None,
    made_of: Mapping[str, str],
    factors: dict[str, tuple[Tensor, Tensor]],
    optimiser: torch.optim.Optimizer,
) -> tuple[_Progress, Factors]:
    """Where the checkpoint of the same plan, base and rows was, with factors and optimiser as they
    were then; the start if there is none. Also the best factors so far."""
    if checkpoint and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        others = [key for key, value in made_of.items() if state.get(key) != value]
        if not others:
            _fill(factors, state["factors"])
            optimiser.load_state_dict(state["optimiser"])
            at = _Progress(**state["progress"])
            print(f"  going on at step {at.step}", flush=True)
            return at, state["best"]
        print(f"  the checkpoint has another {', '.join(others)}: starting anew", flush=True)
    return _Progress(), _snapshot(factors)


def _save(
    file: Path,
    made_of: Mapping[str, str],
    factors: Factors,
    optimiser: Any,
    at: _Progress,
    best: Factors,
) -> None:
    state = {
        **made_of,
        "factors": _snapshot(factors),
        "optimiser": optimiser.state_dict(),
        "progress": vars(at),
        "best": best,
    }
    scratch = file.with_suffix(".new")
    torch.save(state, scratch)
    scratch.replace(file)


def _fill(factors: Factors, values: Factors) -> None:
    """Overwrite in place, so that hooks, and code compiled for them, stay as they are."""
    with torch.no_grad():
        for path, pair in factors.items():
            for mine, theirs in zip(pair, values[path], strict=True):
                mine.copy_(theirs)


def _rate(done: float) -> float:
    """Factor on the learning rate after the share `done` of all steps: warm-up, then cosine."""
    if done < WARMUP:
        return max(done, 0.1 * WARMUP) / WARMUP
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))


def _snapshot(factors: Factors) -> dict[str, tuple[Tensor, Tensor]]:
    return {path: (b.detach().clone(), a.detach().clone()) for path, (b, a) in factors.items()}


def train_adapter(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    plan: Plan,
    task: Task,
    folder: Path,
    factors: dict[str, tuple[Tensor, Tensor]],
) -> None:
    """Train one adapter in `factors`, attached to the model, and write its folder."""
    base = find_base(recipe.base)
    rows = first_rows(task.train[plan.skip :], plan.rows)
    train = encode(tokenizer, rows, task.instruction, plan.max_tokens)
    plan.steps(len(train))  # before anything is written
    validation = encode(
        tokenizer,
        first_rows(task.validation, plan.validation_rows),
        task.instruction,
        plan.max_tokens,
    )
    test = first_rows(task.test, plan.test_rows)
    _fill(factors, init_factors(model, plan.targets, plan.rank, plan.init_seed))
    # B is zero now: with the factors attached the model still is the base.
    before = score(model, tokenizer, test, task.instruction, plan.max_tokens) if test else None
    scratch = folder.with_name(f".{folder.name}.partial")
    scratch.mkdir(parents=True, exist_ok=True)
    checkpoint = scratch / "checkpoint.pt"
    result = fit(model, factors, plan, train, validation, checkpoint, _named(recipe))
    write_peft(
        scratch,
        result.factors,
        hub_id=base.hub_id,
        alpha=plan.alpha,
        dtype=SAVE_DTYPES[plan.save_dtype],
    )
    after = None
    if test:
        # What is scored is the file as written, rounding to the saved dtype included.
        written = {
            path: (b * (plan.rank / plan.alpha), a) for path, (b, a) in read_peft(scratch).items()
        }
        _fill(factors, written)
        after = score(model, tokenizer, test, task.instruction, plan.max_tokens)
    report = {
        "task": f"{plan.task}/{plan.language}",
        "base": recipe.base,
        "base_sha256": base.sha256,
        "dtype": recipe.dtype,
        "rows": len(train),
        **_about(plan, result),
        "before": rounded(before) if before else None,
        "after": rounded(after) if after else None,
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        },
    }
    (scratch / "score.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    checkpoint.unlink(missing_ok=True)
    scratch.rename(folder)
    print(f"{plan.name}: {result.stopped} after {result.steps} steps", flush=True)


def _named(recipe: Recipe) -> str:
    """The model that is trained on, and the numbers that it has."""
    return f"{recipe.base} {find_base(recipe.base).sha256} {recipe.dtype}"


def _about(plan: Plan, result: Fit) -> dict[str, Any]:
    """What `score.json` says of the training."""
    return {
        "epochs": plan.epochs,
        "batch": plan.batch,
        "lr": plan.lr,
        "seed": plan.seed,
        "shared_init": plan.shared_init,
        **({"peft_init": True} if plan.peft_init else {}),
        "steps": result.steps,
        "best_step": result.best_step,
        "stopped": result.stopped,
        "validation_nll": round(result.validation_nll, 4),
    }


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
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the layers first: a minute once, then about a fifth faster",
    )
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
    model, tokenizer = load_base(recipe.base, getattr(torch, recipe.dtype))
    if args.compile:
        for layer in model.model.layers:
            layer.compile(dynamic=True)
    for (targets, rank, alpha), plans in _by_shape(missing).items():
        factors = init_factors(model, targets, rank, seed="any")
        with attached(model, factors, alpha / rank):
            for plan in plans:
                task = load_task(plan.task, plan.language, args.tasks, seed=plan.seed)
                print(f"{plan.name}: training", flush=True)
                folder = output / plan.name
                train_adapter(model, tokenizer, recipe, plan, task, folder, factors)


def _by_shape(plans: list[Plan]) -> dict[tuple[tuple[str, ...], int, float], list[Plan]]:
    """Plans whose factors have the same shapes and scale can share them, one after the other."""
    found: dict[tuple[tuple[str, ...], int, float], list[Plan]] = {}
    for plan in plans:
        found.setdefault((plan.targets, plan.rank, plan.alpha), []).append(plan)
    return found


if __name__ == "__main__":
    main()
