"""Make sets of redundant adapters: near copies, and checkpoints of one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np

from benchmarks.common import ROOT
from hydraopt.adapters import Adapter, read_adapters

__all__ = ["checkpoints", "near_copies"]

_STEPS, _BATCH, _EVERY = 40, 8, 2
"""Of the run whose last checkpoints are taken."""
_PLAN = "dates-de"
"""The adapter of the examples that it trains again."""


def near_copies(source: Path, folder: Path, count: int, noise: float) -> Sequence[Adapter]:
    """Write ``count`` copies of the PEFT folder ``source`` to ``folder``, and return them.

    The first is as it is. noise: Gaussian, on every number of both factors of the others, in units
    of the root mean square of its matrix; 0 for equal ones.
    """
    import torch

    from zoo.lora import read_peft, write_peft

    factors = read_peft(source)
    (rank,) = {b.shape[1] for b, _ in factors.values()}
    for number in range(count):
        rng = np.random.default_rng(number)

        def moved(x: torch.Tensor, rng: np.random.Generator = rng) -> torch.Tensor:
            step = noise * float(x.square().mean().sqrt())
            return x + step * torch.from_numpy(rng.standard_normal(x.shape)).float()

        pairs = {p: (moved(b), moved(a)) for p, (b, a) in factors.items()} if number else factors
        write_peft(folder / f"copy-{number}", pairs, hub_id="base", alpha=rank, dtype=torch.float32)
    return read_adapters([str(folder / "*")])


def checkpoints(folder: Path, count: int) -> Sequence[Adapter]:
    """Return the last ``count`` checkpoints of one short run, every second step.

    They are written to ``folder``. The run is that of an adapter of the examples, over fewer steps
    of fewer rows: by its end the loss hardly moves, and the factors still do.
    """
    import torch

    from zoo.bases import find_base, load_base
    from zoo.batching import collate, encode, mean_loss, training_batches
    from zoo.lora import attached, init_factors, write_peft
    from zoo.recipe import read_recipe
    from zoo.tasks import load_task

    recipe = read_recipe(ROOT / "zoo" / "recipes" / "examples.json")
    plan = next(plan for plan in recipe.plans if plan.name == _PLAN)
    model, tokenizer = load_base(recipe.base)
    task = load_task(plan.task, plan.language)
    rows = encode(tokenizer, task.train[: _STEPS * _BATCH], task.instruction)
    factors = init_factors(model, plan.targets, plan.rank, plan.init_seed)
    parameters = [x for pair in factors.values() for x in pair]
    optimiser = torch.optim.AdamW(parameters, lr=plan.lr, weight_decay=0.0)
    hub_id = find_base(recipe.base).hub_id
    batches = training_batches(rows, _BATCH, Random("checkpoints"))
    with attached(model, factors, plan.alpha / plan.rank):
        for step, items in enumerate(batches, 1):
            for group in optimiser.param_groups:
                group["lr"] = plan.lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / _STEPS))
            loss = mean_loss(model, collate(items))
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            if step > _STEPS - _EVERY * count and (_STEPS - step) % _EVERY == 0:
                place = folder / f"step-{step:02}"
                write_peft(place, factors, hub_id=hub_id, alpha=plan.alpha, dtype=torch.float32)
                print(f"  step {step}, loss {loss.item():.4f}", flush=True)
    return read_adapters([str(folder / "*")])
